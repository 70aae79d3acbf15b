// pod-network-gate: waits until the redirect rules of the pod that it runs in are real, then ends.
#include <fcntl.h>
#include <signal.h>

#include "native/gate/gate.h"

namespace {

using namespace ipnc::gate;

void Write(int fd, std::string_view text) {
  [[maybe_unused]] const ssize_t wrote = write(fd, text.data(), text.size());
}

// The line goes where `kubectl logs` finds it, and where `kubectl describe` does: the kubelet has made that file.
[[noreturn]] void End(const Options& options, int code, Line line, int to = STDOUT_FILENO) {
  const int log = open(options.termination_log, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (log >= 0) Write(log, line.view());
  line << '\n';
  Write(to, line.view());
  _exit(code);
}

}  // namespace

int main(int, char** words, char** environment) {
  // Whoever reads us may have had enough.
  signal(SIGPIPE, SIG_IGN);
  Options options;
  Refusal refusal;
  if (!ReadOptions(words[0] ? words + 1 : words, environment, options, refusal))
    End(options, static_cast<int>(refusal.code), refusal.message, STDERR_FILENO);
  if (options.help) {
    Write(STDOUT_FILENO, kHelp);
    _exit(0);
  }
  const Ending ending = Gate(options).Run();
  End(options, ending.code, ending.line);
}
