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

using netlink::Attributes;
using netlink::Message;
using netlink::TakeHeader;
using netlink::View;

constexpr int kLoopbackIndex = 1;  // the first interface of every netns (net/core/dev.c: LOOPBACK_IFINDEX)

}  // namespace

void AddAddress(const Message& message, Addresses& found) {
  View payload = message.payload;
  const auto header = TakeHeader<ifaddrmsg>(payload);
  if (!header || header->ifa_scope != RT_SCOPE_UNIVERSE || header->ifa_index == kLoopbackIndex) return;
  if (header->ifa_family == AF_INET6) found.global.v6 = true;
  if (header->ifa_family != AF_INET) return;
  found.global.v4 = true;
  const Attributes<IFA_MAX> attributes(payload);
  // With a peer, as on a tunnel, IFA_ADDRESS is the other end's.
  found.v4 = ntohl(attributes.Get(IFA_LOCAL, attributes.Get(IFA_ADDRESS, uint32_t{0})));
  if (found.v4 >> 16 != 0xa9fe) found.v4_beyond_link = true;
}

bool IsTproxyRule(const Message& message, uint32_t mark, uint32_t table) {
  View payload = message.payload;
  const auto header = TakeHeader<fib_rule_hdr>(payload);
  if (!header || header->action != FR_ACT_TO_TBL || header->src_len || header->dst_len) return false;
  const Attributes<FRA_MAX> attributes(payload);
  return !attributes.Has(FRA_IIFNAME) && !attributes.Has(FRA_OIFNAME) &&
         attributes.Get(FRA_FWMASK, UINT32_MAX) == UINT32_MAX && attributes.Has(FRA_FWMARK) &&
         attributes.Get(FRA_FWMARK, uint32_t{0}) == mark && attributes.Get(FRA_TABLE, uint32_t{header->table}) == table;
}

bool IsTproxyRoute(const Message& message, uint32_t table) {
  View payload = message.payload;
  const auto header = TakeHeader<rtmsg>(payload);
  if (!header || header->rtm_type != RTN_LOCAL || header->rtm_dst_len != 0) return false;
  const Attributes<RTA_MAX> attributes(payload);
  return attributes.Get(RTA_OIF, uint32_t{0}) == kLoopbackIndex &&
         attributes.Get(RTA_TABLE, uint32_t{header->rtm_table}) == table;
}

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

template <typename Each>
bool Network::Dump(uint16_t type, uint8_t family, const Each& each) {
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
  uint8_t buffer[16 * 1024];
  for (;;) {
    const ssize_t length = recv(socket_.get(), buffer, sizeof(buffer), 0);
    if (length < 0 && errno == EINTR) continue;
    if (length <= 0) return false;
    View rest(buffer, static_cast<size_t>(length));
    while (const auto message = netlink::TakeMessage(rest)) {
      if (message->header.nlmsg_seq != sequence_) continue;  // a late answer to an earlier request
      if (message->header.nlmsg_type == NLMSG_DONE) return true;
      if (message->header.nlmsg_type == NLMSG_ERROR) return false;
      each(*message);
    }
  }
}

Addresses Network::ReadAddresses() {
  Addresses found;
  const auto add = [&found](const Message& message) { AddAddress(message, found); };
  return Dump(RTM_GETADDR, AF_UNSPEC, add) ? found : Addresses{};
}

bool Network::HasIpv6OnLoopback() {
  const Fd fd(open("/proc/sys/net/ipv6/conf/lo/disable_ipv6", O_RDONLY | O_CLOEXEC));
  char digit = '0';
  // A file that cannot be read says nothing; without IPv6 in the kernel there is none.
  return fd ? read(fd.get(), &digit, 1) != 1 || digit == '0' : errno != ENOENT;
}

bool Network::HasTproxyRoutes(bool v6, uint32_t mark, uint32_t table) {
  const uint8_t family = v6 ? AF_INET6 : AF_INET;
  bool rule = false;
  bool route = false;
  return Dump(RTM_GETRULE, family, [&](const Message& message) { rule |= IsTproxyRule(message, mark, table); }) &&
         Dump(RTM_GETROUTE, family, [&](const Message& message) { route |= IsTproxyRoute(message, table); }) && rule &&
         route;
}

}  // namespace ipnc::gate
