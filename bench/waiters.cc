// Measures programs that wait for rules from the outside: how long after the install they end, and when they first
// check. Reads lines from standard input, and answers each with numbers, or with "error <errno name> <what>":
//
//   template PATH             read both families' nat tables of the netns at PATH, for `open`
//   open PATH WORD US PROGRAM...
//                             PROGRAM as uid 1337 in there until it prints a line; US microseconds later the rules and
//                             ::6/128 on lo, and with `word` (not `mute`) the datagram to the gate. Answers the
//                             nanoseconds from then to PROGRAM's end, those of sending, and PROGRAM's peak memory, KiB
//   first PATH PROGRAM...     nanoseconds from the exec of PROGRAM, as uid 1337 in there, to its dial of
//   127.0.0.6:15002
//
// `waiters poll US` by itself is a waiter that looks each US microseconds.
#include <netinet/in.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <chrono>
#include <fstream>
#include <iostream>
#include <sstream>

#include "bench/floor.h"
#include "native/gate/name.h"
#include "native/gate/probe.h"

namespace {

using namespace bench;

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
    ReplayHere("gate", fd);
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
  // Its end of the pipe closes with it.
  pollfd events[] = {{listener, POLLIN, 0}, {child.out, 0, 0}};
  Check(poll(events, 2, -1), "poll");
  if (events[0].revents == 0) throw Failure{ECHILD, "it ended"};
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

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "poll") return Poll(static_cast<useconds_t>(std::stoul(argv[2])));
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream stream(line);
    std::vector<std::string> words;
    for (std::string word; stream >> word;) words.push_back(word);
    try {
      const std::string& verb = words.at(0);
      std::string answer = "0";
      if (verb == "template")
        Template("gate", words.at(1));
      else if (verb == "open")
        answer = Open(words);
      else if (verb == "first")
        answer = First(words);
      else
        throw Failure{EINVAL, verb};
      std::cout << answer << std::endl;
    } catch (const Failure& failure) {
      std::cout << "error " << strerrorname_np(failure.number) << " " << failure.what << std::endl;
    } catch (const std::exception& failure) {
      std::cout << "error EINVAL " << failure.what() << std::endl;
    }
  }
}
