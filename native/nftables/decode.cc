#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include <algorithm>
#include <cstring>

#include "native/error.h"
#include "native/nftables/encode.h"

namespace ipnc::nftables {
namespace {

using Expressions = std::vector<Expression>;

FieldValue ValueOf(const Data& data) {
  return data.bytes;
}

// The last value of those whose bits under the mask are `first`.
FieldValue LastOf(const FieldValue& first, const Data& mask, size_t width) {
  FieldValue last = first;
  for (size_t i = 0; i < width; ++i) last[i] |= static_cast<uint8_t>(~(i < mask.size ? mask.bytes[i] : 0));
  return last;
}

FieldValue Highest(size_t width) {
  return LastOf({}, {}, width);
}

FieldValue Before(FieldValue value, size_t width) {
  for (size_t i = width; i-- > 0;)
    if (value[i]-- != 0) break;
  return value;
}

// Reads the expressions of a rule one after the other. What it makes of them is a guess: Decode compares it.
class Reader {
 public:
  explicit Reader(const Expressions& expressions) : expressions_(expressions) {}

  std::optional<Rule> Read() {
    Rule rule;
    while (auto condition = ReadCondition()) rule.conditions.push_back(std::move(*condition));
    rule.counter = Take<Counter>() != nullptr;
    auto target = ReadTarget();
    if (!target || at_ != expressions_.size()) return std::nullopt;
    rule.target = std::move(*target);
    return rule;
  }

 private:
  template <typename T>
  const T* Take() {
    const T* expression = at_ < expressions_.size() ? std::get_if<T>(&expressions_[at_]) : nullptr;
    if (expression) ++at_;
    return expression;
  }

  // The field that is loaded, and how many bytes of it.
  std::optional<std::pair<Field, size_t>> TakeLoad() {
    using Source = FieldForm::Source;
    const auto* meta = Take<MetaLoad>();
    const auto* ct = meta ? nullptr : Take<CtLoad>();
    const auto* payload = meta || ct ? nullptr : Take<Payload>();
    for (size_t i = 0; i < kFields.size(); ++i) {
      const auto field = static_cast<Field>(i);
      const FieldForm& form = FormOf(field);
      if ((meta && form.source == Source::kMeta && form.key == meta->key) ||
          (ct && form.source == Source::kCt && form.key == ct->key))
        return std::pair(field, size_t{Info(field).width});
      if (payload && payload->offset == form.key && payload->length <= Info(field).width &&
          ((form.source == Source::kNetwork && payload->base == NFT_PAYLOAD_NETWORK_HEADER) ||
           (form.source == Source::kTransport && payload->base == NFT_PAYLOAD_TRANSPORT_HEADER)))
        return std::pair(field, size_t{payload->length});
    }
    return std::nullopt;
  }

  std::optional<Condition> ReadCondition() {
    const size_t start = at_;
    const auto load = TakeLoad();
    std::optional<Condition> condition;
    if (load) condition = ReadTest(load->first, load->second);
    if (!condition) at_ = start;  // the load of a target
    return condition;
  }

  std::optional<Condition> ReadTest(Field field, size_t loaded) {
    Condition condition{field, false, {}};
    const size_t width = Info(field).width;
    Take<Hton>();
    const auto* bitwise = Take<Bitwise>();
    if (const auto* cmp = Take<Cmp>()) {
      condition.inverted = cmp->op == NFT_CMP_NEQ;
      if (field == Field::kCtState && bitwise) {
        condition.inverted = !condition.inverted;
        AddBits(condition, bitwise->mask);
        return condition;
      }
      Data mask{.bytes = Highest(loaded), .size = static_cast<uint8_t>(loaded)};
      if (bitwise) mask = bitwise->mask;
      const FieldValue first = Swapped(field, ValueOf(cmp->data));
      condition.values = {{first, LastOf(first, mask, width)}};
      return condition;
    }
    if (const auto* range = Take<Range>()) {
      condition.inverted = range->inverted;
      condition.values = {{ValueOf(range->first), ValueOf(range->last)}};
      return condition;
    }
    const auto* lookup = Take<Lookup>();
    if (!lookup) return std::nullopt;
    condition.inverted = lookup->inverted;
    AddElements(condition, *lookup);
    return condition;
  }

  static void AddBits(Condition& condition, const Data& mask) {
    const FieldValue bits = Swapped(condition.field, mask.bytes);
    for (size_t bit = 32; bit-- > 0;) {
      FieldValue value{};
      value[bit / 8] = bits[bit / 8] & static_cast<uint8_t>(0x80 >> (bit % 8));
      if (value != FieldValue{}) condition.values.push_back({value, value});
    }
  }

  static void AddElements(Condition& condition, const Lookup& lookup) {
    const size_t width = Info(condition.field).width;
    for (const Element& element : lookup.elements) {
      const FieldValue key = lookup.ranges ? element.key.bytes : Swapped(condition.field, element.key.bytes);
      if (!element.end)
        condition.values.push_back({key, lookup.ranges ? Highest(width) : key});
      else if (!condition.values.empty())
        condition.values.back().last = Before(key, width);
    }
    std::sort(condition.values.begin(), condition.values.end(),
              [](const Interval& a, const Interval& b) { return a.first < b.first; });
  }

  static uint32_t Host32(const Data& data) {
    uint32_t value;
    std::memcpy(&value, data.bytes.data(), sizeof(value));
    return value;
  }
  static uint16_t Port(const Data& data) { return static_cast<uint16_t>(data.bytes[0] << 8 | data.bytes[1]); }

  std::optional<Target> ReadTarget() {
    if (const auto* verdict = Take<VerdictTo>()) {
      if (verdict->code == NF_ACCEPT) return Verdict::kAccept;
      if (verdict->code == NF_DROP) return Verdict::kDrop;
      if (verdict->code == NFT_RETURN) return Verdict::kReturn;
      return Jump{verdict->chain};
    }
    if (Take<MetaLoad>()) return Take<CtSet>() ? std::optional<Target>(CopyMark{true}) : std::nullopt;
    if (Take<CtLoad>()) return Take<MetaSet>() ? std::optional<Target>(CopyMark{false}) : std::nullopt;
    const auto* immediate = Take<Immediate>();
    if (!immediate) return std::nullopt;
    if (Take<RedirectPort>()) return Redirect{Port(immediate->data)};
    if (Take<MetaSet>()) return SetMark{Host32(immediate->data)};
    if (Take<CtSet>()) {
      uint16_t zone;
      std::memcpy(&zone, immediate->data.bytes.data(), sizeof(zone));
      return CtZone{zone};
    }
    if (!Take<TproxyPort>()) return std::nullopt;
    const auto* mark = Take<Immediate>();
    if (!mark || !Take<MetaSet>() || !Take<VerdictTo>()) return std::nullopt;
    return Tproxy{Port(immediate->data), Host32(mark->data)};
  }

  const Expressions& expressions_;
  size_t at_ = 0;
};

const char* NameOf(const Expression& expression) {
  constexpr std::array<const char*, std::variant_size_v<Expression>> kNames{
      "meta load", "meta set", "ct load",   "ct set",  "payload", "byteorder", "bitwise", "cmp",
      "range",     "lookup",   "immediate", "verdict", "counter", "redir",     "tproxy",  ""};
  const auto* unknown = std::get_if<Unknown>(&expression);
  return unknown ? unknown->name.c_str() : kNames[expression.index()];
}

Rule OpaqueRule(std::string text) {
  Rule rule;
  rule.opaque = std::move(text);
  return rule;
}

std::optional<Hook> Decode(const HookContent& content) {
  Hook hook{.priority = content.priority};
  if (content.policy != NF_ACCEPT) return std::nullopt;
  if (content.type == "filter")
    hook.type = Hook::Type::kFilter;
  else if (content.type == "nat")
    hook.type = Hook::Type::kNat;
  else if (content.type == "route")
    hook.type = Hook::Type::kRoute;
  else
    return std::nullopt;
  if (content.point != NF_INET_PRE_ROUTING && content.point != NF_INET_LOCAL_OUT) return std::nullopt;
  hook.point = content.point == NF_INET_PRE_ROUTING ? Hook::Point::kPrerouting : Hook::Point::kOutput;
  return hook;
}

}  // namespace

Rule Decode(const std::vector<Expression>& expressions) {
  auto rule = Reader(expressions).Read();
  try {
    if (rule && Encode(*rule) == expressions) return std::move(*rule);
  } catch (const Error&) {
    // not one that we would write
  }
  std::string names;
  for (const Expression& expression : expressions)
    names += (names.empty() ? "" : ", ") + std::string(NameOf(expression));
  return OpaqueRule(names.empty() ? "nothing" : names);
}

Table Decode(TableName name, const Content& content) {
  Table table{.name = name, .chains = {}};
  for (const ChainContent& from : content.chains) {
    Chain& chain = table.chains.emplace_back();
    chain.name = from.name;
    if (from.hook) chain.hook = Decode(*from.hook);
    if (from.hook && !chain.hook)
      chain.rules.push_back(OpaqueRule("type " + from.hook->type + " hook " + std::to_string(from.hook->point) +
                                       " priority " + std::to_string(from.hook->priority) + " policy " +
                                       (from.hook->policy == NF_ACCEPT ? "accept" : "drop")));
    for (const auto& rule : from.rules) chain.rules.push_back(Decode(rule));
  }
  // The model has no other place for what is in no chain.
  if (content.others.empty()) return table;
  Chain& rest = table.chains.emplace_back();
  for (const std::string& other : content.others) rest.rules.push_back(OpaqueRule(other));
  return table;
}

}  // namespace ipnc::nftables
