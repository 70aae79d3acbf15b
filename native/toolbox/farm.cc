#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <set>

#include "toolbox.h"

namespace toolbox {
namespace {

struct Failure {
  const char* syscall = nullptr;
  int error = 0;

  explicit operator bool() const { return syscall != nullptr; }
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

// Mounts a namespace where nothing is yet.
Failure Place(const std::string& ns, const std::string& path) {
  const Fd file(open(path.c_str(), O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444));
  if (file.get() < 0) return {"open", errno};
  if (mount(ns.c_str(), path.c_str(), nullptr, MS_BIND, nullptr) == 0) return {};
  const Failure failure = {"mount", errno};
  unlink(path.c_str());
  return failure;
}

Failure Add(const std::string& path, bool lo_up, int home) {
  if (unshare(CLONE_NEWNET) != 0) return {"unshare", errno};
  Failure failure;
  if (lo_up) failure = BringLoUp();
  if (!failure) failure = Place("/proc/self/ns/net", path);
  // Home again, or this process would keep the netns alive after `del`.
  if (setns(home, CLONE_NEWNET) != 0) Fail("setns", "home", errno);
  return failure;
}

Failure Delete(const std::string& path) {
  if (umount2(path.c_str(), MNT_DETACH) != 0) return {"umount", errno};
  if (unlink(path.c_str()) != 0) return {"unlink", errno};
  return {};
}

Failure Write(const std::string& path, const char* text) {
  const Fd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (file.get() < 0) return {"open", errno};
  if (write(file.get(), text, strlen(text)) < 0) return {"write", errno};
  return {};
}

// A child in new user and network namespaces, which are there for as long as it is.
class Holder {
 public:
  Holder() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) Fail("pipe2", "holder", errno);
    Fd read_end(ends[0]);
    release_ = Fd(ends[1]);
    pid_ = static_cast<pid_t>(syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0));
    error_ = errno;
    if (pid_ != 0) return;
    // Ends with its parent, however that ends.
    close(ends[1]);
    char none;
    while (read(ends[0], &none, 1) < 0) continue;
    _exit(0);
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  ~Holder() {
    if (pid_ < 0) return;
    release_ = Fd();
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) continue;
  }

  Failure failure() const { return pid_ < 0 ? Failure{"clone", error_} : Failure{}; }
  std::string File(const char* name) const { return "/proc/" + std::to_string(pid_) + "/" + name; }

 private:
  Fd release_;
  pid_t pid_ = -1;
  int error_ = 0;
};

Failure BringLoUpIn(const std::string& path, int home) {
  const Fd netns(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (netns.get() < 0) return {"open", errno};
  if (setns(netns.get(), CLONE_NEWNET) != 0) return {"setns", errno};
  const Failure failure = BringLoUp();
  if (setns(home, CLONE_NEWNET) != 0) Fail("setns", "home", errno);
  return failure;
}

// A netns as a pod with `hostUsers: false` has it: its user namespace calls some high uids of ours 0 to 65535.
Failure AddOwned(const std::string& path, const std::string& userns, int home) {
  const Holder holder;
  if (const Failure failure = holder.failure()) return failure;
  for (const char* map : {"uid_map", "gid_map"}) {
    if (const Failure failure = Write(holder.File(map), "0 100000 65536\n")) return failure;
  }
  if (const Failure failure = BringLoUpIn(holder.File("ns/net"), home)) return failure;
  if (const Failure failure = Place(holder.File("ns/net"), path)) return failure;
  const Failure failure = Place(holder.File("ns/user"), userns);
  if (failure) Delete(path);
  return failure;
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
    const size_t space = line.find(' ');
    const std::string verb = line.substr(0, space);
    std::string path = space == std::string::npos ? "" : line.substr(space + 1);
    Failure failure;
    if (verb == "add") {
      const bool down = path.ends_with(" down");
      if (down) path.resize(path.size() - strlen(" down"));
      failure = Add(path, !down, home_.get());
      if (!failure) made_.insert(path);
    } else if (verb == "add-user" && path.find(' ') != std::string::npos) {
      const std::string userns = path.substr(path.find(' ') + 1);
      path.resize(path.find(' '));
      failure = AddOwned(path, userns, home_.get());
      if (!failure) made_.insert({path, userns});
    } else if (verb == "del") {
      failure = Delete(path);
      if (!failure) made_.erase(path);
    } else {
      return "error " + line + " parse EINVAL\n";
    }
    if (!failure) return "ok " + path + "\n";
    return "error " + path + " " + failure.syscall + " " + ErrnoName(failure.error) + "\n";
  }

  // What was made stays when this object goes.
  void Leave() { made_.clear(); }

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
  // Without SA_RESTART: a signal ends the read below, and what was made goes the way it goes at the end of input.
  struct sigaction action = {};
  action.sa_handler = [](int) { stopped = 1; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);

  Farmer farmer;
  for (const std::string& line : arguments) {
    const std::string answer = farmer.Do(line);
    if (!answer.starts_with("error")) continue;
    fprintf(stderr, "toolbox: %s", answer.c_str());
    return 1;
  }
  if (!arguments.empty()) {
    farmer.Leave();
    return 0;
  }
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
