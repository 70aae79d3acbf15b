// The other ways to install the same rules, timed from C++ so that no JavaScript is on their bill. Reads lines from
// standard input, answers each with the nanoseconds it took, or "error <errno name> <what>":
//
//   template PATH             read both families' nat tables of the netns at PATH, for `replay`
//   replay PATH               the floor: open, setns, one socket, one setsockopt a family, home again; nothing else
//   replay+address PATH       the same and ::6/128 on lo by rtnetlink, without which IPv6 is not whole
//   read NAME PATH            read the nftables tables of the netns at PATH as a batch that makes them, for `send`
//   send NAME PATH            the floor of nftables: open, setns, one socket, one send and its answer, home again
//   send+address NAME PATH    the same and ::6/128 on lo
//   open PATH WORD US PROGRAM...
//                             PROGRAM as uid 1337 in there until it prints a line; US microseconds later what
//                             `replay+address` does, and with `word` (not `mute`) the datagram to the gate. Answers
//                             the time from then to PROGRAM's end, that of sending, and PROGRAM's peak memory, KiB
//   first PATH PROGRAM...     from the exec of PROGRAM, as uid 1337 in there, to its dial of 127.0.0.6:15002
//   restore PATH FORM V4 V6   nsenter + iptables-FORM-restore, then ip6tables-FORM-restore, of the files V4 and V6;
//   FORM
//                             is legacy or nft
//   nft PATH FILE             nsenter + nft -f FILE
//   script PATH FILE          nsenter + sh FILE
#include <net/if.h>
#include <netinet/in.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/if_addr.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "native/error.h"
#include "native/gate/name.h"
#include "native/gate/probe.h"
#include "native/nftables/channel.h"
#include "native/nftables/message.h"

extern char** environ;

namespace {

struct Failure {
  int number;
  std::string what;
};

int Check(int result, const char* what) {
  if (result < 0) throw Failure{errno, what};
  return result;
}

const int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

// Runs `body` in the netns at `path`.
template <typename Body>
void Inside(const std::string& path, Body body) {
  const int netns = Check(open(path.c_str(), O_RDONLY | O_CLOEXEC), "open");
  Check(setns(netns, CLONE_NEWNET), "setns");
  const int fd = Check(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
  body(fd);
  close(fd);
  Check(setns(home, CLONE_NEWNET), "setns");
  close(netns);
}

xt_counters discarded[8];

template <typename Replace, typename Info, typename GetEntries>
std::vector<char> ReadNat(int fd, int level) {
  Info info{};
  std::strcpy(info.name, "nat");
  socklen_t length = sizeof(info);
  Check(getsockopt(fd, level, IPT_SO_GET_INFO, &info, &length), "SO_GET_INFO");
  std::vector<char> entries(sizeof(GetEntries) + info.size);
  std::strcpy(entries.data(), "nat");
  reinterpret_cast<GetEntries*>(entries.data())->size = info.size;
  length = static_cast<socklen_t>(entries.size());
  Check(getsockopt(fd, level, IPT_SO_GET_ENTRIES, entries.data(), &length), "SO_GET_ENTRIES");
  Replace replace{};
  std::strcpy(replace.name, "nat");
  replace.valid_hooks = info.valid_hooks;
  replace.num_entries = info.num_entries;
  replace.size = info.size;
  std::memcpy(replace.hook_entry, info.hook_entry, sizeof(info.hook_entry));
  std::memcpy(replace.underflow, info.underflow, sizeof(info.underflow));
  replace.num_counters = 5;  // a pristine nat table
  replace.counters = discarded;
  std::vector<char> blob(sizeof(replace) + info.size);
  std::memcpy(blob.data(), &replace, sizeof(replace));
  std::memcpy(blob.data() + sizeof(replace), entries.data() + sizeof(GetEntries), info.size);
  return blob;
}

std::vector<char> v4, v6;

void Template(const std::string& path) {
  Inside(path, [](int fd) {
    v4 = ReadNat<ipt_replace, ipt_getinfo, ipt_get_entries>(fd, SOL_IP);
    v6 = ReadNat<ip6t_replace, ip6t_getinfo, ip6t_get_entries>(fd, SOL_IPV6);
  });
}

// What native/route.cc sends, in bytes.
void AddAddress() {
  struct {
    nlmsghdr header;
    ifaddrmsg address;
    rtattr local;
    in6_addr value;
    rtattr flags;
    uint32_t flag_bits;
  } request{
      .header = {.nlmsg_len = sizeof(request),
                 .nlmsg_type = RTM_NEWADDR,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
                 .nlmsg_seq = 1,
                 .nlmsg_pid = 0},
      .address = {.ifa_family = AF_INET6, .ifa_prefixlen = 128, .ifa_flags = 0, .ifa_scope = 0, .ifa_index = 1},
      .local = {.rta_len = RTA_LENGTH(sizeof(in6_addr)), .rta_type = IFA_LOCAL},
      .value = {{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6}}},
      .flags = {.rta_len = RTA_LENGTH(sizeof(uint32_t)), .rta_type = IFA_FLAGS},
      .flag_bits = IFA_F_NODAD | IFA_F_NOPREFIXROUTE,
  };
  struct {
    nlmsghdr header;
    nlmsgerr error;
    char rest[512];
  } answer{};
  const int fd = Check(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), "socket");
  Check(static_cast<int>(send(fd, &request, sizeof(request), 0)), "send");
  Check(static_cast<int>(recv(fd, &answer, sizeof(answer), 0)), "recv");
  close(fd);
  if (answer.error.error != 0) throw Failure{-answer.error.error, "address"};
}

void ReplayHere(int fd) {
  Check(setsockopt(fd, SOL_IP, IPT_SO_SET_REPLACE, v4.data(), static_cast<socklen_t>(v4.size())), "v4");
  Check(setsockopt(fd, SOL_IPV6, IP6T_SO_SET_REPLACE, v6.data(), static_cast<socklen_t>(v6.size())), "v6");
}

void Replay(const std::string& path, bool with_address) {
  Inside(path, [with_address](int fd) {
    ReplayHere(fd);
    if (with_address) AddAddress();
  });
}

std::map<std::string, ipnc::nftables::Batch> batches;

void ReadTables(const std::string& name, const std::string& path) {
  Inside(path, [&name](int) {
    const int fd = Check(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER), "socket");
    ipnc::nftables::Channel channel(fd);
    const auto state = ipnc::nftables::ReadState(channel);
    ipnc::nftables::Writer writer;
    writer.BeginBatch(std::nullopt);
    for (const auto& dump : state.value().dumps) ipnc::nftables::PutAgain(writer, dump);
    batches[name] = writer.EndBatch();
    close(fd);
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

void Run(const std::string& netns, std::vector<std::string> command, const char* input) {
  command.insert(command.begin(), {"nsenter", "--net=" + netns});
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, input, O_RDONLY, 0);
  pid_t pid;
  const int error = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw Failure{error, "posix_spawn"};
  int status;
  Check(waitpid(pid, &status, 0), "waitpid");
  if (status != 0) throw Failure{ECHILD, command[2]};
}

int64_t Now() {
  return std::chrono::steady_clock::now().time_since_epoch().count();
}

// A program as the proxy's uid in a netns; what it prints can be read from `out`.
struct Child {
  Child(const std::string& path, const std::vector<std::string>& words) {
    int ends[2];
    Check(pipe2(ends, O_CLOEXEC), "pipe2");
    pid = Check(fork(), "fork");
    if (pid == 0) {
      const int netns = open(path.c_str(), O_RDONLY | O_CLOEXEC);
      std::vector<char*> argv;
      for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
      argv.push_back(nullptr);
      if (setns(netns, CLONE_NEWNET) != 0 || setgroups(0, nullptr) != 0 || setresgid(1337, 1337, 1337) != 0 ||
          setresuid(1337, 1337, 1337) != 0 || dup2(ends[1], STDOUT_FILENO) < 0)
        _exit(126);
      *started = Now();
      execv(argv[0], argv.data());
      _exit(127);
    }
    out = ends[0];
    close(ends[1]);
  }
  ~Child() {
    close(out);
    if (pid == 0) return;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  void AwaitLine() const {
    for (char byte = 0; byte != '\n';)
      if (read(out, &byte, 1) != 1) throw Failure{ECHILD, "it ended"};
  }
  void AwaitEnd() {
    int status;
    Check(waitpid(pid, &status, 0), "waitpid");
    pid = 0;
    if (status != 0) throw Failure{ECHILD, "it failed"};
  }
  std::string PeakMemory() const {
    std::ifstream status("/proc/" + std::to_string(pid) + "/status");
    for (std::string word; status >> word;)
      if (word == "VmHWM:" && status >> word) return word;
    throw Failure{ESRCH, "VmHWM"};
  }

  pid_t pid;
  int out;
  // Shared with each child.
  static int64_t* const started;
};
int64_t* const Child::started =
    static_cast<int64_t*>(mmap(nullptr, sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));

std::string Open(const std::vector<std::string>& words) {
  Child child(words.at(1), {words.begin() + 4, words.end()});
  child.AwaitLine();
  usleep(static_cast<useconds_t>(std::stoul(words.at(3))));
  const std::string memory = child.PeakMemory();
  int64_t active = 0, sent = 0;
  Inside(words.at(1), [&](int fd) {
    const int word = Check(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
    const ipnc::gate::Address hint = ipnc::gate::HintAddress();
    ReplayHere(fd);
    AddAddress();
    active = Now();
    if (words.at(2) == "word")
      sendto(word, "", 0, MSG_DONTWAIT, reinterpret_cast<const sockaddr*>(&hint.address), hint.length);
    sent = Now();
    close(word);
  });
  child.AwaitEnd();
  return std::to_string(Now() - active) + " " + std::to_string(sent - active) + " " + memory;
}

std::string First(const std::vector<std::string>& words) {
  int listener = -1;
  Inside(words.at(1), [&](int) {
    listener = Check(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(15002);
    address.sin_addr.s_addr = htonl(0x7f000006);
    Check(bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), "bind");
    Check(listen(listener, 8), "listen");
  });
  const Child child(words.at(1), {words.begin() + 2, words.end()});
  const int accepted = Check(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC), "accept");
  const int64_t took = Now() - *Child::started;
  close(accepted);
  close(listener);
  return std::to_string(took);
}

// Looks as the gate does, each `us` microseconds, and hears no word.
int Poll(useconds_t us) {
  ipnc::gate::Prober prober(15006, 15002);
  for (bool first = true; !prober.Probe({.v4 = true, .v6 = true}, 0x7f000006).captured(); first = false) {
    if (first) std::cout << "waiting" << std::endl;
    usleep(us);
  }
  return 0;
}

void Do(const std::vector<std::string>& words) {
  if (words.at(0) == "template") return Template(words.at(1));
  if (words.at(0) == "replay") return Replay(words.at(1), false);
  if (words.at(0) == "replay+address") return Replay(words.at(1), true);
  if (words.at(0) == "read") return ReadTables(words.at(1), words.at(2));
  if (words.at(0) == "send") return SendBatch(words.at(1), words.at(2), false);
  if (words.at(0) == "send+address") return SendBatch(words.at(1), words.at(2), true);
  if (words.at(0) == "restore") {
    const std::string form = words.at(2);
    Run(words.at(1), {"iptables-" + form + "-restore", "--noflush"}, words.at(3).c_str());
    return Run(words.at(1), {"ip6tables-" + form + "-restore", "--noflush"}, words.at(4).c_str());
  }
  if (words.at(0) == "nft") return Run(words.at(1), {"nft", "-f", words.at(2)}, "/dev/null");
  if (words.at(0) == "script") return Run(words.at(1), {"sh", "-e", words.at(2)}, "/dev/null");
  throw Failure{EINVAL, words.at(0)};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "poll") return Poll(static_cast<useconds_t>(std::stoul(argv[2])));
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream stream(line);
    std::vector<std::string> words;
    for (std::string word; stream >> word;) words.push_back(word);
    try {
      if (words.at(0) == "open" || words.at(0) == "first") {
        std::cout << (words.at(0) == "open" ? Open(words) : First(words)) << std::endl;
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
