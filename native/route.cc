#include "native/route.h"

#include <net/if.h>

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "native/error.h"

namespace ipnc {
namespace {

// Who made a rule or a route (ip(8): "proto 133"): not one of /etc/iproute2/rt_protos.
constexpr uint8_t kProtocol = 133;
constexpr uint32_t kLoopbackIndex = 1;  // the first interface of every netns (net/core/dev.c: LOOPBACK_IFINDEX)
constexpr in6_addr kPassthrough6 = {{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6}}};

uint8_t AddressFamily(Family family) {
  return family == Family::kV4 ? AF_INET : AF_INET6;
}

nlmsghdr* PutRule(char* buffer, const RouteItem& item) {
  nlmsghdr* message = mnl_nlmsg_put_header(buffer);
  auto* header = static_cast<fib_rule_hdr*>(mnl_nlmsg_put_extra_header(message, sizeof(fib_rule_hdr)));
  header->family = AddressFamily(item.family);
  header->action = FR_ACT_TO_TBL;
  header->table = RT_TABLE_UNSPEC;
  mnl_attr_put_u32(message, FRA_TABLE, item.table);
  mnl_attr_put_u32(message, FRA_FWMARK, item.mark);
  mnl_attr_put_u8(message, FRA_PROTOCOL, kProtocol);
  return message;
}

nlmsghdr* PutRoute(char* buffer, const RouteItem& item) {
  nlmsghdr* message = mnl_nlmsg_put_header(buffer);
  auto* header = static_cast<rtmsg*>(mnl_nlmsg_put_extra_header(message, sizeof(rtmsg)));
  header->rtm_family = AddressFamily(item.family);
  header->rtm_table = RT_TABLE_UNSPEC;
  header->rtm_protocol = kProtocol;
  header->rtm_scope = RT_SCOPE_HOST;
  header->rtm_type = RTN_LOCAL;
  mnl_attr_put_u32(message, RTA_TABLE, item.table);
  mnl_attr_put_u32(message, RTA_OIF, kLoopbackIndex);
  return message;
}

nlmsghdr* PutAddress(char* buffer) {
  nlmsghdr* message = mnl_nlmsg_put_header(buffer);
  auto* header = static_cast<ifaddrmsg*>(mnl_nlmsg_put_extra_header(message, sizeof(ifaddrmsg)));
  header->ifa_family = AF_INET6;
  header->ifa_prefixlen = 128;
  header->ifa_scope = RT_SCOPE_UNIVERSE;
  header->ifa_index = kLoopbackIndex;
  mnl_attr_put(message, IFA_LOCAL, sizeof(kPassthrough6), &kPassthrough6);
  mnl_attr_put(message, IFA_ADDRESS, sizeof(kPassthrough6), &kPassthrough6);
  // On lo there is nobody to detect, and the local route is enough: saves a fifth of the kernel's time.
  mnl_attr_put_u32(message, IFA_FLAGS, IFA_F_NODAD | IFA_F_NOPREFIXROUTE);
  return message;
}

nlmsghdr* Put(char* buffer, const RouteItem& item, bool add) {
  nlmsghdr* message = nullptr;
  switch (item.kind) {
    case RouteItem::Kind::kRule:
      message = PutRule(buffer, item);
      message->nlmsg_type = add ? RTM_NEWRULE : RTM_DELRULE;
      break;
    case RouteItem::Kind::kRoute:
      message = PutRoute(buffer, item);
      message->nlmsg_type = add ? RTM_NEWROUTE : RTM_DELROUTE;
      break;
    case RouteItem::Kind::kAddress:
      message = PutAddress(buffer);
      message->nlmsg_type = add ? RTM_NEWADDR : RTM_DELADDR;
      break;
  }
  message->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | NLM_F_ACK | (add ? NLM_F_CREATE | NLM_F_EXCL : 0));
  return message;
}

// Attributes of one message by type; `header` is the length of the fixed part.
template <size_t kMost>
class Attributes {
 public:
  Attributes(const nlmsghdr* message, size_t header) {
    const auto* end = static_cast<const char*>(mnl_nlmsg_get_payload_tail(message));
    const auto* attribute = static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(message, header));
    for (; mnl_attr_ok(attribute, static_cast<int>(end - reinterpret_cast<const char*>(attribute)));
         attribute = mnl_attr_next(attribute))
      if (mnl_attr_get_type(attribute) <= kMost) attributes_[mnl_attr_get_type(attribute)] = attribute;
  }
  uint32_t U32(size_t type, uint32_t otherwise) const {
    return attributes_[type] && mnl_attr_get_payload_len(attributes_[type]) == 4 ? mnl_attr_get_u32(attributes_[type])
                                                                                 : otherwise;
  }
  uint8_t U8(size_t type, uint8_t otherwise) const {
    return attributes_[type] && mnl_attr_get_payload_len(attributes_[type]) == 1 ? mnl_attr_get_u8(attributes_[type])
                                                                                 : otherwise;
  }
  template <typename T>
  bool Is(size_t type, const T& value) const {
    return attributes_[type] && mnl_attr_get_payload_len(attributes_[type]) == sizeof(T) &&
           std::memcmp(mnl_attr_get_payload(attributes_[type]), &value, sizeof(T)) == 0;
  }
  bool Has(size_t type) const { return attributes_[type] != nullptr; }
  // Null unless there and of that length.
  const void* Bytes(size_t type, size_t length) const {
    return attributes_[type] && mnl_attr_get_payload_len(attributes_[type]) == length
               ? mnl_attr_get_payload(attributes_[type])
               : nullptr;
  }

 private:
  const nlattr* attributes_[kMost + 1] = {};
};

Family FamilyOf(uint8_t address_family) {
  return address_family == AF_INET ? Family::kV4 : Family::kV6;
}

void OnRule(const nlmsghdr* message, PresentRoutes& present) {
  const auto* header = static_cast<const fib_rule_hdr*>(mnl_nlmsg_get_payload(message));
  const Attributes<FRA_MAX> attributes(message, sizeof(*header));
  if (header->action != FR_ACT_TO_TBL || header->src_len || header->dst_len || attributes.Has(FRA_IIFNAME) ||
      attributes.Has(FRA_OIFNAME) || attributes.U32(FRA_FWMASK, UINT32_MAX) != UINT32_MAX ||
      !attributes.Has(FRA_FWMARK))
    return;
  const RouteItem item{.kind = RouteItem::Kind::kRule,
                       .family = FamilyOf(header->family),
                       .mark = attributes.U32(FRA_FWMARK, 0),
                       .table = attributes.U32(FRA_TABLE, header->table)};
  present.all.push_back(item);
  if (attributes.U8(FRA_PROTOCOL, 0) == kProtocol) present.ours.push_back(item);
}

void OnRoute(const nlmsghdr* message, PresentRoutes& present) {
  const auto* header = static_cast<const rtmsg*>(mnl_nlmsg_get_payload(message));
  const Attributes<RTA_MAX> attributes(message, sizeof(*header));
  if (header->rtm_type != RTN_LOCAL || header->rtm_dst_len != 0 || attributes.U32(RTA_OIF, 0) != kLoopbackIndex) return;
  const RouteItem item{.kind = RouteItem::Kind::kRoute,
                       .family = FamilyOf(header->rtm_family),
                       .mark = 0,
                       .table = attributes.U32(RTA_TABLE, header->rtm_table)};
  present.all.push_back(item);
  if (header->rtm_protocol == kProtocol) present.ours.push_back(item);
}

void OnAddress(const nlmsghdr* message, PresentRoutes& present) {
  const auto* header = static_cast<const ifaddrmsg*>(mnl_nlmsg_get_payload(message));
  const Attributes<IFA_MAX> attributes(message, sizeof(*header));
  if (header->ifa_index != kLoopbackIndex || header->ifa_prefixlen != 128 || !attributes.Is(IFA_ADDRESS, kPassthrough6))
    return;
  present.all.push_back({});
  present.ours.push_back({});
}

}  // namespace

std::string IpCommand(const RouteItem& item, const char* verb) {
  const std::string family = item.family == Family::kV4 ? "-4" : "-6";
  switch (item.kind) {
    case RouteItem::Kind::kRule: {
      char mark[16];
      std::snprintf(mark, sizeof(mark), "0x%x", item.mark);
      return family + " rule " + verb + " fwmark " + mark + " lookup " + std::to_string(item.table);
    }
    case RouteItem::Kind::kRoute:
      return family + " route " + verb + " local default dev lo table " + std::to_string(item.table);
    case RouteItem::Kind::kAddress:
      break;
  }
  return family + " address " + verb + " ::6/128 dev lo";
}

std::vector<RouteItem> WantedRoutes(const Ruleset& ruleset) {
  std::vector<RouteItem> wanted;
  if (ruleset.routes.loopback6 && ruleset.Has(Family::kV6)) wanted.push_back({});
  if (const auto& tproxy = ruleset.routes.tproxy)
    for (Family family : ruleset.families) {
      wanted.push_back({.kind = RouteItem::Kind::kRoute, .family = family, .mark = 0, .table = tproxy->table});
      wanted.push_back(
          {.kind = RouteItem::Kind::kRule, .family = family, .mark = tproxy->mark, .table = tproxy->table});
    }
  return wanted;
}

int Rtnetlink::Request(void* raw, void (*each)(const void*, void*), void* context) {
  auto* message = static_cast<nlmsghdr*>(raw);
  message->nlmsg_seq = ++sequence_;
  if (send(socket_, message, message->nlmsg_len, 0) < 0) ThrowErrno(errno, "send(NETLINK_ROUTE)");
  struct Call {
    void (*each)(const void*, void*);
    void* context;
  } call{each, context};
  const auto callback = [](const nlmsghdr* answer, void* data) {
    const auto* call = static_cast<Call*>(data);
    if (call->each) call->each(answer, call->context);
    return MNL_CB_OK;
  };
  alignas(nlmsghdr) char buffer[16 * 1024];  // MNL_SOCKET_BUFFER_SIZE asks sysconf() each time
  for (;;) {
    const ssize_t length = recv(socket_, buffer, sizeof(buffer), 0);
    if (length < 0) throw Error{.number = errno, .syscall = "recv(NETLINK_ROUTE)", .uncertain = true};
    // What is left of an earlier request whose answer could not be received.
    const auto* first = reinterpret_cast<const nlmsghdr*>(buffer);
    if (static_cast<size_t>(length) >= sizeof(*first) && first->nlmsg_seq != sequence_) continue;
    const int state = mnl_cb_run(buffer, static_cast<size_t>(length), sequence_, 0, callback, &call);
    if (state < 0) return errno;
    if (state == MNL_CB_STOP) return 0;
  }
}

void Rtnetlink::Dump(uint16_t type, Family family, void (*each)(const void*, void*), void* context) {
  alignas(nlmsghdr) char buffer[256];
  constexpr int kAttempts = 8;
  for (int attempt = 1;; ++attempt) {
    nlmsghdr* message = mnl_nlmsg_put_header(buffer);
    message->nlmsg_type = type;
    message->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    // rtmsg is as long as fib_rule_hdr and longer than ifaddrmsg; each has the family first.
    static_cast<rtmsg*>(mnl_nlmsg_put_extra_header(message, sizeof(rtmsg)))->rtm_family = AddressFamily(family);
    const int error = Request(message, each, context);
    if (error == 0) return;
    if (error == EOPNOTSUPP || error == EAFNOSUPPORT) return;                         // no IPv6 in this kernel
    if (error != EINTR || attempt == kAttempts) ThrowErrno(error, "rtnetlink dump");  // EINTR: changed meanwhile
  }
}

PresentRoutes Rtnetlink::List() {
  PresentRoutes present;
  const auto each = [](const void* raw, void* context) {
    const auto* message = static_cast<const nlmsghdr*>(raw);
    auto& present = *static_cast<PresentRoutes*>(context);
    if (message->nlmsg_type == RTM_NEWRULE) OnRule(message, present);
    if (message->nlmsg_type == RTM_NEWROUTE) OnRoute(message, present);
    if (message->nlmsg_type == RTM_NEWADDR) OnAddress(message, present);
  };
  for (Family family : {Family::kV4, Family::kV6}) {
    Dump(RTM_GETRULE, family, each, &present);
    Dump(RTM_GETROUTE, family, each, &present);
  }
  Dump(RTM_GETADDR, Family::kV6, each, &present);
  return present;
}

bool Rtnetlink::Has(const RouteItem& item) {
  try {
    const std::vector<RouteItem> all = List().all;
    return std::find(all.begin(), all.end(), item) != all.end();
  } catch (Error& error) {
    error.uncertain = false;  // nothing was asked for but a list
    throw;
  }
}

bool Rtnetlink::Add(const RouteItem& item) {
  alignas(nlmsghdr) char buffer[256];
  const int error = Request(Put(buffer, item, true), nullptr, nullptr);
  if (error == 0) return true;
  // Something has this place. Ours, or as good as ours?
  if (error == EEXIST && Has(item)) return false;
  ThrowErrno(error, "rtnetlink", "ip " + IpCommand(item, "add"));
}

bool Rtnetlink::Remove(const RouteItem& item) {
  alignas(nlmsghdr) char buffer[256];
  const int error = Request(Put(buffer, item, false), nullptr, nullptr);
  if (error == 0) return true;
  if (error == ENOENT || error == ESRCH || error == EADDRNOTAVAIL) return false;
  ThrowErrno(error, "rtnetlink", "ip " + IpCommand(item, "delete"));
}

std::vector<Address> Rtnetlink::GlobalAddresses() {
  std::vector<Address> addresses;
  const auto each = [](const void* raw, void* context) {
    const auto* message = static_cast<const nlmsghdr*>(raw);
    const auto* header = static_cast<const ifaddrmsg*>(mnl_nlmsg_get_payload(message));
    if (message->nlmsg_type != RTM_NEWADDR || header->ifa_scope != RT_SCOPE_UNIVERSE ||
        header->ifa_index == kLoopbackIndex)
      return;
    const Attributes<IFA_MAX> attributes(message, sizeof(*header));
    char text[INET6_ADDRSTRLEN];
    // With a peer, as on a tunnel, IFA_ADDRESS is the other end's.
    for (int type : {IFA_LOCAL, IFA_ADDRESS}) {
      const void* bytes = attributes.Bytes(type, header->ifa_family == AF_INET ? 4 : 16);
      if (!bytes || !inet_ntop(header->ifa_family, bytes, text, sizeof(text))) continue;
      static_cast<std::vector<Address>*>(context)->push_back({FamilyOf(header->ifa_family), text});
      return;
    }
  };
  for (Family family : {Family::kV4, Family::kV6}) Dump(RTM_GETADDR, family, each, &addresses);
  return addresses;
}

bool LoopbackIsUp(int socket) {
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  Check(ioctl(socket, SIOCGIFFLAGS, &request), "ioctl(SIOCGIFFLAGS)");
  return request.ifr_flags & IFF_UP;
}

void SetLoopbackUp(int socket) {
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  Check(ioctl(socket, SIOCGIFFLAGS, &request), "ioctl(SIOCGIFFLAGS)");
  request.ifr_flags |= IFF_UP;
  Check(ioctl(socket, SIOCSIFFLAGS, &request), "ioctl(SIOCSIFFLAGS)");
}

}  // namespace ipnc
