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

template <typename Info>
std::optional<Info> As(const Opaque& raw, std::string_view name, uint8_t revision) {
  if (raw.name != name || raw.revision != revision ||
      raw.data.size() != XT_ALIGN(sizeof(xt_entry_match) + sizeof(Info)) - sizeof(xt_entry_match))
    return std::nullopt;
  Info info;
  std::memcpy(&info, raw.data.data(), sizeof(info));
  return info;
}

PortMatch DecodePorts(const uint16_t* spts, const uint16_t* dpts, uint8_t inverted_source, uint8_t invflags) {
  const bool source = spts[0] != 0 || spts[1] != 0xffff;
  const uint16_t* ports = source ? spts : dpts;
  return {.source = source,
          .range = {.first = ports[0], .last = ports[1]},
          .inverted = (invflags & (source ? inverted_source : inverted_source << 1)) != 0};
}

}  // namespace

// What the data says, as far as the model goes; Decode compares the bytes afterwards.
Match DecodeMatch(const Opaque& raw) {
  if (auto tcp = As<xt_tcp>(raw, "tcp", 0)) return DecodePorts(tcp->spts, tcp->dpts, XT_TCP_INV_SRCPT, tcp->invflags);
  if (auto udp = As<xt_udp>(raw, "udp", 0)) return DecodePorts(udp->spts, udp->dpts, XT_UDP_INV_SRCPT, udp->invflags);
  if (auto multiport = As<xt_multiport_v1>(raw, "multiport", 1)) {
    MultiportMatch match{.ports = {}, .inverted = multiport->invert != 0};
    for (size_t i = 0; i < multiport->count && i < XT_MULTI_PORTS; ++i) {
      const uint16_t first = multiport->ports[i];
      if (multiport->pflags[i] && i + 1 < XT_MULTI_PORTS) ++i;
      match.ports.push_back({first, multiport->ports[i]});
    }
    return match;
  }
  if (auto owner = As<xt_owner_match_info>(raw, "owner", 1)) {
    const bool gid = (owner->match & XT_OWNER_GID) != 0;
    return OwnerMatch{.gid = gid, .id = gid ? owner->gid_min : owner->uid_min, .inverted = owner->invert != 0};
  }
  if (auto conntrack = As<xt_conntrack_mtinfo3>(raw, "conntrack", 3)) return ConntrackMatch{conntrack->state_mask};
  if (auto mark = As<xt_mark_mtinfo1>(raw, "mark", 1)) return MarkMatch{false, mark->mark, mark->invert != 0};
  if (auto mark = As<xt_connmark_mtinfo1>(raw, "connmark", 1)) return MarkMatch{true, mark->mark, mark->invert != 0};
  if (auto comment = As<xt_comment_info>(raw, "comment", 0))
    return CommentMatch{std::string(comment->comment, strnlen(comment->comment, sizeof(comment->comment)))};
  return raw;
}

template <typename F>
Target DecodeTarget(const Opaque& raw) {
  if (raw.data.size() == XT_ALIGN(sizeof(xt_standard_target)) - sizeof(xt_entry_target) && raw.revision == 0 &&
      raw.data == std::vector<uint8_t>(raw.data.size())) {
    if (raw.name == "ACCEPT") return Verdict::kAccept;
    if (raw.name == "DROP") return Verdict::kDrop;
    if (raw.name == "RETURN") return Verdict::kReturn;
    if (!raw.name.empty()) return Jump{raw.name};
  }
  using Nat = std::conditional_t<F::kFamily == Family::kV4, nf_nat_ipv4_multi_range_compat, nf_nat_range>;
  if (auto nat = As<Nat>(raw, "REDIRECT", 0)) {
    if constexpr (F::kFamily == Family::kV4)
      return Redirect{ntohs(nat->range[0].min.all)};
    else
      return Redirect{ntohs(nat->min_proto.all)};
  }
  if (auto tproxy = As<xt_tproxy_target_info_v1>(raw, "TPROXY", 1))
    return Tproxy{ntohs(tproxy->lport), tproxy->mark_value};
  if (auto mark = As<xt_mark_tginfo2>(raw, "MARK", 2)) return SetMark{mark->mark};
  if (auto mark = As<xt_connmark_tginfo2>(raw, "CONNMARK", 2)) return CopyMark{mark->mode == XT_CONNMARK_SAVE};
  if (auto ct = As<xt_ct_target_info_v1>(raw, "CT", 2)) return CtZone{ct->zone};
  return raw;
}

namespace {

template <size_t kSize>
std::optional<AddressMatch> DecodeAddress(const void* address, const void* mask, bool inverted) {
  AddressMatch match{.inverted = inverted};
  std::memcpy(match.address.data(), address, kSize);
  const auto* bits = static_cast<const uint8_t*>(mask);
  while (match.prefix < kSize * 8 && (bits[match.prefix / 8] & (0x80 >> (match.prefix % 8)))) ++match.prefix;
  if (match.prefix == 0 && !inverted) return std::nullopt;
  return match;
}

// `header.u.user` of a match or target at `at`, and its data.
Opaque Raw(const Entry& entry, size_t at, size_t size) {
  xt_entry_match header;
  std::memcpy(&header, entry.data() + at, sizeof(header));
  return {.name = std::string(header.u.user.name, strnlen(header.u.user.name, sizeof(header.u.user.name))),
          .revision = header.u.user.revision,
          .data = {entry.begin() + static_cast<ptrdiff_t>(at + sizeof(header)),
                   entry.begin() + static_cast<ptrdiff_t>(at + size)}};
}

// The part as decoded where that says all of it, else as it is.
template <typename F, typename Part>
Part Exact(Part decoded, const Opaque& raw, uint8_t protocol) {
  const auto bytes = [protocol](const Part& part) {
    Rule rule{.protocol = protocol};
    if constexpr (std::is_same_v<Part, Match>)
      rule.matches.push_back(part);
    else
      rule.target = part;
    return Encode<F>(rule);
  };
  try {
    if (bytes(decoded) == bytes(raw)) return decoded;
  } catch (const Error&) {  // the model cannot hold it
  }
  return raw;
}

}  // namespace

template <typename F>
Entry Canonical(const void* raw, size_t size, std::string_view target) {
  typename F::Entry header;
  if (size < sizeof(header)) InvalidRule("an entry is shorter than its header");
  std::memcpy(&header, raw, sizeof(header));
  if (header.next_offset > size || header.target_offset < sizeof(header) ||
      header.target_offset + sizeof(xt_entry_target) > header.next_offset)
    InvalidRule("an entry's offsets do not fit its length");
  const auto* bytes = static_cast<const uint8_t*>(raw);
  Entry entry(bytes, bytes + header.next_offset);

  header.nfcache = 0;
  header.comefrom = 0;
  header.counters = {};
  std::memcpy(entry.data(), &header, sizeof(header));

  // A name is whatever stands before its first NUL; the kernel leaves what was behind.
  const auto clean_name = [&](size_t at, size_t whole, std::optional<std::string_view> name) {
    xt_entry_match part;
    std::memcpy(&part, entry.data() + at, sizeof(part));
    if (whole != part.u.match_size) InvalidRule("an entry's parts do not fit its length");
    const std::string_view kept =
        name ? *name : std::string_view(part.u.user.name, strnlen(part.u.user.name, sizeof(part.u.user.name)));
    if (kept.size() >= sizeof(part.u.user.name)) InvalidRule("a name is not ended");
    char text[sizeof(part.u.user.name)] = {};
    std::memcpy(text, kept.data(), kept.size());
    std::memcpy(part.u.user.name, text, sizeof(text));
    std::memcpy(entry.data() + at, &part, sizeof(part));
  };
  size_t at = sizeof(header);
  while (at < header.target_offset) {
    if (at + sizeof(xt_entry_match) > header.target_offset) InvalidRule("a match is cut short");
    uint16_t match_size;
    std::memcpy(&match_size, entry.data() + at, sizeof(match_size));
    if (match_size < sizeof(xt_entry_match) || at + match_size > header.target_offset)
      InvalidRule("a match is cut short");
    clean_name(at, match_size, std::nullopt);
    at += match_size;
  }
  xt_entry_target part;
  std::memcpy(&part, entry.data() + header.target_offset, sizeof(part));
  const bool standard = part.u.user.name[0] == '\0';
  clean_name(header.target_offset, static_cast<size_t>(header.next_offset) - header.target_offset, target);
  if (standard)  // a verdict is an offset into one table; the name stands for it
    std::memset(entry.data() + header.target_offset + sizeof(xt_entry_target), 0,
                header.next_offset - header.target_offset - sizeof(xt_entry_target));
  return entry;
}

template <typename F>
Rule Decode(const Entry& entry) {
  typename F::Entry header;
  if (entry.size() < sizeof(header)) InvalidRule("an entry is shorter than its header");
  std::memcpy(&header, entry.data(), sizeof(header));
  const auto& ip = F::Ip(header);
  Rule rule;
  rule.family = F::kFamily;
  rule.source = DecodeAddress<F::kAddressSize>(&ip.src, &ip.smsk, ip.invflags & IPT_INV_SRCIP);
  rule.destination = DecodeAddress<F::kAddressSize>(&ip.dst, &ip.dmsk, ip.invflags & IPT_INV_DSTIP);
  rule.in_interface.assign(ip.iniface, strnlen(ip.iniface, IFNAMSIZ));
  rule.out_interface.assign(ip.outiface, strnlen(ip.outiface, IFNAMSIZ));
  rule.protocol = static_cast<uint8_t>(ip.proto);
  for (size_t at = sizeof(header); at < header.target_offset;) {
    uint16_t size;
    std::memcpy(&size, entry.data() + at, sizeof(size));
    const Opaque raw = Raw(entry, at, size);
    rule.matches.push_back(Exact<F>(DecodeMatch(raw), raw, rule.protocol));
    at += size;
  }
  const Opaque raw = Raw(entry, header.target_offset, static_cast<size_t>(header.next_offset) - header.target_offset);
  rule.target = Exact<F>(DecodeTarget<F>(raw), raw, rule.protocol);

  Entry again;
  try {
    again = Encode<F>(rule);
  } catch (const Error&) {
  }
  if (again != entry) {  // the header says what the model cannot: an inverted interface, a fragment, another mask
    rule = {};
    rule.family = F::kFamily;
    rule.matches.push_back(Opaque{.name = "entry", .revision = 0, .data = entry});
    rule.target = raw;
  }
  return rule;
}

template Entry Canonical<V4>(const void*, size_t, std::string_view);
template Entry Canonical<V6>(const void*, size_t, std::string_view);
template Rule Decode<V4>(const Entry&);
template Rule Decode<V6>(const Entry&);
template Target DecodeTarget<V4>(const Opaque&);
template Target DecodeTarget<V6>(const Opaque&);

}  // namespace ipnc::xtables
