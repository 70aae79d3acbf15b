#include "native/gate/hints.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <string_view>

#include "native/gate/name.h"
#include "native/gate/text.h"

namespace ipnc::gate {

int Hints::Open() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  // The kernel may otherwise add 50 us to each wait.
  prctl(PR_SET_TIMERSLACK, 1000);
  signals_ = Fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  Fd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const Address hint = HintAddress();
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&hint.address), hint.length) != 0) return errno;
  datagrams_ = std::move(fd);
  return 0;
}

bool Hints::Watch(const char* path) {
  std::string_view folder = path;
  while (folder.size() > 1 && !folder.ends_with('/')) folder.remove_suffix(1);
  Text<PATH_MAX> text;
  text << folder << '\0';
  if (text.view().back() != '\0') return false;
  Fd fd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!fd || inotify_add_watch(fd.get(), text.view().data(), IN_MOVED_TO | IN_CLOSE_WRITE | IN_ONLYDIR) < 0)
    return false;
  files_ = std::move(fd);
  return true;
}

Wake Hints::Wait(int64_t microseconds, bool deaf) {
  // poll(2) passes over a descriptor of -1.
  pollfd polled[] = {
      {signals_.get(), POLLIN, 0}, {deaf ? -1 : datagrams_.get(), POLLIN, 0}, {deaf ? -1 : files_.get(), POLLIN, 0}};
  const timespec limit{.tv_sec = microseconds / 1'000'000, .tv_nsec = microseconds % 1'000'000 * 1000};
  if (ppoll(polled, 3, &limit, nullptr) <= 0) return Wake::kNone;
  if (polled[0].revents) {
    signalfd_siginfo info{};
    if (read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
      signal_ = static_cast<int>(info.ssi_signo);
      return Wake::kSignal;
    }
  }
  // A queue is short; whoever fills it while it is emptied is heard of again.
  constexpr int kMost = 64;
  alignas(inotify_event) char bytes[4096];
  if (polled[2].revents)
    for (int i = 0; i < kMost && read(files_.get(), bytes, sizeof(bytes)) > 0; ++i) continue;
  if (polled[1].revents)
    for (int i = 0; i < kMost && recv(datagrams_.get(), bytes, 0, 0) >= 0; ++i) continue;
  return polled[1].revents ? Wake::kDatagram : polled[2].revents ? Wake::kFile : Wake::kNone;
}

}  // namespace ipnc::gate
