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
//   connect PATH ADDRESS PORT COUNT
//                             COUNT connections, one after the other, to ADDRESS in the netns at PATH; whoever is
//                             redirected to PORT there is accepted, and so is a connection to it
//   reference                 a fixed amount of work: arithmetic, system calls, and waking another thread
//
// and "usage" with the CPU time in microseconds of this process and of the children that have ended, and the largest
// resident sets of both so far, in KiB.
#include <arpa/inet.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
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

// Accepts in another thread until it goes.
class Acceptor {
 public:
  explicit Acceptor(uint16_t port) {
    const int one = 1;
    sockaddr_in any{.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {INADDR_ANY}, .sin_zero = {}};
    Check(setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), "SO_REUSEADDR");
    Check(bind(listener_, reinterpret_cast<sockaddr*>(&any), sizeof(any)), "bind");
    // Nobody waits for it to accept: where the queue is full, the kernel drops a SYN, which comes again after a second.
    Check(listen(listener_, 4096), "listen");
    thread_ = std::thread([this] { Serve(); });
  }
  ~Acceptor() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }

 private:
  void Serve() const {
    for (int fd; (fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) close(fd);
  }

  const int listener_ = Check(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  std::thread thread_;
};

// The time of all connect() calls together: making and closing sockets is not in it.
std::chrono::nanoseconds Connect(const std::string& path, const std::string& address, uint16_t port, int count) {
  std::chrono::nanoseconds took{};
  sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {}, .sin_zero = {}};
  if (inet_pton(AF_INET, address.c_str(), &to.sin_addr) != 1) throw Failure{EINVAL, "not an IPv4 address"};
  // Where nothing redirects, nobody but the acceptor answers.
  Inside(path, [&](int) {
    const Acceptor acceptor(port);
    // A client that resets leaves no TIME_WAIT behind, which would slow the next connections down.
    const linger reset{1, 0};
    for (int i = 0; i < count; i++) {
      const int fd = Check(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
      setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
      const auto start = std::chrono::steady_clock::now();
      const int result = connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to));
      took += std::chrono::steady_clock::now() - start;
      const int error = errno;
      close(fd);
      if (result != 0) throw Failure{error, "connect"};
    }
  });
  return took;
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
      if (words.at(0) == "connect") {
        const auto took =
            Connect(words.at(1), words.at(2), static_cast<uint16_t>(std::stoi(words.at(3))), std::stoi(words.at(4)));
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
