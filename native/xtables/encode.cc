#include "native/xtables/encode.h"

#include <arpa/inet.h>
#include <linux/netfilter/nf_nat.h>
#include <linux/netfilter/x_tables.h>
#include <linux/netfilter/xt_CT.h>
#include <linux/netfilter/xt_MARK.h>
#include <linux/netfilter/xt_TPROXY.h>
#include <linux/netfilter/xt_comment.h>
#include <linux/netfilter/xt_connmark.h>
#include <linux/netfilter/xt_conntrack.h>
#include <linux/netfilter/xt_multiport.h>
#include <linux/netfilter/xt_owner.h>
#include <linux/netfilter/xt_tcpudp.h>

#include <cstring>
#include <type_traits>

#include "native/error.h"

namespace ipnc::xtables {
namespace {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

template <typename Header>
void Append(Entry& entry, std::string_view name, uint8_t revision, const void* data, size_t size) {
  static_assert(sizeof(Header) == sizeof(xt_entry_match));
  if (name.size() >= XT_EXTENSION_MAXNAMELEN) InvalidRule("the name of a match or target is at most 28 characters");
  const size_t at = entry.size();
  const size_t whole = XT_ALIGN(sizeof(Header) + size);
  entry.resize(at + whole);
  Header header{};
  header.u.user.revision = revision;
  std::memcpy(header.u.user.name, name.data(), name.size());
  if constexpr (std::is_same_v<Header, xt_entry_match>)
    header.u.match_size = static_cast<uint16_t>(whole);
  else
    header.u.target_size = static_cast<uint16_t>(whole);
  std::memcpy(entry.data() + at, &header, sizeof(Header));
  if (size > 0) std::memcpy(entry.data() + at + sizeof(Header), data, size);  // `data` may be null then
}

// Of the kernel's types, with the bytes between the members zero as well: the whole is compared.
template <typename Info>
class Zeroed {
 public:
  Zeroed() { std::memset(&info_, 0, sizeof(info_)); }
  Info* operator->() { return &info_; }
  const Info* get() const { return &info_; }

 private:
  Info info_;
};

template <typename Info>
void AppendMatch(Entry& entry, const char* name, uint8_t revision, const Zeroed<Info>& info) {
  Append<xt_entry_match>(entry, name, revision, info.get(), sizeof(Info));
}

template <typename Info>
void AppendTarget(Entry& entry, const char* name, uint8_t revision, const Zeroed<Info>& info) {
  Append<xt_entry_target>(entry, name, revision, info.get(), sizeof(Info));
}

void CheckRange(const PortRange& range) {
  if (range.first > range.last) InvalidRule("a port range starts above its end");
}

// xt_tcp and xt_udp: the same, but for what we leave at 0.
template <typename Info>
void EncodePorts(Entry& entry, const char* name, uint8_t inverted_source, uint8_t inverted_destination,
                 const PortMatch& match) {
  Zeroed<Info> info;
  info->spts[1] = info->dpts[1] = 0xffff;
  auto* ports = match.source ? info->spts : info->dpts;
  ports[0] = match.range.first;
  ports[1] = match.range.last;
  if (match.inverted) info->invflags = match.source ? inverted_source : inverted_destination;
  AppendMatch(entry, name, 0, info);
}

void Encode(Entry& entry, uint8_t protocol, const PortMatch& match) {
  CheckRange(match.range);
  if (protocol == IPPROTO_TCP)
    EncodePorts<xt_tcp>(entry, "tcp", XT_TCP_INV_SRCPT, XT_TCP_INV_DSTPT, match);
  else if (protocol == IPPROTO_UDP)
    EncodePorts<xt_udp>(entry, "udp", XT_UDP_INV_SRCPT, XT_UDP_INV_DSTPT, match);
  else
    InvalidRule("a port needs protocol tcp or udp");
}

void Encode(Entry& entry, uint8_t protocol, const MultiportMatch& match) {
  if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) InvalidRule("multiport needs protocol tcp or udp");
  Zeroed<xt_multiport_v1> info;
  info->flags = XT_MULTIPORT_DESTINATION;
  info->invert = match.inverted;
  size_t slots = 0;
  for (const PortRange& range : match.ports) {
    CheckRange(range);
    const bool single = range.first == range.last;
    if (slots + (single ? 1 : 2) > XT_MULTI_PORTS) InvalidRule("multiport holds 15 ports; a range takes two");
    if (!single) {
      info->pflags[slots] = 1;
      info->ports[slots++] = range.first;
    }
    info->ports[slots++] = range.last;
  }
  if (slots == 0) InvalidRule("multiport needs a port");
  info->count = static_cast<uint8_t>(slots);
  AppendMatch(entry, "multiport", 1, info);
}

void Encode(Entry& entry, uint8_t, const OwnerMatch& match) {
  Zeroed<xt_owner_match_info> info;
  info->match = match.gid ? XT_OWNER_GID : XT_OWNER_UID;
  if (match.inverted) info->invert = info->match;
  (match.gid ? info->gid_min : info->uid_min) = match.id;
  (match.gid ? info->gid_max : info->uid_max) = match.id;
  AppendMatch(entry, "owner", 1, info);
}

void Encode(Entry& entry, uint8_t, const ConntrackMatch& match) {
  Zeroed<xt_conntrack_mtinfo3> info;
  info->match_flags = XT_CONNTRACK_STATE;
  info->state_mask = match.states;
  if (match.states == 0) InvalidRule("a conntrack match needs a state");
  AppendMatch(entry, "conntrack", 3, info);
}

template <typename Info>
void EncodeMark(Entry& entry, const char* name, const MarkMatch& match) {
  Zeroed<Info> info;
  info->mark = match.value;
  info->mask = UINT32_MAX;
  info->invert = match.inverted;
  AppendMatch(entry, name, 1, info);
}

void Encode(Entry& entry, uint8_t, const MarkMatch& match) {
  if (match.connection)
    EncodeMark<xt_connmark_mtinfo1>(entry, "connmark", match);
  else
    EncodeMark<xt_mark_mtinfo1>(entry, "mark", match);
}

void Encode(Entry& entry, uint8_t, const CommentMatch& match) {
  Zeroed<xt_comment_info> info;
  if (match.text.size() >= sizeof(info->comment)) InvalidRule("a comment is at most 255 bytes");
  std::memcpy(info->comment, match.text.data(), match.text.size());
  AppendMatch(entry, "comment", 0, info);
}

void Encode(Entry& entry, uint8_t, const Opaque& match) {
  if (match.data.size() > 0x4000) InvalidRule("a match is too long");
  Append<xt_entry_match>(entry, match.name, match.revision, match.data.data(), match.data.size());
}

void AppendStandard(Entry& entry, std::string_view name) {
  const int verdict = 0;
  Append<xt_entry_target>(entry, name, 0, &verdict, sizeof(verdict));
}

template <typename F>
void EncodeTarget(Entry& entry, const Target& target) {
  std::visit(Overloaded{
                 [&](Verdict verdict) {
                   AppendStandard(entry, verdict == Verdict::kAccept ? "ACCEPT"
                                         : verdict == Verdict::kDrop ? "DROP"
                                                                     : "RETURN");
                 },
                 [&](const Jump& jump) {
                   if (jump.chain.empty()) InvalidRule("a jump needs a chain");
                   AppendStandard(entry, jump.chain);
                 },
                 [&](const Redirect& redirect) {
                   if constexpr (F::kFamily == Family::kV4) {
                     Zeroed<nf_nat_ipv4_multi_range_compat> info;
                     info->rangesize = 1;
                     info->range[0].flags = NF_NAT_RANGE_PROTO_SPECIFIED;
                     info->range[0].min.all = info->range[0].max.all = htons(redirect.port);
                     AppendTarget(entry, "REDIRECT", 0, info);
                   } else {
                     Zeroed<nf_nat_range> info;
                     info->flags = NF_NAT_RANGE_PROTO_SPECIFIED;
                     info->min_proto.all = info->max_proto.all = htons(redirect.port);
                     AppendTarget(entry, "REDIRECT", 0, info);
                   }
                 },
                 [&](const Tproxy& tproxy) {
                   Zeroed<xt_tproxy_target_info_v1> info;
                   info->mark_mask = UINT32_MAX;
                   info->mark_value = tproxy.mark;
                   info->lport = htons(tproxy.port);
                   AppendTarget(entry, "TPROXY", 1, info);
                 },
                 [&](const SetMark& mark) {
                   Zeroed<xt_mark_tginfo2> info;
                   info->mark = mark.value;
                   info->mask = UINT32_MAX;
                   AppendTarget(entry, "MARK", 2, info);
                 },
                 [&](const CopyMark& copy) {
                   Zeroed<xt_connmark_tginfo2> info;
                   info->ctmask = info->nfmask = UINT32_MAX;
                   info->mode = copy.save ? XT_CONNMARK_SAVE : XT_CONNMARK_RESTORE;
                   AppendTarget(entry, "CONNMARK", 2, info);
                 },
                 [&](const CtZone& ct) {
                   Zeroed<xt_ct_target_info_v1> info;
                   info->zone = ct.zone;
                   AppendTarget(entry, "CT", 2, info);
                 },
                 [&](const Opaque& opaque) {
                   if (opaque.data.size() > 0x4000) InvalidRule("a target is too long");
                   Append<xt_entry_target>(entry, opaque.name, opaque.revision, opaque.data.data(), opaque.data.size());
                 },
             },
             target);
}

template <size_t kSize>
void EncodeAddress(const AddressMatch& match, void* address, void* mask) {
  if (match.prefix > kSize * 8) InvalidRule("a prefix is longer than an address");
  uint8_t bits[kSize] = {};
  for (size_t bit = 0; bit < match.prefix; ++bit) bits[bit / 8] |= static_cast<uint8_t>(0x80 >> (bit % 8));
  for (size_t i = 0; i < kSize; ++i)
    if (match.address[i] & ~bits[i]) InvalidRule("a CIDR has host bits set");
  std::memcpy(address, match.address.data(), kSize);
  std::memcpy(mask, bits, kSize);
}

void EncodeInterface(const std::string& name, char* out, unsigned char* mask) {
  if (name.empty()) return;
  if (name.size() >= IFNAMSIZ) InvalidRule("an interface name is at most 15 characters");
  std::memcpy(out, name.data(), name.size());
  std::memset(mask, 0xff, name.size() + 1);  // the final NUL as well: the whole name, not a prefix
}

}  // namespace

template <typename F>
Entry Encode(const Rule& rule) {
  Entry entry(sizeof(typename F::Entry));
  typename F::Entry header{};
  auto& ip = F::Ip(header);
  if (rule.source) {
    EncodeAddress<F::kAddressSize>(*rule.source, &ip.src, &ip.smsk);
    if (rule.source->inverted) ip.invflags |= IPT_INV_SRCIP;
  }
  if (rule.destination) {
    EncodeAddress<F::kAddressSize>(*rule.destination, &ip.dst, &ip.dmsk);
    if (rule.destination->inverted) ip.invflags |= IPT_INV_DSTIP;
  }
  EncodeInterface(rule.in_interface, ip.iniface, ip.iniface_mask);
  EncodeInterface(rule.out_interface, ip.outiface, ip.outiface_mask);
  ip.proto = rule.protocol;
  if constexpr (F::kFamily == Family::kV6)
    if (rule.protocol != 0) ip.flags |= IP6T_F_PROTO;  // without it ip6_tables ignores proto

  for (const Match& match : rule.matches) std::visit([&](const auto& m) { Encode(entry, rule.protocol, m); }, match);
  const size_t target_offset = entry.size();
  EncodeTarget<F>(entry, rule.target);
  if (entry.size() > UINT16_MAX) InvalidRule("a rule is at most 65535 bytes");
  header.target_offset = static_cast<uint16_t>(target_offset);
  header.next_offset = static_cast<uint16_t>(entry.size());
  std::memcpy(entry.data(), &header, sizeof(header));
  return entry;
}

template Entry Encode<V4>(const Rule&);
template Entry Encode<V6>(const Rule&);

}  // namespace ipnc::xtables
