#include "native/marshal.h"

#include <arpa/inet.h>

#include <cmath>
#include <cstring>

namespace ipnc {
namespace {

using Napi::Array;
using Napi::Env;
using Napi::Object;
using Napi::Value;

// --- in ---

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

Table TableOf(const Value& value) {
  const Object object = ObjectOf(value, "table");
  const std::string name = StringOf(object, "name");
  for (TableName known : kTableNames) {
    if (name != ToString(known)) continue;
    Table table{.name = known, .chains = {}};
    ForEach(object, "chains", 64, [&](const Value& chain) { table.chains.push_back(ChainOf(chain)); });
    return table;
  }
  Wrong(object, "table name", "raw, mangle or nat");
}

// --- out ---

Value FamilyToJs(Env env, Family family) {
  return Napi::Number::New(env, family == Family::kV4 ? 4 : 6);
}

template <typename Items, typename Convert>
Array ArrayOf(Env env, const Items& items, Convert convert) {
  Array array = Array::New(env, items.size());
  uint32_t i = 0;
  for (const auto& item : items) array.Set(i++, convert(item));
  return array;
}

Array Strings(Env env, const std::vector<std::string>& strings) {
  return ArrayOf(env, strings, [env](const std::string& text) { return Napi::String::New(env, text); });
}

Object TimingsToJs(Env env, const Timings& timings, double waited) {
  Object object = Object::New(env);
  object.Set("queue", waited);
  object.Set("enter", timings.enter);
  object.Set("v4", timings.v4);
  object.Set("v6", timings.v6);
  object.Set("routes", timings.routes);
  object.Set("verify", timings.verify);
  object.Set("total", timings.total);
  return object;
}

Object OpaqueToJs(Env env, const Opaque& opaque) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (uint8_t byte : opaque.data) {
    hex += kDigits[byte >> 4];
    hex += kDigits[byte & 15];
  }
  Object object = Object::New(env);
  object.Set("kind", "opaque");
  object.Set("name", opaque.name);
  object.Set("revision", opaque.revision);
  object.Set("data", hex);
  return object;
}

Object RangeToJs(Env env, const PortRange& range) {
  Object object = Object::New(env);
  object.Set("first", range.first);
  object.Set("last", range.last);
  return object;
}

struct PartToJs {
  Env env;
  Object Kind(const char* kind) const {
    Object object = Object::New(env);
    object.Set("kind", kind);
    return object;
  }
  Object With(const char* kind, const char* name, uint32_t value) const {
    Object object = Kind(kind);
    object.Set(name, value);
    return object;
  }
  Object operator()(const PortMatch& match) const {
    Object object = Kind("port");
    object.Set("side", match.source ? "source" : "destination");
    object.Set("range", RangeToJs(env, match.range));
    object.Set("not", match.inverted);
    return object;
  }
  Object operator()(const MultiportMatch& match) const {
    Object object = Kind("multiport");
    object.Set("ports", ArrayOf(env, match.ports, [this](const PortRange& range) { return RangeToJs(env, range); }));
    object.Set("not", match.inverted);
    return object;
  }
  Object operator()(const OwnerMatch& match) const {
    Object object = With("owner", match.gid ? "gid" : "uid", match.id);
    object.Set("not", match.inverted);
    return object;
  }
  Object operator()(const ConntrackMatch& match) const {
    std::vector<std::string> states;
    if (match.states & kStateInvalid) states.push_back("INVALID");
    if (match.states & kStateNew) states.push_back("NEW");
    if (match.states & kStateRelated) states.push_back("RELATED");
    if (match.states & kStateEstablished) states.push_back("ESTABLISHED");
    Object object = Kind("conntrack");
    object.Set("states", Strings(env, states));
    return object;
  }
  Object operator()(const MarkMatch& match) const {
    Object object = With(match.connection ? "connmark" : "mark", "value", match.value);
    object.Set("not", match.inverted);
    return object;
  }
  Object operator()(const CommentMatch& match) const {
    Object object = Kind("comment");
    object.Set("text", match.text);
    return object;
  }
  Object operator()(const Opaque& opaque) const { return OpaqueToJs(env, opaque); }
  Object operator()(Verdict verdict) const {
    return Kind(verdict == Verdict::kAccept ? "accept" : verdict == Verdict::kDrop ? "drop" : "return");
  }
  Object operator()(const Jump& jump) const {
    Object object = Kind("jump");
    object.Set("chain", jump.chain);
    return object;
  }
  Object operator()(const Redirect& redirect) const { return With("redirect", "port", redirect.port); }
  Object operator()(const Tproxy& tproxy) const {
    Object object = With("tproxy", "port", tproxy.port);
    object.Set("mark", tproxy.mark);
    return object;
  }
  Object operator()(const SetMark& mark) const { return With("set-mark", "value", mark.value); }
  Object operator()(const CopyMark& copy) const { return Kind(copy.save ? "save-mark" : "restore-mark"); }
  Object operator()(const CtZone& zone) const { return With("ct-zone", "zone", zone.zone); }
};

Object AddressToJs(Env env, const AddressMatch& match, Family family) {
  char text[INET6_ADDRSTRLEN];
  inet_ntop(family == Family::kV4 ? AF_INET : AF_INET6, match.address.data(), text, sizeof(text));
  Object cidr = Object::New(env);
  cidr.Set("family", FamilyToJs(env, family));
  cidr.Set("address", text);
  cidr.Set("prefix", match.prefix);
  Object object = Object::New(env);
  object.Set("cidr", cidr);
  object.Set("not", match.inverted);
  return object;
}

Object RuleToJs(Env env, const Rule& rule, Family family) {
  Object object = Object::New(env);
  object.Set("family", FamilyToJs(env, family));
  if (rule.source) object.Set("source", AddressToJs(env, *rule.source, family));
  if (rule.destination) object.Set("destination", AddressToJs(env, *rule.destination, family));
  if (!rule.in_interface.empty()) object.Set("inInterface", rule.in_interface);
  if (!rule.out_interface.empty()) object.Set("outInterface", rule.out_interface);
  if (rule.protocol == IPPROTO_TCP) object.Set("protocol", "tcp");
  if (rule.protocol == IPPROTO_UDP) object.Set("protocol", "udp");
  const PartToJs part{env};
  object.Set("matches", ArrayOf(env, rule.matches, [&](const Match& match) { return std::visit(part, match); }));
  object.Set("target", std::visit(part, rule.target));
  return object;
}

Object TableToJs(Env env, const xtables::ActualTable& table) {
  Object object = Object::New(env);
  object.Set("family", FamilyToJs(env, table.family));
  object.Set("table", ToString(table.table));
  object.Set("chains", ArrayOf(env, table.chains, [&](const Chain& chain) {
               Object result = Object::New(env);
               result.Set("name", chain.name);
               result.Set("builtin", chain.builtin);
               result.Set("rules", ArrayOf(env, chain.rules,
                                           [&](const Rule& rule) { return RuleToJs(env, rule, table.family); }));
               return result;
             }));
  return object;
}

// "ESTALE"; the kernel's internal 524 and such have no name.
std::string ErrnoName(int number) {
  const char* name = strerrorname_np(number);
  return name ? name : "E" + std::to_string(number);
}

}  // namespace

Ruleset RulesetFromJs(const Value& value) {
  const Object object = ObjectOf(value, "ruleset");
  Ruleset ruleset;
  ForEach(object, "families", 2, [&](const Value& family) { ruleset.families.push_back(FamilyOf(family)); });
  ForEach(object, "tables", 3, [&](const Value& table) { ruleset.tables.push_back(TableOf(table)); });
  const Object routes = ObjectOf(object.Get("routes"), "routes");
  ruleset.routes.loopback6 = BooleanOf(routes, "loopback6");
  if (Has(routes, "tproxy")) {
    const Object tproxy = ObjectOf(routes.Get("tproxy"), "tproxy");
    ruleset.routes.tproxy = {static_cast<uint32_t>(NumberOf(tproxy, "mark", UINT32_MAX)),
                             static_cast<uint32_t>(NumberOf(tproxy, "table", UINT32_MAX))};
  }
  return ruleset;
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

Value ToJs(Env env, const ProbeResult& result) {
  const auto outcome = [env](int error) -> Value {
    if (error == 0) return Napi::Boolean::New(env, true);
    return Napi::String::New(env, ErrnoName(error));
  };
  Object legacy = Object::New(env);
  for (Family family : {Family::kV4, Family::kV6}) {
    Object tables = Object::New(env);
    for (TableName name : kTableNames) tables.Set(ToString(name), outcome(result.netns));
    for (const auto& table : result.legacy)
      if (table.family == family) tables.Set(ToString(table.name), outcome(table.error));
    legacy.Set(family == Family::kV4 ? "4" : "6", tables);
  }
  Object object = Object::New(env);
  object.Set("legacy", legacy);
  object.Set("nftables", outcome(result.netns ? result.netns : result.nftables));
  object.Set("netns", outcome(result.netns));
  object.Set("missingExtensions", Strings(env, result.missing_extensions));
  return object;
}

Value ToJs(Env env, const Identity& identity, const std::string& path) {
  Object object = Object::New(env);
  object.Set("path", path);
  object.Set("dev", static_cast<double>(identity.netns.dev));
  object.Set("ino", static_cast<double>(identity.netns.ino));
  object.Set("cookie", Napi::BigInt::New(env, identity.netns.cookie));
  object.Set("families", ArrayOf(env, identity.families, [env](Family family) { return FamilyToJs(env, family); }));
  object.Set("ipv6", identity.ipv6);
  object.Set("loUp", identity.loopback_up);
  return object;
}

Value ToJs(Env env, const ApplyResult& result, double waited) {
  Array flat = Array::New(env);
  uint32_t i = 0;
  const Timings& timings = result.timings;
  flat.Set(i++, Strings(env, result.routes));
  for (double time : {waited, timings.enter, timings.v4, timings.v6, timings.routes, timings.verify, timings.total})
    flat.Set(i++, Napi::Number::New(env, time));
  for (const xtables::TableResult& table : result.tables) {
    flat.Set(i++, FamilyToJs(env, table.family));
    flat.Set(i++, Napi::Number::New(env, static_cast<double>(table.table)));
    flat.Set(i++, Napi::Number::New(env, static_cast<double>(table.how)));
  }
  return flat;
}

Value ToJs(Env env, const VerifyResult& result, double waited) {
  Object routes = Object::New(env);
  routes.Set("missing", Strings(env, result.missing_routes));
  routes.Set("surplus", Strings(env, result.surplus_routes));
  Object object = Object::New(env);
  object.Set("backend", "iptables-legacy");
  object.Set("ok", result.tables.empty() && result.missing_routes.empty() && result.surplus_routes.empty());
  object.Set("tables",
             ArrayOf(env, result.tables, [env](const xtables::ActualTable& table) { return TableToJs(env, table); }));
  object.Set("routes", routes);
  object.Set("timings", TimingsToJs(env, result.timings, waited));
  return object;
}

Value ToJs(Env env, const Error& error) {
  const std::string code = error.code.empty() ? ErrnoName(error.number) : error.code;
  std::string message = code;
  if (error.code.empty()) message += std::string(": ") + std::strerror(error.number);
  if (!error.syscall.empty()) message += ", " + error.syscall;
  if (!error.path.empty()) message += " '" + error.path + "'";
  if (!error.table.empty()) message += " (" + error.table + ")";
  if (!error.detail.empty()) message += ": " + error.detail;
  if (!error.rollback.empty()) message += "; could not be put back: " + error.rollback;
  Object object = Napi::Error::New(env, message).Value();
  object.Set("code", code);
  if (error.code.empty()) object.Set("errno", -error.number);
  if (!error.syscall.empty()) object.Set("syscall", error.syscall);
  if (!error.path.empty()) object.Set("path", error.path);
  if (!error.table.empty()) object.Set("table", error.table);
  if (!error.rollback.empty()) object.Set("rollback", error.rollback);
  return object;
}

}  // namespace ipnc
