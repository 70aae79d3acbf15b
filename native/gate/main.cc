// pod-network-gate: waits until the redirect rules of the pod that it runs in are active. Then it ends, or becomes the
// proxy.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

#include <iterator>

#include "native/gate/gate.h"
#include "native/gate/ready.h"

namespace {

using namespace ipnc::gate;

// Istio's injector mounts the annotations here in the proxy's container.
constexpr char kIstioAnnotations[] = "/etc/istio/pod/annotations";

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

// A gate that is stopped before it becomes the proxy is a container that runs without rules, which a kubelet that is
// restarted meanwhile takes for a started sidecar. Nothing in a stopped process can act, but the kernel can for it:
// SIGCONT continues a stopped process when it is sent, even the first one of a PID namespace, which ignores a SIGKILL
// of its own. A SIGSTOP takes a SIGCONT away that was sent and not yet handled, and its timer with it. The longer
// timers are then still set, since each handled SIGCONT sets all of them again. The timers and the handler end when the
// program is executed.
constexpr int64_t kContinueAfterNs[] = {20'000'000, 200'000'000, 999'000'000};
timer_t continue_timers[std::size(kContinueAfterNs)];
size_t continue_timers_made = 0;

void SetTimers() {
  for (size_t i = 0; i < continue_timers_made; ++i) {
    itimerspec once{};
    once.it_value.tv_nsec = kContinueAfterNs[i];
    timer_settime(continue_timers[i], 0, &once, nullptr);
  }
}

void KeepRunning() {
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGCONT;
  for (timer_t& timer : continue_timers) {
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) break;
    ++continue_timers_made;
  }
  struct sigaction action {};
  action.sa_handler = [](int) {
    const int error = errno;
    SetTimers();
    errno = error;
  };
  action.sa_flags = SA_RESTART;
  sigaction(SIGCONT, &action, nullptr);
  SetTimers();
}

// The program gets the process as the kubelet started it: no signal blocked or ignored, the usual timers. Every
// descriptor of ours is closed by the kernel.
[[noreturn]] void Become(const Options& options, Line line, char** environment) {
  line << '\n';
  Write(STDOUT_FILENO, line.view());
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  prctl(PR_SET_TIMERSLACK, 0);
  execve(options.program[0], const_cast<char* const*>(options.program), environment);
  const char* error = strerrorname_np(errno);
  Line failed;
  failed << Quoted(options.program[0]) << " cannot be run (" << (error ? error : "unknown error")
         << "); expected a program of this container's image after \"--\"";
  End(options, static_cast<int>(Exit::kConfiguration), failed, STDERR_FILENO);
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
  if (options.ready_port != 0) {
    const Ending ending = AwaitReady(options);
    // The termination log is the proxy's, in whose container the hook runs.
    Line line = ending.line;
    line << '\n';
    Write(STDOUT_FILENO, line.view());
    _exit(ending.code);
  }
  if (options.program) KeepRunning();
  if (!options.annotations_named && access(options.annotations, F_OK) != 0) options.annotations = kIstioAnnotations;
  const Ending ending = Gate(options).Run();
  if (ending.code == static_cast<int>(Exit::kOpen) && options.program) Become(options, ending.line, environment);
  End(options, ending.code, ending.line);
}
