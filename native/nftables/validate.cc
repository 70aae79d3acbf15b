// Checks again what JavaScript has already checked, because this code runs as root.
#include <netinet/in.h>

#include <linux/netfilter.h>

#include <algorithm>
#include <map>
#include <set>

#include "native/error.h"
#include "native/nftables/encode.h"

namespace ipnc::nftables {
namespace {

[[noreturn]] void Refuse(Field field, const char* what) {
  InvalidRule(std::string("a condition on ") + Info(field).name + " " + what);
}

bool IsZeroFrom(const FieldValue& value, size_t at) {
  return std::all_of(value.begin() + static_cast<ptrdiff_t>(at), value.end(), [](uint8_t byte) { return byte == 0; });
}

bool IsOneOf(const Interval& value, std::initializer_list<uint8_t> allowed) {
  return value.first == value.last && std::find(allowed.begin(), allowed.end(), value.first[0]) != allowed.end();
}

void RequireName(Field field, const Interval& value) {
  const size_t length = static_cast<size_t>(std::find(value.first.begin(), value.first.end(), 0) - value.first.begin());
  if (value.first != value.last) Refuse(field, "is a range");
  if (length == 0 || length == value.first.size()) Refuse(field, "needs a name of 1 to 15 bytes");
  if (!IsZeroFrom(value.first, length)) Refuse(field, "has something behind the name");
}

void RequireState(Field field, const Interval& value) {
  int bits = 0;
  for (size_t i = 0; i < 4; ++i) bits += __builtin_popcount(value.first[i]);
  if (value.first != value.last || bits != 1) Refuse(field, "needs one bit a value");
}

void RequireValid(const Condition& condition) {
  if (static_cast<size_t>(condition.field) >= kFields.size()) InvalidRule("a condition on an unknown field");
  const Field field = condition.field;
  if (condition.values.empty()) Refuse(field, "needs a value");
  const Interval* previous = nullptr;
  for (const Interval& value : condition.values) {
    if (!IsZeroFrom(value.first, Info(field).width) || !IsZeroFrom(value.last, Info(field).width))
      Refuse(field, "has a value that is too wide");
    if (value.first > value.last) Refuse(field, "has an interval that starts above its end");
    if (previous && value.first <= previous->last) Refuse(field, "has values that are not sorted and disjoint");
    previous = &value;
    if (field == Field::kInInterface || field == Field::kOutInterface) RequireName(field, value);
    if (field == Field::kNfproto && !IsOneOf(value, {NFPROTO_IPV4, NFPROTO_IPV6}))
      Refuse(field, "is neither ipv4 nor ipv6");
    if (field == Field::kCtState) RequireState(field, value);
  }
}

// Whether the rule says that the field is one of these.
bool Says(const Rule& rule, Field field, std::initializer_list<uint8_t> allowed) {
  return std::any_of(rule.conditions.begin(), rule.conditions.end(), [&](const Condition& condition) {
    return condition.field == field && !condition.inverted &&
           std::all_of(condition.values.begin(), condition.values.end(),
                       [&](const Interval& value) { return IsOneOf(value, allowed); });
  });
}

void RequireNeeds(const Rule& rule, Field field) {
  switch (field) {
    case Field::kSource4:
    case Field::kDestination4:
      if (!Says(rule, Field::kNfproto, {NFPROTO_IPV4})) Refuse(field, "needs nfproto ipv4");
      return;
    case Field::kSource6:
    case Field::kDestination6:
      if (!Says(rule, Field::kNfproto, {NFPROTO_IPV6})) Refuse(field, "needs nfproto ipv6");
      return;
    case Field::kSourcePort:
    case Field::kDestinationPort:
      if (!Says(rule, Field::kL4proto, {IPPROTO_TCP, IPPROTO_UDP})) Refuse(field, "needs l4proto tcp or udp");
      return;
    default:
      return;
  }
}

// Throws if a jump leads out of the table, to a chain with a hook, or into a loop.
class Jumps {
 public:
  explicit Jumps(const Table& table) {
    for (const Chain& chain : table.chains)
      if (!chains_.emplace(chain.name, &chain).second) InvalidRule("the chain " + chain.name + " comes twice");
  }
  void Follow(const Chain& chain) {
    if (done_.contains(chain.name)) return;
    if (!open_.insert(chain.name).second) InvalidRule("the chain " + chain.name + " leads back to itself");
    for (const Rule& rule : chain.rules) {
      const auto* jump = std::get_if<Jump>(&rule.target);
      if (!jump) continue;
      const auto target = chains_.find(jump->chain);
      if (target == chains_.end()) InvalidRule("a jump leads to " + jump->chain + ", which is not in the table");
      if (target->second->hook) InvalidRule("a jump leads to " + jump->chain + ", which has a hook");
      Follow(*target->second);
    }
    open_.erase(chain.name);
    done_.insert(chain.name);
  }

 private:
  std::map<std::string, const Chain*> chains_;
  std::set<std::string> open_;
  std::set<std::string> done_;
};

}  // namespace

void RequireValid(const Rule& rule) {
  if (!rule.opaque.empty()) InvalidRule("a rule has parts that this version does not know");
  const Condition* previous = nullptr;
  for (const Condition& condition : rule.conditions) {
    RequireValid(condition);
    if (previous && condition.field < previous->field) InvalidRule("conditions are not in the order of their fields");
    if (previous && condition.field == previous->field && !condition.inverted && !previous->inverted)
      Refuse(condition.field, "comes twice");
    previous = &condition;
    RequireNeeds(rule, condition.field);
  }
  if (std::holds_alternative<Redirect>(rule.target) && !Says(rule, Field::kL4proto, {IPPROTO_TCP, IPPROTO_UDP}))
    InvalidRule("a redirect needs l4proto tcp or udp");
  if (std::holds_alternative<Tproxy>(rule.target) && !Says(rule, Field::kL4proto, {IPPROTO_TCP, IPPROTO_UDP}))
    InvalidRule("tproxy needs l4proto tcp or udp");
  const auto* jump = std::get_if<Jump>(&rule.target);
  if (jump && jump->chain.empty()) InvalidRule("a jump needs a chain");
}

void RequireValid(const std::vector<Table>& tables) {
  std::set<TableName> names;
  for (const Table& table : tables) {
    if (static_cast<size_t>(table.name) >= kTableNames.size()) InvalidRule("there is no such table");
    if (!names.insert(table.name).second)
      InvalidRule(std::string("the table ") + ToString(table.name) + " comes twice");
    Jumps jumps(table);
    for (const Chain& chain : table.chains) {
      if (std::find(kChainNames.begin(), kChainNames.end(), chain.name) == kChainNames.end())
        InvalidRule("the chain " + chain.name + " is not a chain of this project");
      jumps.Follow(chain);
    }
  }
}

}  // namespace ipnc::nftables
