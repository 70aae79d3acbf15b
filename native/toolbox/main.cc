#include <cstdio>
#include <string_view>

#include "toolbox.h"

namespace {

constexpr char kHelp[] = R"(toolbox: what tests, bench and demo need next to a pod, in one static executable

  toolbox serve [ACTOR] [--tcp PORT,...] [--udp PORT,...] [--transparent] [--name NAME]
      Listens on each port in both families. Reads one line and answers one: NAME PORT ORIGINALDST TOKEN.
      What happens is printed as JSON, one object a line. Ends with its parent, or on SIGTERM.
  toolbox dial [ACTOR] [--bind ADDR] [--bind-port PORT] [--timeout MS] tcp|udp|stray ADDR PORT [TOKEN]
      Connects, sends TOKEN, prints {"ok":true,"reply":"..."} or {"ok":false,"error":"ECONNREFUSED"}. stray sends only
      the FIN of a TCP connection that never was: ECONNRESET says that it came through.
  toolbox hint [ACTOR] [--flood MS]
      Sends the datagram that has the gate look, once, or without a pause for that long.
      Prints {"sent":N,"unheard":N,"cpuMs":N}.
  toolbox forge [ACTOR] --port ID [--flood MS]
      Sends answers of rtnetlink to the netlink socket of that number, once, or without a pause for that long.
      Prints {"sent":N,"refused":N,"absent":N}.
  ACTOR is [--netns PATH] [--userns PATH] [--uid U] [--gid G]: where it is done, and by whom as that user namespace
      counts.
  toolbox netns
      Reads lines: `add PATH` makes a network namespace and mounts it there, lo up; `add PATH down` leaves lo down;
      `add-user PATH USERNS` makes one in a new user namespace, whose 0 to 65535 are 100000 to 165535 outside, and
      mounts that one too; `del PATH` removes either. Answers `ok PATH` or `error PATH SYSCALL ERRNO`. What is left
      goes when the input ends.
  toolbox netns LINE...
      Does these lines and leaves what they made, or nothing of it if one fails.
  toolbox deny SPEC... -- COMMAND...
      Runs COMMAND with system calls answered by an errno. SPEC is SYSCALL[:ARG...]=ERRNO, each ARG a number or *;
      for setsockopt and getsockopt they start at the second (level, option): setsockopt:41:64=ENOMEM. With HOLD in the
      place of ERRNO the system call never returns.
)";

}  // namespace

int main(int argc, char** argv) {
  const std::string_view verb = argc > 1 ? argv[1] : "";
  const toolbox::Arguments arguments(argv + (argc > 1 ? 2 : 1), argv + argc);
  if (verb == "serve") return toolbox::Serve(arguments);
  if (verb == "dial") return toolbox::Dial(arguments);
  if (verb == "netns") return toolbox::Farm(arguments);
  if (verb == "deny") return toolbox::Deny(arguments);
  if (verb == "forge") return toolbox::Forge(arguments);
  if (verb == "hint") return toolbox::Hint(arguments);
  const bool asked = verb == "--help" || verb == "help";
  fputs(kHelp, asked ? stdout : stderr);
  return asked ? 0 : 1;
}
