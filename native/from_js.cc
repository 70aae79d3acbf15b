#include "native/from_js.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace ipnc {
namespace {

using Napi::Array;
using Napi::Object;
using Napi::Value;

[[noreturn]] void Wrong(const Value& value, const std::string& name, const char* wanted) {
  throw Napi::TypeError::New(value.Env(), name + " must be " + wanted);
}

Object ObjectOf(const Value& value, const std::string& name) {
  if (!value.IsObject() || value.IsArray() || value.IsFunction()) Wrong(value, name, "an object");
  return value.As<Object>();
}

bool Has(const Object& object, const char* name) {
  return !object.Get(name).IsUndefined();
}

std::string StringOf(const Object& object, const char* name) {
  const Value value = object.Get(name);
  if (!value.IsString()) Wrong(value, name, "a string");
  std::string text = value.As<Napi::String>();
  if (text.find('\0') != std::string::npos) Wrong(value, name, "a string without NUL");
  return text;
}

bool BooleanOf(const Object& object, const char* name) {
  const Value value = object.Get(name);
  if (!value.IsBoolean()) Wrong(value, name, "a boolean");
  return value.As<Napi::Boolean>();
}

constexpr uint64_t kMostExact = (1ULL << 53) - 1;

uint64_t WholeOf(const Value& value, const char* name, uint64_t most = kMostExact) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number <= static_cast<double>(most)) || number != std::floor(number))
    Wrong(value, name, ("a whole number from 0 to " + std::to_string(most)).c_str());
  return static_cast<uint64_t>(number);
}

uint64_t NumberOf(const Object& object, const char* name, uint64_t most) {
  return WholeOf(object.Get(name), name, most);
}

template <typename Each>
void ForEach(const Object& object, const char* name, uint32_t most, Each each) {
  const Value value = object.Get(name);
  if (!value.IsArray()) Wrong(value, name, "an array");
  const auto array = value.As<Array>();
  if (array.Length() > most) Wrong(value, name, ("an array of at most " + std::to_string(most)).c_str());
  for (uint32_t i = 0; i < array.Length(); ++i) each(array.Get(i));
}

Family FamilyOf(const Value& value) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : 0;
  if (number != 4 && number != 6) Wrong(value, "family", "4 or 6");
  return number == 4 ? Family::kV4 : Family::kV6;
}

AddressMatch AddressOf(const Object& object, const char* name, std::optional<Family> rule_family) {
  const Object match = ObjectOf(object.Get(name), name);
  const Object cidr = ObjectOf(match.Get("cidr"), "cidr");
  const Family family = FamilyOf(cidr.Get("family"));
  if (rule_family != family) Wrong(cidr, name, "of the rule's own family");
  AddressMatch result;
  result.inverted = BooleanOf(match, "not");
  result.prefix = static_cast<uint8_t>(NumberOf(cidr, "prefix", family == Family::kV4 ? 32 : 128));
  if (inet_pton(family == Family::kV4 ? AF_INET : AF_INET6, StringOf(cidr, "address").c_str(), result.address.data()) !=
      1)
    Wrong(cidr, "address", "an address of its family");
  return result;
}

PortRange RangeOf(const Value& value) {
  const Object range = ObjectOf(value, "range");
  return {static_cast<uint16_t>(NumberOf(range, "first", 65535)),
          static_cast<uint16_t>(NumberOf(range, "last", 65535))};
}

Match MatchOf(const Value& value) {
  const Object match = ObjectOf(value, "match");
  const std::string kind = StringOf(match, "kind");
  if (kind == "port") {
    const std::string side = StringOf(match, "side");
    if (side != "source" && side != "destination") Wrong(match, "side", "source or destination");
    return PortMatch{side == "source", RangeOf(match.Get("range")), BooleanOf(match, "not")};
  }
  if (kind == "multiport") {
    MultiportMatch multiport{.ports = {}, .inverted = BooleanOf(match, "not")};
    ForEach(match, "ports", 15, [&](const Value& range) { multiport.ports.push_back(RangeOf(range)); });
    return multiport;
  }
  if (kind == "owner") {
    const bool gid = Has(match, "gid");
    if (gid == Has(match, "uid")) Wrong(match, "owner", "a uid or a gid");
    // 0xffffffff is no id (kernel: INVALID_UID)
    return OwnerMatch{gid, static_cast<uint32_t>(NumberOf(match, gid ? "gid" : "uid", UINT32_MAX - 1)),
                      BooleanOf(match, "not")};
  }
  if (kind == "conntrack") {
    ConntrackMatch conntrack;
    ForEach(match, "states", 4, [&](const Value& state) {
      const std::string name = state.IsString() ? state.As<Napi::String>().Utf8Value() : "";
      if (name == "INVALID")
        conntrack.states |= kStateInvalid;
      else if (name == "NEW")
        conntrack.states |= kStateNew;
      else if (name == "RELATED")
        conntrack.states |= kStateRelated;
      else if (name == "ESTABLISHED")
        conntrack.states |= kStateEstablished;
      else
        Wrong(state, "states", "INVALID, NEW, RELATED or ESTABLISHED");
    });
    return conntrack;
  }
  if (kind == "mark" || kind == "connmark")
    return MarkMatch{kind == "connmark", static_cast<uint32_t>(NumberOf(match, "value", UINT32_MAX)),
                     BooleanOf(match, "not")};
  if (kind == "comment") return CommentMatch{StringOf(match, "text")};
  Wrong(match, "match kind", "port, multiport, owner, conntrack, mark, connmark or comment");
}

Target TargetOf(const Value& value) {
  const Object target = ObjectOf(value, "target");
  const std::string kind = StringOf(target, "kind");
  const auto port = [&] { return static_cast<uint16_t>(NumberOf(target, "port", 65535)); };
  const auto u32 = [&](const char* name) { return static_cast<uint32_t>(NumberOf(target, name, UINT32_MAX)); };
  if (kind == "accept") return Verdict::kAccept;
  if (kind == "drop") return Verdict::kDrop;
  if (kind == "return") return Verdict::kReturn;
  if (kind == "jump") return Jump{StringOf(target, "chain")};
  if (kind == "redirect") return Redirect{port()};
  if (kind == "tproxy") return Tproxy{port(), u32("mark")};
  if (kind == "set-mark") return SetMark{u32("value")};
  if (kind == "save-mark") return CopyMark{true};
  if (kind == "restore-mark") return CopyMark{false};
  if (kind == "ct-zone") return CtZone{static_cast<uint16_t>(NumberOf(target, "zone", 65535))};
  Wrong(target, "target kind", "one of lib/ruleset/model.ts");
}

Rule RuleOf(const Value& value) {
  const Object object = ObjectOf(value, "rule");
  Rule rule;
  if (Has(object, "family")) rule.family = FamilyOf(object.Get("family"));
  if (Has(object, "source")) rule.source = AddressOf(object, "source", rule.family);
  if (Has(object, "destination")) rule.destination = AddressOf(object, "destination", rule.family);
  if (Has(object, "inInterface")) rule.in_interface = StringOf(object, "inInterface");
  if (Has(object, "outInterface")) rule.out_interface = StringOf(object, "outInterface");
  if (Has(object, "protocol")) {
    const std::string protocol = StringOf(object, "protocol");
    if (protocol != "tcp" && protocol != "udp") Wrong(object, "protocol", "tcp or udp");
    rule.protocol = protocol == "tcp" ? IPPROTO_TCP : IPPROTO_UDP;
  }
  ForEach(object, "matches", 256, [&](const Value& match) { rule.matches.push_back(MatchOf(match)); });
  rule.target = TargetOf(object.Get("target"));
  return rule;
}

constexpr uint32_t kMostRules = 100'000;

Chain ChainOf(const Value& value) {
  const Object object = ObjectOf(value, "chain");
  Chain chain{.name = StringOf(object, "name"), .builtin = BooleanOf(object, "builtin"), .inserts = {}, .rules = {}};
  ForEach(object, "inserts", kMostRules, [&](const Value& rule) { chain.inserts.push_back(RuleOf(rule)); });
  ForEach(object, "rules", kMostRules, [&](const Value& rule) { chain.rules.push_back(RuleOf(rule)); });
  return chain;
}

TableName TableNameOf(const Object& table) {
  const std::string name = StringOf(table, "name");
  for (TableName known : kTableNames)
    if (name == ToString(known)) return known;
  Wrong(table, "table name", "raw, mangle or nat");
}

constexpr uint32_t kMostChains = 4096;  // a tree of a long list has a chain for 15 ports

Table TableOf(const Value& value) {
  const Object object = ObjectOf(value, "table");
  Table table{.name = TableNameOf(object), .chains = {}};
  ForEach(object, "chains", kMostChains, [&](const Value& chain) { table.chains.push_back(ChainOf(chain)); });
  return table;
}

nftables::FieldValue FieldValueOf(const Value& value, size_t width) {
  const std::string hex = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  nftables::FieldValue bytes{};
  if (hex.size() != 2 * width) Wrong(value, "value", "as many bytes in hex as its field has");
  for (size_t i = 0; i < width; ++i) {
    const char* begin = hex.data() + 2 * i;
    const auto [end, error] = std::from_chars(begin, begin + 2, bytes[i], 16);
    if (error != std::errc() || end != begin + 2) Wrong(value, "value", "as many bytes in hex as its field has");
  }
  return bytes;
}

nftables::Condition ConditionOf(const Value& value) {
  const Object object = ObjectOf(value, "condition");
  const std::string name = StringOf(object, "field");
  const auto known = std::find_if(nftables::kFields.begin(), nftables::kFields.end(),
                                  [&name](const auto& info) { return name == info.name; });
  if (known == nftables::kFields.end()) Wrong(object, "field", "one of lib/ruleset/nftables/model.ts");
  nftables::Condition condition{.field = static_cast<nftables::Field>(known - nftables::kFields.begin()),
                                .inverted = BooleanOf(object, "not"),
                                .values = {}};
  // First and last of each in turn.
  std::vector<nftables::FieldValue> ends;
  ForEach(object, "values", 2 * kMostRules, [&](const Value& end) { ends.push_back(FieldValueOf(end, known->width)); });
  if (ends.size() % 2 != 0) Wrong(object, "values", "pairs");
  for (size_t i = 0; i < ends.size(); i += 2) condition.values.push_back({.first = ends[i], .last = ends[i + 1]});
  return condition;
}

nftables::Rule NftRuleOf(const Value& value) {
  const Object object = ObjectOf(value, "rule");
  nftables::Rule rule{
      .conditions = {}, .counter = BooleanOf(object, "counter"), .target = TargetOf(object.Get("target"))};
  ForEach(object, "conditions", nftables::kFields.size() * 2,
          [&](const Value& condition) { rule.conditions.push_back(ConditionOf(condition)); });
  return rule;
}

nftables::Hook HookOf(const Object& object) {
  using nftables::Hook;
  const std::string type = StringOf(object, "type"), point = StringOf(object, "hook");
  if (type != "filter" && type != "nat" && type != "route") Wrong(object, "type", "filter, nat or route");
  if (point != "prerouting" && point != "output") Wrong(object, "hook", "prerouting or output");
  const double priority =
      object.Get("priority").IsNumber() ? object.Get("priority").As<Napi::Number>().DoubleValue() : 0.5;
  if (!(std::abs(priority) <= 1000) || priority != std::floor(priority))
    Wrong(object, "priority", "a whole number from -1000 to 1000");
  return {.type = type == "nat"     ? Hook::Type::kNat
                  : type == "route" ? Hook::Type::kRoute
                                    : Hook::Type::kFilter,
          .point = point == "output" ? Hook::Point::kOutput : Hook::Point::kPrerouting,
          .priority = static_cast<int32_t>(priority)};
}

nftables::Chain NftChainOf(const Value& value) {
  const Object object = ObjectOf(value, "chain");
  nftables::Chain chain{.name = StringOf(object, "name"), .hook = {}, .rules = {}};
  if (Has(object, "hook")) chain.hook = HookOf(ObjectOf(object.Get("hook"), "hook"));
  ForEach(object, "rules", kMostRules, [&](const Value& rule) { chain.rules.push_back(NftRuleOf(rule)); });
  return chain;
}

nftables::Table NftTableOf(const Value& value) {
  const Object object = ObjectOf(value, "table");
  nftables::Table table{.name = TableNameOf(object), .chains = {}};
  ForEach(object, "chains", kMostChains, [&](const Value& chain) { table.chains.push_back(NftChainOf(chain)); });
  return table;
}

}  // namespace

Forms FormsFromJs(const Value& value, const Value& backend) {
  const std::string name = backend.IsString() ? backend.As<Napi::String>().Utf8Value() : "";
  if (name != "iptables-legacy" && name != "nftables") Wrong(backend, "backend", "iptables-legacy or nftables");
  const Object object = ObjectOf(value, "ruleset");
  Forms forms;
  Ruleset& ruleset = forms.ruleset;
  ForEach(object, "families", 2, [&](const Value& family) { ruleset.families.push_back(FamilyOf(family)); });
  ForEach(object, "tables", 3, [&](const Value& table) {
    if (name == "nftables")
      forms.nftables.push_back(NftTableOf(table));
    else
      ruleset.tables.push_back(TableOf(table));
  });
  const Object routes = ObjectOf(object.Get("routes"), "routes");
  ruleset.routes.loopback6 = BooleanOf(routes, "loopback6");
  if (Has(routes, "tproxy")) {
    const Object tproxy = ObjectOf(routes.Get("tproxy"), "tproxy");
    ruleset.routes.tproxy = {static_cast<uint32_t>(NumberOf(tproxy, "mark", UINT32_MAX)),
                             static_cast<uint32_t>(NumberOf(tproxy, "table", UINT32_MAX))};
  }
  return forms;
}

std::string PathFromJs(const Value& value) {
  std::string path = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  if (path.empty() || path.find('\0') != std::string::npos) Wrong(value, "path", "a path");
  return path;
}

NetnsRef NetnsFromJs(const Napi::CallbackInfo& info) {
  NetnsRef netns{.path = PathFromJs(info[0]), .identity = {}};
  netns.identity.dev = WholeOf(info[1], "dev");
  netns.identity.ino = WholeOf(info[2], "ino");
  if (!info[3].IsBigInt()) Wrong(info[3], "cookie", "a bigint");
  bool lossless = false;
  netns.identity.cookie = info[3].As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) Wrong(info[3], "cookie", "a bigint of 64 bits");
  return netns;
}

}  // namespace ipnc
