#include "native/gate/network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

namespace ipnc::gate {
namespace {

constexpr int kLoopbackIndex = 1;  // the first interface of every netns (net/core/dev.c: LOOPBACK_IFINDEX)

// Attributes of one message by type; `Header` is its fixed part.
template <typename Header, size_t kMost>
class Message {
 public:
  explicit Message(const nlmsghdr* message) : header_(static_cast<const Header*>(NLMSG_DATA(message))) {
    constexpr size_t kFixed = NLMSG_SPACE(sizeof(Header));
    complete_ = message->nlmsg_len >= kFixed;
    if (!complete_) return;
    auto left = static_cast<unsigned>(message->nlmsg_len - kFixed);
    const auto* attribute = reinterpret_cast<const rtattr*>(reinterpret_cast<const char*>(message) + kFixed);
    for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left))
      if ((attribute->rta_type & NLA_TYPE_MASK) <= kMost) attributes_[attribute->rta_type & NLA_TYPE_MASK] = attribute;
  }
  bool complete() const { return complete_; }
  const Header* operator->() const { return header_; }
  bool Has(size_t type) const { return attributes_[type] != nullptr; }
  uint32_t U32(size_t type, uint32_t otherwise) const {
    if (!Has(type) || RTA_PAYLOAD(attributes_[type]) != sizeof(uint32_t)) return otherwise;
    uint32_t value;
    std::memcpy(&value, RTA_DATA(attributes_[type]), sizeof(value));
    return value;
  }

 private:
  const Header* header_;
  bool complete_ = false;
  const rtattr* attributes_[kMost + 1] = {};
};

struct Wanted {
  uint32_t mark;
  uint32_t table;
  bool rule = false;
  bool route = false;
};

void OnAddress(const void* raw, void* context) {
  const Message<ifaddrmsg, IFA_MAX> address(static_cast<const nlmsghdr*>(raw));
  if (!address.complete() || address->ifa_scope != RT_SCOPE_UNIVERSE || address->ifa_index == kLoopbackIndex) return;
  auto& found = *static_cast<Addresses*>(context);
  if (address->ifa_family == AF_INET6) found.global.v6 = true;
  if (address->ifa_family != AF_INET) return;
  found.global.v4 = true;
  // With a peer, as on a tunnel, IFA_ADDRESS is the other end's.
  found.v4 = ntohl(address.U32(IFA_LOCAL, address.U32(IFA_ADDRESS, 0)));
  if (found.v4 >> 16 != 0xa9fe) found.v4_beyond_link = true;
}

void OnRule(const void* raw, void* context) {
  const Message<fib_rule_hdr, FRA_MAX> rule(static_cast<const nlmsghdr*>(raw));
  auto& wanted = *static_cast<Wanted*>(context);
  if (!rule.complete() || rule->action != FR_ACT_TO_TBL || rule->src_len || rule->dst_len || rule.Has(FRA_IIFNAME) ||
      rule.Has(FRA_OIFNAME) || rule.U32(FRA_FWMASK, UINT32_MAX) != UINT32_MAX || !rule.Has(FRA_FWMARK))
    return;
  if (rule.U32(FRA_FWMARK, 0) == wanted.mark && rule.U32(FRA_TABLE, rule->table) == wanted.table) wanted.rule = true;
}

void OnRoute(const void* raw, void* context) {
  const Message<rtmsg, RTA_MAX> route(static_cast<const nlmsghdr*>(raw));
  auto& wanted = *static_cast<Wanted*>(context);
  if (route.complete() && route->rtm_type == RTN_LOCAL && route->rtm_dst_len == 0 &&
      route.U32(RTA_OIF, 0) == kLoopbackIndex && route.U32(RTA_TABLE, route->rtm_table) == wanted.table)
    wanted.route = true;
}

}  // namespace

Network::Network() : socket_(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)) {
  // The kernel answers at once; this is for the one that does not.
  constexpr timeval kLimit{.tv_sec = 0, .tv_usec = 100'000};
  setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &kLimit, sizeof(kLimit));
  // A socket that is connected to the kernel takes messages from nobody else. Otherwise a process with NET_ADMIN in
  // this netns could forge answers, or send without end. Without the connection nothing is read.
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  if (connect(socket_.get(), reinterpret_cast<const sockaddr*>(&kernel), sizeof(kernel)) != 0) socket_ = Fd();
}

Addresses Network::ReadAddresses() {
  Addresses found;
  return Dump(RTM_GETADDR, AF_UNSPEC, OnAddress, &found) ? found : Addresses{};
}

bool Network::HasIpv6OnLoopback() {
  const Fd fd(open("/proc/sys/net/ipv6/conf/lo/disable_ipv6", O_RDONLY | O_CLOEXEC));
  char digit = '0';
  // A file that cannot be read says nothing; without IPv6 in the kernel there is none.
  return fd ? read(fd.get(), &digit, 1) != 1 || digit == '0' : errno != ENOENT;
}

bool Network::HasTproxyRoutes(bool v6, uint32_t mark, uint32_t table) {
  Wanted wanted{.mark = mark, .table = table};
  const uint8_t family = v6 ? AF_INET6 : AF_INET;
  return Dump(RTM_GETRULE, family, OnRule, &wanted) && Dump(RTM_GETROUTE, family, OnRoute, &wanted) && wanted.rule &&
         wanted.route;
}

bool Network::Dump(uint16_t type, uint8_t family, void (*each)(const void*, void*), void* context) {
  struct {
    nlmsghdr header;
    rtmsg body;  // as long as fib_rule_hdr and longer than ifaddrmsg; each has the family first
  } request{};
  request.header = {.nlmsg_len = sizeof(request),
                    .nlmsg_type = type,
                    .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
                    .nlmsg_seq = ++sequence_,
                    .nlmsg_pid = 0};
  request.body.rtm_family = family;
  if (send(socket_.get(), &request, sizeof(request), 0) < 0) return false;
  alignas(nlmsghdr) char buffer[16 * 1024];
  for (;;) {
    const ssize_t length = recv(socket_.get(), buffer, sizeof(buffer), 0);
    if (length < 0 && errno == EINTR) continue;
    if (length <= 0) return false;
    auto left = static_cast<unsigned>(length);
    for (const auto* message = reinterpret_cast<const nlmsghdr*>(buffer); NLMSG_OK(message, left);
         message = NLMSG_NEXT(message, left)) {
      if (message->nlmsg_seq != sequence_) continue;  // what is left of one whose answer did not come in time
      if (message->nlmsg_type == NLMSG_DONE) return true;
      if (message->nlmsg_type == NLMSG_ERROR) return false;
      each(message, context);
    }
  }
}

}  // namespace ipnc::gate
