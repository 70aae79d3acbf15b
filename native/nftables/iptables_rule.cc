#include "native/nftables/iptables_rule.h"

// First: see native/xtables/family.h.
#include "native/xtables/encode.h"

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_tables_compat.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "native/nftables/message.h"

namespace ipnc::nftables {
namespace {

// The rest of a rule that is not known.
Opaque Unreadable(std::string name) {
  return {.name = std::move(name), .revision = 0, .data = {}};
}

AddressMatch AddressOf(const Payload& payload, const std::optional<Bitwise>& mask, const Cmp& cmp) {
  AddressMatch match{.inverted = cmp.op == NFT_CMP_NEQ};
  std::copy_n(cmp.data.bytes.begin(), cmp.data.size, match.address.begin());
  match.prefix = static_cast<uint8_t>(8 * payload.length);
  if (mask) {
    match.prefix = 0;
    for (size_t i = 0; i < mask->mask.size; ++i)
      match.prefix = static_cast<uint8_t>(match.prefix + std::popcount(mask->mask.bytes[i]));
  }
  return match;
}

// A name with its NUL is that interface; one without is the beginning of a name, "eth+".
std::string InterfaceOf(const Data& data) {
  const auto* text = reinterpret_cast<const char*>(data.bytes.data());
  std::string name(text, strnlen(text, data.size));
  if (name.size() == data.size) name += '+';
  return name;
}

uint32_t HostOrder(const Data& data) {
  uint32_t value = 0;
  std::memcpy(&value, data.bytes.data(), std::min<size_t>(data.size, sizeof(value)));
  return value;
}

// Collects what the expressions of a rule say.
class Reader {
 public:
  explicit Reader(Family family) { rule_.family = family; }
  ipnc::Rule Finish() { return std::move(rule_); }

  void Take(const Expression& expression, View raw) {
    if (const auto* meta = std::get_if<MetaLoad>(&expression))
      Load(*meta);
    else if (const auto* payload = std::get_if<Payload>(&expression))
      Load(*payload);
    else if (const auto* bitwise = std::get_if<Bitwise>(&expression))
      mask_ = *bitwise;
    else if (const auto* cmp = std::get_if<Cmp>(&expression))
      Compare(*cmp);
    else if (const auto* immediate = std::get_if<Immediate>(&expression))
      port_ = immediate->data;
    else if (const auto* verdict = std::get_if<VerdictTo>(&expression))
      rule_.target = TargetOf(*verdict);
    else if (std::holds_alternative<RedirectPort>(expression))
      rule_.target = Redirect{static_cast<uint16_t>(port_.bytes[0] << 8 | port_.bytes[1])};
    else if (const auto* unknown = std::get_if<Unknown>(&expression))
      Wrapped(unknown->name, raw);
    else if (!std::holds_alternative<Counter>(expression))
      rule_.matches.emplace_back(Unreadable("expression"));
  }

 private:
  using Loaded = std::variant<std::monostate, MetaLoad, Payload>;

  void Load(Loaded loaded) {
    loaded_ = loaded;
    mask_.reset();
  }

  void Compare(const Cmp& cmp) {
    const bool inverted = cmp.op == NFT_CMP_NEQ;
    const bool known = (cmp.op == NFT_CMP_EQ || inverted) &&
                       (std::holds_alternative<MetaLoad>(loaded_)  ? CompareMeta(std::get<MetaLoad>(loaded_).key, cmp)
                        : std::holds_alternative<Payload>(loaded_) ? ComparePayload(std::get<Payload>(loaded_), cmp)
                                                                   : false);
    if (!known) rule_.matches.emplace_back(Unreadable("cmp"));
  }

  bool CompareMeta(uint32_t key, const Cmp& cmp) {
    const bool inverted = cmp.op == NFT_CMP_NEQ;
    if (mask_) return false;
    switch (key) {
      case NFT_META_IIFNAME:
        rule_.in_interface = InterfaceOf(cmp.data);
        return !inverted;
      case NFT_META_OIFNAME:
        rule_.out_interface = InterfaceOf(cmp.data);
        return !inverted;
      case NFT_META_L4PROTO:
        rule_.protocol = cmp.data.bytes[0];
        return !inverted && cmp.data.size == 1;
      case NFT_META_MARK:
        rule_.matches.emplace_back(MarkMatch{false, HostOrder(cmp.data), inverted});
        return true;
      case NFT_META_SKUID:
      case NFT_META_SKGID:
        rule_.matches.emplace_back(OwnerMatch{key == NFT_META_SKGID, HostOrder(cmp.data), inverted});
        return true;
      default:
        return false;
    }
  }

  bool ComparePayload(const Payload& payload, const Cmp& cmp) {
    if (payload.length != cmp.data.size) return false;
    if (payload.base == NFT_PAYLOAD_TRANSPORT_HEADER) {
      if (payload.length != 2 || payload.offset > 2 || mask_) return false;
      const auto port = static_cast<uint16_t>(cmp.data.bytes[0] << 8 | cmp.data.bytes[1]);
      rule_.matches.emplace_back(PortMatch{payload.offset == 0, {port, port}, cmp.op == NFT_CMP_NEQ});
      return true;
    }
    if (payload.base != NFT_PAYLOAD_NETWORK_HEADER) return false;
    const bool v4 = rule_.family == Family::kV4;
    if (payload.length == 1 && payload.offset == (v4 ? 9 : 6) && !mask_ && cmp.op == NFT_CMP_EQ) {
      rule_.protocol = cmp.data.bytes[0];
      return true;
    }
    if (payload.offset == (v4 ? 12 : 8))
      rule_.source = AddressOf(payload, mask_, cmp);
    else if (payload.offset == (v4 ? 16 : 24))
      rule_.destination = AddressOf(payload, mask_, cmp);
    else
      return false;
    return true;
  }

  static Target TargetOf(const VerdictTo& verdict) {
    switch (verdict.code) {
      case NF_ACCEPT:
        return Verdict::kAccept;
      case NF_DROP:
        return Verdict::kDrop;
      case NFT_RETURN:
        return Verdict::kReturn;
      case NFT_JUMP:
      case NFT_GOTO:
        return Jump{verdict.chain};
      default:
        return Unreadable("verdict");
    }
  }

  // nf_tables wraps the matches and targets of iptables.
  void Wrapped(const std::string& name, View raw) {
    Attributes outer(raw);
    Attributes inner(outer.Get(NFTA_EXPR_DATA).value_or(View{}));
    const auto read = [&inner](uint16_t name, uint16_t revision, uint16_t info) {
      const View data = inner.Get(info).value_or(View{});
      return Opaque{.name = std::string(inner.Text(name)),
                    .revision = static_cast<uint8_t>(inner.U32(revision).value_or(0)),
                    .data = {data.begin(), data.end()}};
    };
    if (name == "match") {
      rule_.matches.push_back(xtables::DecodeMatch(read(NFTA_MATCH_NAME, NFTA_MATCH_REV, NFTA_MATCH_INFO)));
    } else if (name == "target") {
      const Opaque target = read(NFTA_TARGET_NAME, NFTA_TARGET_REV, NFTA_TARGET_INFO);
      rule_.target = rule_.family == Family::kV4 ? xtables::DecodeTarget<xtables::V4>(target)
                                                 : xtables::DecodeTarget<xtables::V6>(target);
    } else {
      rule_.matches.emplace_back(Unreadable(name));
    }
  }

  ipnc::Rule rule_;
  Loaded loaded_;
  std::optional<Bitwise> mask_;
  Data port_;
};

}  // namespace

ipnc::Rule ReadIptablesRule(Family family, View list) {
  Reader reader(family);
  for (const Expression& expression : ReadExpressions(list)) {
    const auto element = TakeAttribute(list);
    reader.Take(expression, element ? element->data : View{});
  }
  return reader.Finish();
}

}  // namespace ipnc::nftables
