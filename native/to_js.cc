#include "native/to_js.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "native/nftables/encode.h"

namespace ipnc {
namespace {

using Napi::Array;
using Napi::Env;
using Napi::Object;
using Napi::Value;

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

Array TimingsToJs(Env env, const Timings& timings, double waited) {
  const std::array<double, kPhaseNames.size()> phases{waited,         timings.enter,    timings.v4,
                                                      timings.v6,     timings.nftables, timings.routes,
                                                      timings.verify, timings.release,  timings.total};
  return ArrayOf(env, phases, [env](double time) { return Napi::Number::New(env, time); });
}

std::string Hex(const uint8_t* bytes, size_t count) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (size_t i = 0; i < count; ++i) {
    hex += kDigits[bytes[i] >> 4];
    hex += kDigits[bytes[i] & 15];
  }
  return hex;
}

Object OpaqueToJs(Env env, const Opaque& opaque) {
  Object object = Object::New(env);
  object.Set("kind", "opaque");
  object.Set("name", opaque.name);
  object.Set("revision", opaque.revision);
  object.Set("data", Hex(opaque.data.data(), opaque.data.size()));
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

Object ConditionToJs(Env env, const nftables::Condition& condition) {
  const nftables::FieldInfo& info = nftables::Info(condition.field);
  std::vector<std::string> ends;
  for (const nftables::Interval& interval : condition.values) {
    ends.push_back(Hex(interval.first.data(), info.width));
    ends.push_back(Hex(interval.last.data(), info.width));
  }
  Object object = Object::New(env);
  object.Set("field", info.name);
  object.Set("not", condition.inverted);
  object.Set("values", Strings(env, ends));
  return object;
}

Object NftRuleToJs(Env env, const nftables::Rule& rule) {
  Object object = Object::New(env);
  if (!rule.opaque.empty()) {
    object.Set("opaque", rule.opaque);
    return object;
  }
  object.Set("conditions", ArrayOf(env, rule.conditions,
                                   [env](const nftables::Condition& each) { return ConditionToJs(env, each); }));
  object.Set("counter", rule.counter);
  object.Set("target", std::visit(PartToJs{env}, rule.target));
  return object;
}

Object HookToJs(Env env, const nftables::Hook& hook) {
  using nftables::Hook;
  Object object = Object::New(env);
  object.Set("type", hook.type == Hook::Type::kNat ? "nat" : hook.type == Hook::Type::kRoute ? "route" : "filter");
  object.Set("hook", hook.point == Hook::Point::kOutput ? "output" : "prerouting");
  object.Set("priority", hook.priority);
  return object;
}

Object NftTableToJs(Env env, const nftables::Table& table) {
  Object object = Object::New(env);
  object.Set("table", ToString(table.name));
  object.Set("chains", ArrayOf(env, table.chains, [env](const nftables::Chain& chain) {
               Object result = Object::New(env);
               result.Set("name", chain.name);
               if (chain.hook) result.Set("hook", HookToJs(env, *chain.hook));
               result.Set("rules", ArrayOf(env, chain.rules,
                                           [env](const nftables::Rule& rule) { return NftRuleToJs(env, rule); }));
               return result;
             }));
  return object;
}

}  // namespace

Value LayoutToJs(Env env) {
  const auto text = [env](const char* name) { return Napi::String::New(env, name); };
  Object widths = Object::New(env);
  for (const nftables::FieldInfo& field : nftables::kFields) widths.Set(field.name, field.width);
  Object layout = Object::New(env);
  layout.Set("tables", ArrayOf(env, kTableNames, [&](TableName name) { return text(ToString(name)); }));
  layout.Set("how", ArrayOf(env, kHowNames, text));
  layout.Set("phases", ArrayOf(env, kPhaseNames, text));
  layout.Set("doubts", ArrayOf(env, kDoubtNames, text));
  layout.Set("widths", widths);
  layout.Set("chains", ArrayOf(env, xtables::kOurChains, text));
  layout.Set("listChain", xtables::kListChain);
  layout.Set("comment", xtables::kRuleComment);
  layout.Set("nftChains", ArrayOf(env, nftables::kChainNames, text));
  return layout;
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
  object.Set("missingExpressions", Strings(env, result.missing_expressions));
  return object;
}

Value ToJs(Env env, const Identity& identity, const std::string& path) {
  Object object = Object::New(env);
  object.Set("path", path);
  object.Set("dev", static_cast<double>(identity.netns.dev));
  object.Set("ino", static_cast<double>(identity.netns.ino));
  object.Set("cookie", Napi::BigInt::New(env, identity.netns.cookie));
  object.Set("addresses", ArrayOf(env, identity.addresses,
                                  [env](const Address& address) { return Napi::String::New(env, address.text); }));
  object.Set("ipv6", identity.ipv6);
  object.Set("loUp", identity.loopback_up);
  object.Set("foreignUserns", identity.foreign_userns);
  std::vector<std::string> installed;
  if (identity.has_legacy) installed.push_back("iptables-legacy");
  if (identity.has_nftables) installed.push_back("nftables");
  object.Set("installedBackends", Strings(env, installed));
  object.Set("iptablesNft", identity.has_iptables_nft);
  return object;
}

Value ToJs(Env env, const Workers::Health& health) {
  Object object = Object::New(env);
  object.Set("threads", health.threads);
  object.Set("busy", health.busy);
  object.Set("stuck", health.stuck);
  object.Set("lost", health.lost);
  object.Set("queued", static_cast<double>(health.queued));
  object.Set("longestMs", static_cast<double>(health.longest.count()));
  object.Set("spare", Workers::kSpare);
  object.Set("boundMs", static_cast<double>(Workers::kBound.count()));
  return object;
}

Value ToJs(Env env, const ApplyResult& result, double waited) {
  Array flat = Array::New(env);
  uint32_t i = 0;
  flat.Set(i++, Strings(env, result.routes));
  flat.Set(i++, TimingsToJs(env, result.timings, waited));
  flat.Set(i++, result.doubts);
  for (const TableResult& table : result.tables) {
    flat.Set(i++, Napi::Number::New(env, !table.family ? 0 : table.family == Family::kV4 ? 4 : 6));
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
  object.Set("legacy",
             ArrayOf(env, result.legacy, [env](const xtables::ActualTable& table) { return TableToJs(env, table); }));
  object.Set("iptablesNft", ArrayOf(env, result.iptables_nft,
                                    [env](const xtables::ActualTable& table) { return TableToJs(env, table); }));
  object.Set("nftables",
             ArrayOf(env, result.nftables, [env](const nftables::Table& table) { return NftTableToJs(env, table); }));
  object.Set("routes", routes);
  object.Set("legacyAhead", ArrayOf(env, result.legacy_ahead,
                                    [env](const xtables::ActualTable& table) { return TableToJs(env, table); }));
  object.Set("nftablesAhead", Strings(env, result.nftables_ahead));
  object.Set("doubts", result.doubts);
  object.Set("timings", TimingsToJs(env, result.timings, waited));
  return object;
}

Value ToJs(Env env, const Error& error) {
  if (!error.rollback.empty()) {
    Error first = error;
    first.rollback.clear();
    Object object = Napi::Error::New(env, std::string(kRollback) + ": the job failed (" + Reason(first) +
                                              ") and its changes could not all be undone: " + error.rollback)
                        .Value();
    object.Set("code", kRollback);
    object.Set("rollback", error.rollback);
    object.Set("cause", ToJs(env, first));
    return object;
  }
  const std::string code = error.code.empty() ? ErrnoName(error.number) : error.code;
  std::string message = code;
  if (error.code.empty()) message.append(": ").append(std::strerror(error.number));
  if (!error.syscall.empty()) message.append(", ").append(error.syscall);
  if (!error.path.empty()) message.append(" '").append(error.path).append("'");
  if (!error.table.empty()) message.append(" (").append(error.table).append(")");
  if (!error.detail.empty()) message.append(": ").append(error.detail);
  Object object = Napi::Error::New(env, message).Value();
  object.Set("code", code);
  if (error.code.empty()) object.Set("errno", -error.number);
  if (!error.syscall.empty()) object.Set("syscall", error.syscall);
  if (!error.path.empty()) object.Set("path", error.path);
  if (!error.table.empty()) object.Set("table", error.table);
  if (!error.detail.empty()) object.Set("detail", error.detail);
  return object;
}

}  // namespace ipnc
