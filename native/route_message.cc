#include "native/route_message.h"

#include <arpa/inet.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace ipnc {
namespace {

using netlink::Attributes;
using netlink::Bytes;
using netlink::Message;
using netlink::TakeHeader;
using netlink::View;

// What Istio adds for TPROXY, without a protocol of its own (istio/tools/common/tproxy/run_linux.go, and `ip` before
// that), and never removes.
constexpr uint32_t kIstioMark = 1337;
constexpr uint32_t kIstioTable = 133;

bool IsIstios(const RouteItem& item) {
  return (item.kind == RouteItem::Kind::kRoute || item.mark == kIstioMark) && item.table == kIstioTable &&
         (item.protocol == RTPROT_UNSPEC || item.protocol == RTPROT_BOOT || item.protocol == RTPROT_STATIC);
}

Listed ListedAs(const RouteItem& item) {
  return {.item = item, .ours = item.protocol == kOurProtocol || IsIstios(item)};
}

constexpr uint32_t kLoopbackIndex = 1;  // the first interface of every netns (net/core/dev.c: LOOPBACK_IFINDEX)
constexpr in6_addr kPassthrough6 = {{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6}}};

uint8_t AddressFamily(Family family) {
  return family == Family::kV4 ? AF_INET : AF_INET6;
}

Family FamilyOf(uint8_t address_family) {
  return address_family == AF_INET ? Family::kV4 : Family::kV6;
}

// One message, with its number left at 0.
class Request {
 public:
  template <typename Header>
  Request(uint16_t type, uint16_t flags, const Header& header) {
    const nlmsghdr message{
        .nlmsg_len = 0, .nlmsg_type = type, .nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags)};
    Append(&message, sizeof(message));
    Append(&header, sizeof(header));
  }
  template <typename Value>
  Request& Put(uint16_t attribute, const Value& value) {
    const nlattr header{.nla_len = NLA_HDRLEN + sizeof(value), .nla_type = attribute};
    Append(&header, sizeof(header));
    Append(&value, sizeof(value));
    return *this;
  }
  Bytes Finish() {
    const auto length = static_cast<uint32_t>(bytes_.size());
    std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_len), &length, sizeof(length));
    return std::move(bytes_);
  }

 private:
  void Append(const void* data, size_t size) {
    const auto* begin = static_cast<const uint8_t*>(data);
    bytes_.insert(bytes_.end(), begin, begin + size);
    bytes_.resize(NLMSG_ALIGN(bytes_.size()));
  }
  Bytes bytes_;
};

std::optional<Listed> ReadRule(View payload) {
  const auto header = TakeHeader<fib_rule_hdr>(payload);
  if (!header) return std::nullopt;
  const Attributes<FRA_MAX> attributes(payload);
  if (header->action != FR_ACT_TO_TBL || header->src_len || header->dst_len || attributes.Has(FRA_IIFNAME) ||
      attributes.Has(FRA_OIFNAME) || attributes.Get(FRA_FWMASK, UINT32_MAX) != UINT32_MAX ||
      !attributes.Has(FRA_FWMARK))
    return std::nullopt;
  return ListedAs({.kind = RouteItem::Kind::kRule,
                   .family = FamilyOf(header->family),
                   .mark = attributes.Get(FRA_FWMARK, uint32_t{0}),
                   .table = attributes.Get(FRA_TABLE, uint32_t{header->table}),
                   .protocol = attributes.Get(FRA_PROTOCOL, uint8_t{0})});
}

std::optional<Listed> ReadRoute(View payload) {
  const auto header = TakeHeader<rtmsg>(payload);
  if (!header) return std::nullopt;
  const Attributes<RTA_MAX> attributes(payload);
  if (header->rtm_type != RTN_LOCAL || header->rtm_dst_len != 0 ||
      attributes.Get(RTA_OIF, uint32_t{0}) != kLoopbackIndex)
    return std::nullopt;
  return ListedAs({.kind = RouteItem::Kind::kRoute,
                   .family = FamilyOf(header->rtm_family),
                   .mark = 0,
                   .table = attributes.Get(RTA_TABLE, uint32_t{header->rtm_table}),
                   .protocol = header->rtm_protocol});
}

std::optional<Listed> ReadPassthrough(View payload) {
  const auto header = TakeHeader<ifaddrmsg>(payload);
  if (!header || header->ifa_family != AF_INET6 || header->ifa_index != kLoopbackIndex ||
      header->ifa_prefixlen != 128 ||
      !Attributes<IFA_MAX>(payload).Is(IFA_ADDRESS, &kPassthrough6, sizeof(kPassthrough6)))
    return std::nullopt;
  return Listed{.item = {}, .ours = true};
}

Request RuleRequest(const RouteItem& item, uint16_t type, uint16_t flags) {
  fib_rule_hdr header{};
  header.family = AddressFamily(item.family);
  header.action = FR_ACT_TO_TBL;
  header.table = RT_TABLE_UNSPEC;
  Request request(type, flags, header);
  request.Put(FRA_TABLE, item.table).Put(FRA_FWMARK, item.mark).Put(FRA_PROTOCOL, item.protocol);
  return request;
}

Request RouteRequest(const RouteItem& item, uint16_t type, uint16_t flags) {
  rtmsg header{};
  header.rtm_family = AddressFamily(item.family);
  header.rtm_table = RT_TABLE_UNSPEC;
  header.rtm_protocol = item.protocol;
  header.rtm_scope = RT_SCOPE_HOST;
  header.rtm_type = RTN_LOCAL;
  Request request(type, flags, header);
  request.Put(RTA_TABLE, item.table).Put(RTA_OIF, kLoopbackIndex);
  return request;
}

Request PassthroughRequest(uint16_t type, uint16_t flags) {
  ifaddrmsg header{};
  header.ifa_family = AF_INET6;
  header.ifa_prefixlen = 128;
  header.ifa_scope = RT_SCOPE_UNIVERSE;
  header.ifa_index = kLoopbackIndex;
  Request request(type, flags, header);
  // On lo there is nobody to detect, and the local route is enough: saves a fifth of the kernel's time.
  request.Put(IFA_LOCAL, kPassthrough6)
      .Put(IFA_ADDRESS, kPassthrough6)
      .Put(IFA_FLAGS, uint32_t{IFA_F_NODAD | IFA_F_NOPREFIXROUTE});
  return request;
}

}  // namespace

Bytes ChangeOf(const RouteItem& item, Change change) {
  const bool add = change == Change::kAdd;
  const auto flags = static_cast<uint16_t>(NLM_F_ACK | (add ? NLM_F_CREATE | NLM_F_EXCL : 0));
  switch (item.kind) {
    case RouteItem::Kind::kRule:
      return RuleRequest(item, add ? RTM_NEWRULE : RTM_DELRULE, flags).Finish();
    case RouteItem::Kind::kRoute:
      return RouteRequest(item, add ? RTM_NEWROUTE : RTM_DELROUTE, flags).Finish();
    case RouteItem::Kind::kAddress:
      break;
  }
  return PassthroughRequest(add ? RTM_NEWADDR : RTM_DELADDR, flags).Finish();
}

Bytes ListRules(Family family) {
  fib_rule_hdr header{};
  header.family = AddressFamily(family);
  return Request(RTM_GETRULE, NLM_F_DUMP, header).Finish();
}

Bytes ListRoutes(Family family, std::optional<uint32_t> table) {
  rtmsg header{};
  header.rtm_family = AddressFamily(family);
  header.rtm_type = RTN_LOCAL;
  if (!table) header.rtm_protocol = kOurProtocol;
  Request request(RTM_GETROUTE, NLM_F_DUMP, header);
  if (table) request.Put(RTA_TABLE, *table);
  return request.Finish();
}

Bytes ListAddresses(Family family, bool loopback) {
  ifaddrmsg header{};
  header.ifa_family = AddressFamily(family);
  if (loopback) header.ifa_index = kLoopbackIndex;
  return Request(RTM_GETADDR, NLM_F_DUMP, header).Finish();
}

std::optional<Listed> ReadItem(const Message& message) {
  switch (message.header.nlmsg_type) {
    case RTM_NEWRULE:
      return ReadRule(message.payload);
    case RTM_NEWROUTE:
      return ReadRoute(message.payload);
    case RTM_NEWADDR:
      return ReadPassthrough(message.payload);
    default:
      return std::nullopt;
  }
}

std::optional<Address> ReadGlobalAddress(const Message& message) {
  View payload = message.payload;
  const auto header = TakeHeader<ifaddrmsg>(payload);
  if (message.header.nlmsg_type != RTM_NEWADDR || !header || header->ifa_scope != RT_SCOPE_UNIVERSE ||
      header->ifa_index == kLoopbackIndex || (header->ifa_family != AF_INET && header->ifa_family != AF_INET6))
    return std::nullopt;
  const Attributes<IFA_MAX> attributes(payload);
  char text[INET6_ADDRSTRLEN];
  // With a peer, as on a tunnel, IFA_ADDRESS is the other end's.
  for (const size_t type : {IFA_LOCAL, IFA_ADDRESS}) {
    const uint8_t* bytes = attributes.Bytes(type, header->ifa_family == AF_INET ? 4 : 16);
    if (bytes && inet_ntop(header->ifa_family, bytes, text, sizeof(text)))
      return Address{FamilyOf(header->ifa_family), text};
  }
  return std::nullopt;
}

}  // namespace ipnc
