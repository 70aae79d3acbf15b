#include "native/netns.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/netlink.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "native/error.h"
#include "native/netlink/channel.h"

#ifndef SO_NETNS_COOKIE  // asm-generic/socket.h, Linux 5.14
#define SO_NETNS_COOKIE 71
#endif

namespace ipnc {
namespace {

void RequireNetns(bool yes, const std::string& path) {
  if (!yes) throw Error{.code = kNotNetns, .detail = "not a network namespace", .path = path};
}

Fd Open(const std::string& path, bool known) {
  struct statfs fs;
  if (!known) {  // examined before it is opened, because to open a device can have effects
    if (statfs(path.c_str(), &fs) != 0) throw Error{.number = errno, .syscall = "open", .path = path};
    RequireNetns(fs.f_type == NSFS_MAGIC, path);
  }
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) throw Error{.number = errno, .syscall = "open", .path = path};
  if (fstatfs(fd.get(), &fs) != 0) throw Error{.number = errno, .syscall = "fstatfs", .path = path};
  RequireNetns(fs.f_type == NSFS_MAGIC && ioctl(fd.get(), NS_GET_NSTYPE) == CLONE_NEWNET, path);
  return fd;
}

// Allows one writer for each netns among all processes of this project; within a process the queue does so. Other tools
// do not use this lock; EAGAIN handles them. Any process of the pod can take the lock and keep it, so after 20 ms, the
// time of several installs, the job continues without it.
void Lock(const Fd& fd, const std::string& path, const Budget& budget) {
  constexpr std::chrono::microseconds kPause(500);
  constexpr int kAttempts = 40;
  for (int attempt = 0; attempt < kAttempts && flock(fd.get(), LOCK_EX | LOCK_NB) != 0; ++attempt) {
    if (errno != EWOULDBLOCK && errno != EINTR) throw Error{.number = errno, .syscall = "flock", .path = path};
    budget.Pause(kPause);
  }
}

}  // namespace

Home::Home() : fd_(Check(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), "open(/proc/thread-self/ns/net)")) {
  struct stat st;
  Check(fstat(fd_.get(), &st), "fstat");
  own_ = {.dev = st.st_dev, .ino = st.st_ino};
  if (stat("/proc/1/ns/net", &st) == 0) init_ = {.dev = st.st_dev, .ino = st.st_ino};
  Check(stat("/proc/thread-self/ns/user", &st), "stat(/proc/thread-self/ns/user)");
  user_ = st.st_ino;
}

Visit::Visit(Home& home, const std::string& path, const NetnsIdentity* expected, Purpose purpose)
    : home_(home), fd_(Open(path, expected != nullptr)) {
  struct stat st;
  if (fstat(fd_.get(), &st) != 0) throw Error{.number = errno, .syscall = "fstat", .path = path};
  identity_.dev = st.st_dev;
  identity_.ino = st.st_ino;
  const auto require_pods = [&path](bool hosts) {
    if (hosts)
      throw Error{.code = kHostNetns, .detail = "this is the namespace of the host, not of a pod", .path = path};
  };
  require_pods(identity_.SameFile(home.own_) || identity_.SameFile(home.init_) || identity_.IsInitial());
  const auto stale = [&path] {
    throw Error{.number = ESTALE,
                .syscall = "setns",
                .detail = "the namespace at this path is not the one that was identified",
                .path = path};
  };
  if (expected && !expected->SameFile(identity_)) stale();
  if (purpose == Purpose::kWrite) Lock(fd_, path, budget_);
  if (setns(fd_.get(), CLONE_NEWNET) != 0) throw Error{.number = errno, .syscall = "setns", .path = path};
  try {
    Arrive();
    require_pods(identity_.IsInitial());  // on older kernels only its cookie shows it
    if (expected && expected->cookie != identity_.cookie) stale();
  } catch (Error& error) {
    Leave();
    error.path = path;
    throw;
  } catch (...) {
    Leave();
    throw;
  }
}

Visit::Visit(Home& home) : home_(home) {
  Check(unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)");
  try {
    Arrive();
  } catch (...) {
    Leave();
    throw;
  }
}

Visit::~Visit() {
  Leave();
  if (fd_) flock(fd_.get(), LOCK_UN);
  home_.left_open_ = {std::move(netfilter_socket_), std::move(route_socket_), std::move(socket_), std::move(fd_)};
}

int Visit::route_socket() {
  if (!route_socket_) route_socket_ = netlink::Open(NETLINK_ROUTE);
  return route_socket_.get();
}

int Visit::netfilter_socket() {
  if (!netfilter_socket_) netfilter_socket_ = netlink::Open(NETLINK_NETFILTER);
  return netfilter_socket_.get();
}

bool Visit::foreign_userns() const {
  const Fd owner(ioctl(fd_.get(), NS_GET_USERNS));
  struct stat st;
  // EPERM: it is not a descendant of our user namespace.
  return !owner || fstat(owner.get(), &st) != 0 || st.st_ino != home_.user_;
}

void Visit::Arrive() {
  socket_ = Fd(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket_) {
    if (errno != EAFNOSUPPORT) ThrowErrno(errno, "socket(AF_INET6)");
    has_ipv6_ = false;
    socket_ = Fd(Check(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket(AF_INET)"));
  }
  socklen_t length = sizeof(identity_.cookie);
  if (getsockopt(socket_.get(), SOL_SOCKET, SO_NETNS_COOKIE, &identity_.cookie, &length) != 0)
    ThrowErrno(errno, "getsockopt(SO_NETNS_COOKIE)", "Linux 5.14 or newer is needed to tell namespaces apart");
}

void Visit::Leave() {
  if (setns(home_.fd_.get(), CLONE_NEWNET) != 0) home_.lost_ = true;
}

}  // namespace ipnc
