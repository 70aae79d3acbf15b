#include "native/gate/hints.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <initializer_list>
#include <string_view>

#include "native/gate/name.h"
#include "native/gate/text.h"

namespace ipnc::gate {

namespace {

// Not a real-time signal, because each change would then queue another one, and not a signal that other programs send.
constexpr int kFolderSignal = SIGIO;

Fd SignalFd(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) sigaddset(&set, signal);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  return Fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

}  // namespace

int Hints::Open() {
  // The kernel may otherwise add 50 us to each wait.
  prctl(PR_SET_TIMERSLACK, 1000);
  signals_ = SignalFd({SIGTERM, SIGINT});
  changes_ = SignalFd({kFolderSignal});
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
  // dnotify rather than inotify: a process that has an inotify watch takes milliseconds to end, while the kernel waits
  // for all readers of its marks (fs/notify/mark.c, fsnotify_wait_marks_destroyed).
  Fd fd(open(text.view().data(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || fcntl(fd.get(), F_SETSIG, kFolderSignal) != 0 ||
      fcntl(fd.get(), F_NOTIFY, DN_CREATE | DN_RENAME | DN_MODIFY | DN_MULTISHOT) != 0)
    return false;
  folder_ = std::move(fd);
  return true;
}

Wake Hints::Wait(int64_t microseconds, bool deaf) {
  // poll(2) passes over a descriptor of -1.
  pollfd polled[] = {
      {signals_.get(), POLLIN, 0}, {deaf ? -1 : datagrams_.get(), POLLIN, 0}, {deaf ? -1 : changes_.get(), POLLIN, 0}};
  const timespec limit{.tv_sec = microseconds / 1'000'000, .tv_nsec = microseconds % 1'000'000 * 1000};
  if (ppoll(polled, 3, &limit, nullptr) <= 0) return Wake::kNone;
  signalfd_siginfo info{};
  if (polled[0].revents && read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    signal_ = static_cast<int>(info.ssi_signo);
    return Wake::kSignal;
  }
  // The queue is short. If a sender fills it while it is emptied, the next wait reports that.
  constexpr int kMost = 64;
  if (polled[2].revents)
    for (int i = 0; i < kMost && read(changes_.get(), &info, sizeof(info)) > 0; ++i) continue;
  if (polled[1].revents)
    for (int i = 0; i < kMost && recv(datagrams_.get(), nullptr, 0, 0) >= 0; ++i) continue;
  return polled[1].revents ? Wake::kDatagram : polled[2].revents ? Wake::kFile : Wake::kNone;
}

}  // namespace ipnc::gate
