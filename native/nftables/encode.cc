#include "native/nftables/encode.h"

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "native/error.h"

namespace ipnc::nftables {
namespace {

using Source = FieldForm::Source;
using Expressions = std::vector<Expression>;

constexpr std::array<FieldForm, kFields.size()> kForms{{
    {Source::kMeta, NFT_META_IIFNAME, false, 41},
    {Source::kMeta, NFT_META_OIFNAME, false, 41},
    {Source::kMeta, NFT_META_NFPROTO, false, 2},
    {Source::kNetwork, 12, false, 7},
    {Source::kNetwork, 16, false, 7},
    {Source::kNetwork, 8, false, 8},
    {Source::kNetwork, 24, false, 8},
    {Source::kMeta, NFT_META_L4PROTO, false, 12},
    {Source::kTransport, 0, false, 13},
    {Source::kTransport, 2, false, 13},
    {Source::kMeta, NFT_META_SKUID, true, 24},
    {Source::kMeta, NFT_META_SKGID, true, 25},
    {Source::kMeta, NFT_META_MARK, true, 19},
    {Source::kCt, NFT_CT_MARK, true, 19},
    {Source::kCt, NFT_CT_STATE, true, 26},
}};

Data DataOf(const FieldValue& value, size_t size) {
  Data data;
  std::copy_n(value.begin(), size, data.bytes.begin());
  data.size = static_cast<uint8_t>(size);
  return data;
}

template <typename T>
Data HostData(T value) {
  Data data;
  std::memcpy(data.bytes.data(), &value, sizeof(value));
  data.size = sizeof(value);
  return data;
}

Data PortData(uint16_t port) {
  Data data;
  data.bytes[0] = static_cast<uint8_t>(port >> 8);
  data.bytes[1] = static_cast<uint8_t>(port);
  data.size = 2;
  return data;
}

constexpr size_t kMostExpressions = 128;  // of the kernel

// False if there is none behind it.
bool Increment(FieldValue& value, size_t width) {
  for (size_t i = width; i-- > 0;)
    if (++value[i] != 0) return true;
  return false;
}

// The number of leading bits that all in the interval share, if it is all that share them.
std::optional<size_t> PrefixOf(const Interval& interval, size_t width) {
  size_t bits = 0;
  const auto bit = [](const FieldValue& value, size_t i) { return (value[i / 8] >> (7 - i % 8)) & 1; };
  while (bits < width * 8 && bit(interval.first, bits) == bit(interval.last, bits)) ++bits;
  for (size_t i = bits; i < width * 8; ++i)
    if (bit(interval.first, i) || !bit(interval.last, i)) return std::nullopt;
  return bits;
}

bool IsSingle(const Interval& interval) {
  return interval.first == interval.last;
}

// What touches joined: the kernel's sets of intervals know where one starts and ends, no more.
std::vector<Interval> Joined(const std::vector<Interval>& values, size_t width) {
  std::vector<Interval> joined;
  for (const Interval& value : values) {
    FieldValue next = joined.empty() ? FieldValue{} : joined.back().last;
    if (!joined.empty() && Increment(next, width) && next == value.first)
      joined.back().last = value.last;
    else
      joined.push_back(value);
  }
  return joined;
}

Expression LoadOf(Field field, size_t width) {
  const FieldForm& form = FormOf(field);
  switch (form.source) {
    case Source::kMeta:
      return MetaLoad{form.key};
    case Source::kCt:
      return CtLoad{form.key};
    case Source::kNetwork:
      return Payload{NFT_PAYLOAD_NETWORK_HEADER, form.key, static_cast<uint32_t>(width)};
    case Source::kTransport:
      break;
  }
  return Payload{NFT_PAYLOAD_TRANSPORT_HEADER, form.key, static_cast<uint32_t>(width)};
}

void EncodeStates(Expressions& out, const Condition& condition) {
  Data mask;
  mask.size = 4;
  for (const Interval& value : condition.values) {
    const FieldValue bit = Swapped(condition.field, value.first);
    for (size_t i = 0; i < 4; ++i) mask.bytes[i] |= bit[i];
  }
  out.push_back(LoadOf(condition.field, 4));
  out.push_back(Bitwise{mask});
  out.push_back(Cmp{condition.inverted ? NFT_CMP_EQ : NFT_CMP_NEQ, DataOf({}, 4)});
}

void EncodeInterval(Expressions& out, const Condition& condition, const Interval& value) {
  const Field field = condition.field;
  const size_t width = Info(field).width;
  const uint32_t equal = condition.inverted ? NFT_CMP_NEQ : NFT_CMP_EQ;
  if (IsSingle(value)) {
    out.push_back(LoadOf(field, width));
    out.push_back(Cmp{equal, DataOf(Swapped(field, value.first), width)});
    return;
  }
  const auto prefix = FormOf(field).source == Source::kNetwork ? PrefixOf(value, width) : std::nullopt;
  if (prefix && *prefix > 0) {
    if (*prefix % 8 == 0) {
      out.push_back(LoadOf(field, *prefix / 8));
      out.push_back(Cmp{equal, DataOf(value.first, *prefix / 8)});
      return;
    }
    FieldValue mask{};
    for (size_t bit = 0; bit < *prefix; ++bit) mask[bit / 8] |= static_cast<uint8_t>(0x80 >> (bit % 8));
    out.push_back(LoadOf(field, width));
    out.push_back(Bitwise{DataOf(mask, width)});
    out.push_back(Cmp{equal, DataOf(value.first, width)});
    return;
  }
  out.push_back(LoadOf(field, width));
  if (FormOf(field).host_order) out.push_back(Hton{});
  out.push_back(Range{condition.inverted, DataOf(value.first, width), DataOf(value.last, width)});
}

void EncodeSet(Expressions& out, const Condition& condition, const std::vector<Interval>& values, bool ranges) {
  const Field field = condition.field;
  const uint8_t width = Info(field).width;
  Lookup lookup{condition.inverted, FormOf(field).type, ranges, width, {}};
  lookup.elements.reserve(values.size() * (ranges ? 2 : 1) + 1);
  const auto add = [&](const FieldValue& key, bool end) { lookup.elements.push_back({DataOf(key, width), end}); };
  // nft says as well that nothing is in before the first.
  if (ranges && values.front().first != FieldValue{}) add({}, true);
  for (const Interval& value : values) {
    add(ranges ? value.first : Swapped(field, value.first), false);
    FieldValue behind = value.last;
    if (ranges && Increment(behind, width)) add(behind, true);
  }
  std::sort(lookup.elements.begin(), lookup.elements.end(),
            [](const Element& a, const Element& b) { return a.key < b.key; });
  out.push_back(LoadOf(field, width));
  if (ranges && FormOf(field).host_order) out.push_back(Hton{});
  out.push_back(std::move(lookup));
}

void EncodeCondition(Expressions& out, const Condition& condition) {
  if (condition.field == Field::kCtState) return EncodeStates(out, condition);
  const bool ranges = !std::all_of(condition.values.begin(), condition.values.end(), IsSingle);
  const std::vector<Interval> values =
      ranges ? Joined(condition.values, Info(condition.field).width) : condition.values;
  if (values.size() == 1)
    EncodeInterval(out, condition, values.front());
  else
    EncodeSet(out, condition, values, ranges);
}

struct TargetEncoder {
  Expressions& out;

  void operator()(Verdict verdict) const {
    out.push_back(VerdictTo{verdict == Verdict::kAccept ? NF_ACCEPT
                            : verdict == Verdict::kDrop ? NF_DROP
                                                        : static_cast<int32_t>(NFT_RETURN)});
  }
  void operator()(const Jump& jump) const { out.push_back(VerdictTo{NFT_JUMP, jump.chain}); }
  void operator()(const Redirect& redirect) const {
    out.push_back(Immediate{PortData(redirect.port)});
    out.push_back(RedirectPort{});
  }
  void operator()(const Tproxy& tproxy) const {
    out.push_back(Immediate{PortData(tproxy.port)});
    out.push_back(TproxyPort{});
    (*this)(SetMark{tproxy.mark});
    (*this)(Verdict::kAccept);
  }
  void operator()(const SetMark& mark) const {
    out.push_back(Immediate{HostData(mark.value)});
    out.push_back(MetaSet{NFT_META_MARK});
  }
  void operator()(const CopyMark& copy) const {
    if (copy.save) {
      out.push_back(MetaLoad{NFT_META_MARK});
      out.push_back(CtSet{NFT_CT_MARK});
    } else {
      out.push_back(CtLoad{NFT_CT_MARK});
      out.push_back(MetaSet{NFT_META_MARK});
    }
  }
  void operator()(const CtZone& ct) const {
    out.push_back(Immediate{HostData(ct.zone)});
    out.push_back(CtSet{NFT_CT_ZONE});
  }
  void operator()(const Opaque&) const { InvalidRule("a target is unknown to this version"); }
};

HookContent Encode(const Hook& hook) {
  constexpr std::array<const char*, 3> kTypes{"filter", "nat", "route"};
  return {.type = kTypes[static_cast<size_t>(hook.type)],
          .point = hook.point == Hook::Point::kPrerouting ? NF_INET_PRE_ROUTING : NF_INET_LOCAL_OUT,
          .priority = hook.priority,
          .policy = NF_ACCEPT};
}

}  // namespace

const FieldForm& FormOf(Field field) {
  return kForms[static_cast<size_t>(field)];
}

FieldValue Swapped(Field field, const FieldValue& value) {
  FieldValue swapped = value;
  if (FormOf(field).host_order && std::endian::native == std::endian::little)
    std::reverse(swapped.begin(), swapped.begin() + Info(field).width);
  return swapped;
}

std::vector<Expression> Encode(const Rule& rule) {
  RequireValid(rule);
  Expressions out;
  for (const Condition& condition : rule.conditions) EncodeCondition(out, condition);
  if (rule.counter) out.push_back(Counter{});
  std::visit(TargetEncoder{out}, rule.target);
  if (out.size() > kMostExpressions) InvalidRule("a rule is at most 128 expressions");
  return out;
}

Content Encode(const Table& table) {
  Content content;
  for (const Chain& chain : table.chains) {
    ChainContent& encoded = content.chains.emplace_back();
    encoded.name = chain.name;
    if (chain.hook) encoded.hook = Encode(*chain.hook);
    for (const Rule& rule : chain.rules) encoded.rules.push_back(Encode(rule));
  }
  return content;
}

bool Same(const Content& one, const Content& other) {
  return one.others == other.others &&
         std::is_permutation(one.chains.begin(), one.chains.end(), other.chains.begin(), other.chains.end());
}

}  // namespace ipnc::nftables
