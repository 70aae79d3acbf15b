#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <set>

#include "toolbox.h"

namespace toolbox {
namespace {

struct Failure {
  const char* syscall = nullptr;
  int error = 0;
};

volatile sig_atomic_t stopped = 0;

Failure BringLoUp() {
  const Fd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) return {"socket", errno};
  ifreq request = {};
  strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING;
  if (ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) return {"ioctl", errno};
  return {};
}

Failure Add(const std::string& path, bool lo_up, int home) {
  const Fd file(open(path.c_str(), O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444));
  if (file.get() < 0) return {"open", errno};
  Failure failure;
  if (unshare(CLONE_NEWNET) != 0) {
    failure = {"unshare", errno};
  } else {
    if (lo_up) failure = BringLoUp();
    if (failure.syscall == nullptr && mount("/proc/self/ns/net", path.c_str(), nullptr, MS_BIND, nullptr) != 0) {
      failure = {"mount", errno};
    }
    // Home again, or this process would keep the netns alive after `del`.
    if (setns(home, CLONE_NEWNET) != 0) Fail("setns", "home", errno);
  }
  if (failure.syscall != nullptr) unlink(path.c_str());
  return failure;
}

Failure Delete(const std::string& path) {
  if (umount2(path.c_str(), MNT_DETACH) != 0) return {"umount", errno};
  if (unlink(path.c_str()) != 0) return {"unlink", errno};
  return {};
}

class Farmer {
 public:
  Farmer() : home_(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)) {
    if (home_.get() < 0) Fail("open", "/proc/self/ns/net", errno);
  }
  ~Farmer() {
    for (const std::string& path : made_) Delete(path);
  }

  // The answer to one line.
  std::string Do(const std::string& line) {
    std::string path = line.size() > 4 ? line.substr(4) : "";
    Failure failure;
    if (line.starts_with("add ")) {
      const bool down = path.ends_with(" down");
      if (down) path.resize(path.size() - strlen(" down"));
      failure = Add(path, !down, home_.get());
      if (failure.syscall == nullptr) made_.insert(path);
    } else if (line.starts_with("del ")) {
      failure = Delete(path);
      if (failure.syscall == nullptr) made_.erase(path);
    } else {
      return "error " + line + " parse EINVAL\n";
    }
    if (failure.syscall == nullptr) return "ok " + path + "\n";
    return "error " + path + " " + failure.syscall + " " + ErrnoName(failure.error) + "\n";
  }

 private:
  Fd home_;
  std::set<std::string> made_;
};

bool WriteAll(const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t wrote = write(STDOUT_FILENO, text.data() + done, text.size() - done);
    if (wrote < 0 && errno != EINTR) return false;
    if (wrote > 0) done += static_cast<size_t>(wrote);
  }
  return true;
}

}  // namespace

int Farm(const Arguments& arguments) {
  if (!arguments.empty()) Usage("netns: takes its work from standard input");
  // Without SA_RESTART: a signal ends the read below, and what was made goes the way it goes at the end of input.
  struct sigaction action = {};
  action.sa_handler = [](int) { stopped = 1; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);

  Farmer farmer;
  std::string input;
  char chunk[65536];
  while (stopped == 0) {
    const ssize_t got = read(STDIN_FILENO, chunk, sizeof(chunk));
    if (got <= 0) break;
    input.append(chunk, static_cast<size_t>(got));
    std::string answers;
    size_t begin = 0;
    for (size_t end; (end = input.find('\n', begin)) != std::string::npos; begin = end + 1) {
      answers += farmer.Do(input.substr(begin, end - begin));
    }
    input.erase(0, begin);
    if (!WriteAll(answers)) break;
  }
  return 0;
}

}  // namespace toolbox
