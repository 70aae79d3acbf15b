// The other ways to install the same rules, timed from C++ so that no JavaScript is on their bill. Reads lines from
// standard input, answers each with the nanoseconds it took, or "error <errno name> <what>":
//
//   template NAME PATH        read both families' nat tables of the netns at PATH, for `replay`
//   replay NAME PATH          the floor: open, setns, one socket, one setsockopt a family, home again; nothing else
//   replay+address NAME PATH  the same and ::6/128 on lo by rtnetlink, without which IPv6 is not whole
//   read NAME PATH            read the nftables tables of the netns at PATH as a batch that makes them, for `send`
//   send NAME PATH            the floor of nftables: open, setns, one socket, one send and its answer, home again
//   send+address NAME PATH    the same and ::6/128 on lo
//   restore PATH FORM V4 V6   nsenter + iptables-FORM-restore, then ip6tables-FORM-restore, of the files V4 and V6;
//   FORM
//                             is legacy or nft
//   nft PATH FILE             nsenter + nft -f FILE
//   script PATH FILE          nsenter + sh FILE
//   inside PATH COMMAND...    nsenter + COMMAND
//   run COMMAND...            COMMAND by itself
//   exchange WHAT CLIENT UID ADDRESS PORT SERVER SERVER-PORT COUNT
//                             COUNT exchanges of a client of UID in the netns at CLIENT with ADDRESS and PORT; the
//                             server listens on SERVER-PORT in the netns at SERVER. WHAT is
//                             connect: a new TCP connection, without making and closing the sockets
//                             query: a datagram and its answer, with a new socket
//                             trip: a byte there and back on one TCP connection
//                             The answer is the median of the exchanges.
//   reference                 a fixed amount of work: arithmetic, system calls, and waking another thread
//
// and "usage" with the CPU time in microseconds of this process and of the children that have ended, and the largest
// resident sets of both so far, in KiB.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

#include "bench/floor.h"
#include "native/error.h"
#include "native/nftables/channel.h"
#include "native/nftables/message.h"

extern char** environ;

namespace {

using namespace bench;

void Replay(const std::string& name, const std::string& path, bool with_address) {
  Inside(path, [&name, with_address](int fd) {
    ReplayHere(name, fd);
    if (with_address) AddAddress();
  });
}

std::map<std::string, ipnc::nftables::Batch> batches;

void ReadTables(const std::string& name, const std::string& path) {
  Inside(path, [&name](int) {
    const ipnc::Fd fd = ipnc::netlink::Open(NETLINK_NETFILTER);
    ipnc::Budget budget;
    ipnc::nftables::Channel channel(fd.get(), budget);
    const auto state = ipnc::nftables::ReadState(channel);
    ipnc::nftables::Writer writer;
    writer.BeginBatch(std::nullopt);
    for (const auto& dump : state.value().dumps) ipnc::nftables::PutRecreation(writer, dump);
    batches[name] = writer.EndBatch();
  });
}

void SendBatch(const std::string& name, const std::string& path, bool with_address) {
  const ipnc::nftables::Batch& batch = batches.at(name);
  const int netns = Check(open(path.c_str(), O_RDONLY | O_CLOEXEC), "open");
  Check(setns(netns, CLONE_NEWNET), "setns");
  const int fd = Check(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER), "socket");
  Check(static_cast<int>(send(fd, batch.bytes.data(), batch.bytes.size(), 0)), "send");
  struct {
    nlmsghdr header;
    nlmsgerr error;
    char rest[1024];
  } answer{};
  Check(static_cast<int>(recv(fd, &answer, sizeof(answer), 0)), "recv");
  if (with_address) AddAddress();
  close(fd);
  Check(setns(home, CLONE_NEWNET), "setns");
  close(netns);
  if (answer.error.error != 0) throw Failure{-answer.error.error, "batch"};
}

void Run(std::vector<std::string> command, const char* input) {
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, input, O_RDONLY, 0);
  // Answers are written to ours.
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  pid_t pid;
  const int error = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw Failure{error, "posix_spawn " + command[0]};
  int status;
  Check(waitpid(pid, &status, 0), "waitpid");
  if (status == 0) return;
  std::string what;
  for (const std::string& word : command) what += word + " ";
  throw Failure{ECHILD, what + "ended with " + std::to_string(WIFEXITED(status) ? WEXITSTATUS(status) : status)};
}

void RunInside(const std::string& netns, std::vector<std::string> command, const char* input = "/dev/null") {
  command.insert(command.begin(), {"nsenter", "--net=" + netns});
  Run(std::move(command), input);
}

// Wakes and is woken, as an install does that another thread carries out.
class Partner {
 public:
  Partner() : thread_([this] { Serve(); }) {}
  ~Partner() {
    over_ = true;
    Ring(there_);
    thread_.join();
    close(there_);
    close(back_);
  }
  void Visit() {
    Ring(there_);
    Hear(back_);
  }

 private:
  static void Ring(int fd) { Check(eventfd_write(fd, 1), "eventfd_write"); }
  static void Hear(int fd) {
    eventfd_t value;
    Check(eventfd_read(fd, &value), "eventfd_read");
  }
  void Serve() {
    for (Hear(there_); !over_; Hear(there_)) Ring(back_);
  }

  const int there_ = eventfd(0, EFD_CLOEXEC), back_ = eventfd(0, EFD_CLOEXEC);
  std::atomic<bool> over_ = false;
  std::thread thread_;
};

volatile uint64_t spun;

void Reference() {
  static Partner partner;
  uint64_t value = 88172645463325252ULL;
  for (int i = 0; i < 20'000; i++) {
    value ^= value << 13;
    value ^= value >> 7;
    value ^= value << 17;
  }
  spun = value;
  for (int i = 0; i < 10; i++) {
    const int fd = Check(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
    const int one = 1;
    Check(setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, &one, sizeof(one)), "setsockopt");
    close(fd);
  }
  partner.Visit();
}

// Of this process since its start. ru_maxrss of a process also counts what stood there before exec.
long LargestResidentSet() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stol(line.substr(std::strlen("VmHWM:")));
  }
  return 0;
}

void PrintUsage() {
  rusage self, children;
  Check(getrusage(RUSAGE_SELF, &self), "getrusage");
  Check(getrusage(RUSAGE_CHILDREN, &children), "getrusage");
  int64_t microseconds = 0;
  for (const timeval& part : {self.ru_utime, self.ru_stime, children.ru_utime, children.ru_stime})
    microseconds += int64_t{1'000'000} * part.tv_sec + part.tv_usec;
  std::cout << microseconds << " " << LargestResidentSet() << " " << children.ru_maxrss << std::endl;
}

// One end of an exchange.
struct End {
  std::string netns;
  uid_t uid;
};

// The rules ask for the uid with which a socket was made. This thread alone gets it.
class As {
 public:
  explicit As(uid_t uid) : before_(static_cast<uid_t>(setfsuid(uid))) {
    if (static_cast<uid_t>(setfsuid(uid)) != uid) throw Failure{EPERM, "setfsuid"};
  }
  ~As() { setfsuid(before_); }

 private:
  const uid_t before_;
};

class Visit {
 public:
  explicit Visit(const std::string& path) {
    const ipnc::Fd netns(Check(open(path.c_str(), O_RDONLY | O_CLOEXEC), "open"));
    Check(setns(netns.get(), CLONE_NEWNET), "setns");
  }
  // In a foreign namespace nothing could go on.
  ~Visit() {
    if (setns(home, CLONE_NEWNET) != 0) std::abort();
  }
};

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

Address AddressOf(const std::string& text, uint16_t port) {
  Address address;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (inet_pton(AF_INET, text.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    address.length = sizeof(*v4);
  } else if (inet_pton(AF_INET6, text.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    address.length = sizeof(*v6);
  } else {
    throw Failure{EINVAL, text + " is no address"};
  }
  return address;
}

constexpr uid_t kProxy = 1337;

ipnc::Fd SocketOf(int family, int type) {
  return ipnc::Fd(Check(socket(family, type | SOCK_CLOEXEC, 0), "socket"));
}

// As the proxy's and its agent's: TCP on every address, transparent for TPROXY; UDP on the loopback address.
ipnc::Fd Listen(const std::string& netns, int family, int type, uint16_t port) {
  const Visit visit(netns);
  const As as(kProxy);
  ipnc::Fd fd = SocketOf(family, type);
  const int one = 1;
  const bool v6 = family == AF_INET6;
  Check(setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), "SO_REUSEADDR");
  if (v6) Check(setsockopt(fd.get(), SOL_IPV6, IPV6_V6ONLY, &one, sizeof(one)), "IPV6_V6ONLY");
  if (type == SOCK_STREAM)
    Check(setsockopt(fd.get(), v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, &one, sizeof(one)),
          "IP_TRANSPARENT");
  Address any = AddressOf(type == SOCK_STREAM ? (v6 ? "::" : "0.0.0.0") : (v6 ? "::1" : "127.0.0.1"), port);
  Check(bind(fd.get(), any.get(), any.length), "bind");
  if (type == SOCK_STREAM) Check(listen(fd.get(), 128), "listen");
  return fd;
}

// Whoever is at neither end in time is not there: the rules lead elsewhere.
void SetTimeout(int fd) {
  const timeval limit{.tv_sec = 2, .tv_usec = 0};
  Check(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), "SO_RCVTIMEO");
  Check(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)), "SO_SNDTIMEO");
}

// A client that resets leaves no TIME_WAIT behind, which would slow the next connections down.
void SetReset(int fd) {
  const linger reset{1, 0};
  Check(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), "SO_LINGER");
}

ipnc::Fd Accept(int listener) {
  return ipnc::Fd(Check(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC), "accept"));
}

// The median. All in one thread, so that no other one is waited for: the kernel completes a connection before anybody
// accepts it.
std::chrono::nanoseconds Exchange(const std::string& what, const End& client, Address to, const std::string& server,
                                  uint16_t port, int count) {
  using Clock = std::chrono::steady_clock;
  const int family = to.storage.ss_family;
  const bool query = what == "query";
  if (!query && what != "connect" && what != "trip") throw Failure{EINVAL, what};
  if (count < 1) throw Failure{EINVAL, "COUNT"};
  const int type = query ? SOCK_DGRAM : SOCK_STREAM;
  const ipnc::Fd listener = Listen(server, family, type, port);
  SetTimeout(listener.get());
  const Visit visit(client.netns);
  const As as(client.uid);
  std::vector<std::chrono::nanoseconds> took;
  took.reserve(static_cast<size_t>(count));
  char byte = 0;
  const auto timed = [&took](auto exchange) {
    const auto start = Clock::now();
    exchange();
    took.push_back(Clock::now() - start);
  };
  const auto dial = [&](int fd) { Check(connect(fd, to.get(), to.length), "connect"); };
  const auto pass = [&byte](int from, int there) {
    Check(static_cast<int>(send(from, &byte, 1, 0)), "send");
    Check(static_cast<int>(recv(there, &byte, 1, 0)), "recv");
  };
  if (what == "connect") {
    for (int i = 0; i < count; ++i) {
      const ipnc::Fd fd = SocketOf(family, type);
      SetReset(fd.get());
      SetTimeout(fd.get());
      timed([&] { dial(fd.get()); });
      Accept(listener.get());
    }
  } else if (query) {
    for (int i = 0; i < count; ++i) {
      timed([&] {
        const ipnc::Fd fd = SocketOf(family, type);
        SetTimeout(fd.get());
        dial(fd.get());
        Check(static_cast<int>(send(fd.get(), &byte, 1, 0)), "send");
        Address from;
        from.length = sizeof(from.storage);
        Check(static_cast<int>(recvfrom(listener.get(), &byte, 1, 0, from.get(), &from.length)), "recvfrom");
        Check(static_cast<int>(sendto(listener.get(), &byte, 1, 0, from.get(), from.length)), "sendto");
        Check(static_cast<int>(recv(fd.get(), &byte, 1, 0)), "recv");
      });
    }
  } else {
    const ipnc::Fd fd = SocketOf(family, type);
    SetReset(fd.get());
    SetTimeout(fd.get());
    dial(fd.get());
    const ipnc::Fd other = Accept(listener.get());
    SetTimeout(other.get());
    const int one = 1;
    for (const int end : {fd.get(), other.get()})
      Check(setsockopt(end, SOL_TCP, TCP_NODELAY, &one, sizeof(one)), "TCP_NODELAY");
    for (int i = 0; i < count; ++i) {
      timed([&] {
        pass(fd.get(), other.get());
        pass(other.get(), fd.get());
      });
    }
  }
  const auto middle = took.begin() + count / 2;
  std::nth_element(took.begin(), middle, took.end());
  return *middle;
}

void Do(const std::vector<std::string>& words) {
  const auto rest = [&words](size_t from) { return std::vector(words.begin() + from, words.end()); };
  if (words.at(0) == "template") return Template(words.at(1), words.at(2));
  if (words.at(0) == "replay") return Replay(words.at(1), words.at(2), false);
  if (words.at(0) == "replay+address") return Replay(words.at(1), words.at(2), true);
  if (words.at(0) == "read") return ReadTables(words.at(1), words.at(2));
  if (words.at(0) == "send") return SendBatch(words.at(1), words.at(2), false);
  if (words.at(0) == "send+address") return SendBatch(words.at(1), words.at(2), true);
  if (words.at(0) == "restore") {
    const std::string form = words.at(2);
    RunInside(words.at(1), {"iptables-" + form + "-restore", "--noflush"}, words.at(3).c_str());
    return RunInside(words.at(1), {"ip6tables-" + form + "-restore", "--noflush"}, words.at(4).c_str());
  }
  if (words.at(0) == "nft") return RunInside(words.at(1), {"nft", "-f", words.at(2)});
  if (words.at(0) == "script") return RunInside(words.at(1), {"sh", "-e", words.at(2)});
  if (words.at(0) == "inside" && words.size() > 2) return RunInside(words.at(1), rest(2));
  if (words.at(0) == "run" && words.size() > 1) return Run(rest(1), "/dev/null");
  if (words.at(0) == "reference") return Reference();
  throw Failure{EINVAL, words.at(0)};
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream stream(line);
    std::vector<std::string> words;
    for (std::string word; stream >> word;) words.push_back(word);
    try {
      if (words.at(0) == "usage") {
        PrintUsage();
        continue;
      }
      if (words.at(0) == "exchange") {
        const auto number = [&words](size_t at) { return std::stoi(words.at(at)); };
        const auto port = [&number](size_t at) { return static_cast<uint16_t>(number(at)); };
        const auto took = Exchange(words.at(1), {words.at(2), static_cast<uid_t>(number(3))},
                                   AddressOf(words.at(4), port(5)), words.at(6), port(7), number(8));
        std::cout << took.count() << std::endl;
        continue;
      }
      const auto start = std::chrono::steady_clock::now();
      Do(words);
      const auto took = std::chrono::steady_clock::now() - start;
      std::cout << std::chrono::nanoseconds(took).count() << std::endl;
    } catch (const Failure& failure) {
      std::cout << "error " << strerrorname_np(failure.number) << " " << failure.what << std::endl;
    } catch (const ipnc::Error& error) {
      std::cout << "error " << error.number << " " << error.syscall << " " << error.detail << std::endl;
    } catch (const std::exception& failure) {
      std::cout << "error EINVAL " << failure.what() << std::endl;
    }
  }
}
