#include <cstdio>
#include <string_view>

#include "toolbox.h"

namespace {

constexpr char kHelp[] = R"(toolbox: what tests, bench and demo need next to a pod, in one static executable

  toolbox serve [--netns PATH] [--uid U] [--gid G] [--tcp PORT,...] [--udp PORT,...] [--transparent] [--name NAME]
      Listens on each port in both families. Reads one line and answers one: NAME PORT ORIGINALDST TOKEN.
      What happens is printed as JSON, one object a line. Ends with its parent, or on SIGTERM.
  toolbox dial [--netns PATH] [--uid U] [--gid G] [--bind ADDR] [--bind-port PORT] [--timeout MS]
               tcp|udp ADDR PORT [TOKEN]
      Connects, sends TOKEN, prints {"ok":true,"reply":"..."} or {"ok":false,"error":"ECONNREFUSED"}.
  toolbox netns
      Reads lines: `add PATH` makes a network namespace and mounts it there, lo up; `add PATH down` leaves lo down;
      `del PATH` removes it. Answers `ok PATH` or `error PATH SYSCALL ERRNO`. What is left goes when the input ends.
  toolbox deny SPEC... -- COMMAND...
      Runs COMMAND with system calls answered by an errno. SPEC is SYSCALL[:ARG...]=ERRNO, each ARG a number or *;
      for setsockopt and getsockopt they start at the second (level, option): setsockopt:41:64=ENOMEM.
)";

}  // namespace

int main(int argc, char** argv) {
  const std::string_view verb = argc > 1 ? argv[1] : "";
  const toolbox::Arguments arguments(argv + (argc > 1 ? 2 : 1), argv + argc);
  if (verb == "serve") return toolbox::Serve(arguments);
  if (verb == "dial") return toolbox::Dial(arguments);
  if (verb == "netns") return toolbox::Farm(arguments);
  if (verb == "deny") return toolbox::Deny(arguments);
  const bool asked = verb == "--help" || verb == "help";
  fputs(kHelp, asked ? stdout : stderr);
  return asked ? 0 : 1;
}
