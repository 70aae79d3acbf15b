// Opens, identifies, enters and leaves network namespaces.
//
// setns() moves one thread. A thread that stays in a pod's netns keeps the netns alive after the end of the pod, and
// its later system calls affect the pod. So only the threads of workers.cc enter a netns, inside a Visit, and a thread
// that cannot return to its own netns must end.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "native/budget.h"
#include "native/fd.h"

namespace ipnc {

struct NetnsIdentity {
  uint64_t dev = 0;
  uint64_t ino = 0;     // the kernel reuses it at once, so alone it is not an identity
  uint64_t cookie = 0;  // SO_NETNS_COOKIE, unique until the next boot

  // Compares the files, which is enough for namespaces that are held open.
  bool SameFile(const NetnsIdentity& other) const { return dev == other.dev && ino == other.ino; }
  // The netns that the machine started with. Nothing in a container can make another netns look like it, or hide it:
  // its inode number is fixed since Linux 6.18 (NET_NS_INIT_INO, linux/nsfs.h), and older kernels gave it the first
  // cookie (setup_net in net/core/net_namespace.c).
  constexpr bool IsInitial() const {
    constexpr uint64_t kInode = 0xEFFFFFF9U, kCookie = 1;
    return ino == kInode || cookie == kCookie;
  }
};

// The calling thread's own netns, held open so that the thread can return to it.
class Home {
 public:
  Home();  // throws Error
  // The thread could not return, so it must do no more work.
  bool lost() const { return lost_; }
  // Closes the files of the last visit. Closing takes as long as entering, and no caller needs to wait for it.
  void Sweep() { left_open_ = {}; }

 private:
  friend class Visit;
  Fd fd_;
  NetnsIdentity own_;   // dev and ino
  NetnsIdentity init_;  // of process 1, if this process may see it
  uint64_t user_ = 0;   // inode of the user namespace; unique while it is ours
  std::array<Fd, 4> left_open_;
  bool lost_ = false;
};

// The visit of the calling thread to another netns. Throws Error after the thread has returned:
//   ERR_NOT_NETNS   the path is not a network namespace
//   ERR_HOST_NETNS  it is the namespace of this process, or of the host
//   ESTALE          it is not the namespace that was identified
class Visit {
 public:
  enum class Purpose { kRead, kWrite };
  // A null `expected` accepts any netns. A visit that writes waits until no other writer is in the netns.
  Visit(Home& home, const std::string& path, const NetnsIdentity* expected, Purpose purpose = Purpose::kRead);
  // A visit to a new netns, which is removed when the visit ends.
  explicit Visit(Home& home);
  ~Visit();
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;

  // A datagram socket in the visited netns: AF_INET6 if the kernel supports it, which is enough for both families.
  int socket() const { return socket_.get(); }
  // A NETLINK_ROUTE and a NETLINK_NETFILTER socket in the visited netns, connected to the kernel, opened at first use.
  // Throw Error.
  int route_socket();
  int netfilter_socket();
  bool has_ipv6() const { return has_ipv6_; }
  // The budget of the job. Its time started before the visit.
  Budget& budget() { return budget_; }
  const NetnsIdentity& identity() const { return identity_; }
  // Whether another user namespace than ours owns the netns.
  bool foreign_userns() const;

 private:
  void Arrive();
  void Leave();

  Home& home_;
  Budget budget_;
  Fd fd_;
  Fd socket_;
  Fd route_socket_;
  Fd netfilter_socket_;
  bool has_ipv6_ = true;
  NetnsIdentity identity_;
};

}  // namespace ipnc
