// Network namespaces: open, identify, enter, come home.
//
// setns() moves one thread. A thread that stays in a pod's netns keeps the netns alive after the pod, and whatever it
// does next it does to the pod. So only threads of our own (workers.cc) ever enter, inside a Visit, and a thread that
// cannot come home must end.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "native/budget.h"
#include "native/fd.h"

namespace ipnc {

struct NetnsIdentity {
  uint64_t dev = 0;
  uint64_t ino = 0;     // reused by the kernel at once: never an identity by itself
  uint64_t cookie = 0;  // SO_NETNS_COOKIE, unique until the next boot

  // The same file: enough for namespaces that are held open.
  bool SameFile(const NetnsIdentity& other) const { return dev == other.dev && ino == other.ino; }
  // The netns that the machine started with. Nothing in a container can make another netns look like it, or hide it:
  // its inode number is fixed since Linux 6.18 (NET_NS_INIT_INO, linux/nsfs.h), and older kernels gave it the first
  // cookie (setup_net in net/core/net_namespace.c).
  constexpr bool IsInitial() const {
    constexpr uint64_t kInode = 0xEFFFFFF9U, kCookie = 1;
    return ino == kInode || cookie == kCookie;
  }
};

// The calling thread's own netns, held open to come back to.
class Home {
 public:
  Home();  // throws Error
  // The thread could not come home: it must not run anything any more.
  bool lost() const { return lost_; }
  // Closes what the last stay left open. Closing takes as long as entering does, and nobody need wait for it.
  void Sweep() { left_open_ = {}; }

 private:
  friend class Visit;
  Fd fd_;
  NetnsIdentity own_;   // dev and ino
  NetnsIdentity init_;  // process 1's, where this process may look
  uint64_t user_ = 0;   // inode of the user namespace; unique while it is ours
  std::array<Fd, 4> left_open_;
  bool lost_ = false;
};

// The calling thread's stay in another netns. Throws Error, and is home again by then:
//   ERR_NOT_NETNS   the path is no network namespace
//   ERR_HOST_NETNS  it is the one this process lives in, or the host's
//   ESTALE          it is not the one that was identified
class Visit {
 public:
  enum class Purpose { kRead, kWrite };
  // A null `expected` takes whatever netns is there. To write it waits for its turn: one writer at a time.
  Visit(Home& home, const std::string& path, const NetnsIdentity* expected, Purpose purpose = Purpose::kRead);
  // A stay in a netns made for it, which is gone when the stay ends.
  explicit Visit(Home& home);
  ~Visit();
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;

  // A datagram socket in the visited netns: AF_INET6 where the kernel has it, which does for both families.
  int socket() const { return socket_.get(); }
  // A NETLINK_ROUTE and a NETLINK_NETFILTER socket in the visited netns, connected to the kernel, opened at first use.
  // Throw Error.
  int route_socket();
  int netfilter_socket();
  bool has_ipv6() const { return has_ipv6_; }
  // What the job may spend there; its time has run since before the visit.
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
