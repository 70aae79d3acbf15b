#include "native/istio.h"

#include <netinet/in.h>

namespace ipnc {
namespace {

constexpr uint32_t kMark = 1337;          // on what TPROXY captured
constexpr uint32_t kOutboundMark = 1338;  // on what the proxy sends to its own pod
constexpr uint16_t kDns = 53;
constexpr uint16_t kDnsListener = 15053;

bool IsPort(const Match& match, bool source, uint16_t port) {
  const auto* ports = std::get_if<PortMatch>(&match);
  return ports && *ports == PortMatch{source, {port, port}, false};
}

bool IsOwner(const Match& match) {
  const auto* owner = std::get_if<OwnerMatch>(&match);
  return owner && !owner->inverted;
}

bool IsMark(const Match& match, bool connection) {
  const auto* mark = std::get_if<MarkMatch>(&match);
  return mark && *mark == MarkMatch{connection, kMark, false};
}

// `-p udp --dport 53 [-d server] [owner] -j CT --zone N` and its two likes.
bool IsZone(const Rule& rule, std::string_view chain) {
  const auto* ct = std::get_if<CtZone>(&rule.target);
  if (!ct || rule.protocol != IPPROTO_UDP || rule.matches.empty() || rule.matches.size() > 2) return false;
  const bool owner = rule.matches.size() == 2;
  if (owner && !IsOwner(rule.matches[1])) return false;
  const Match& port = rule.matches[0];
  if (chain == "PREROUTING") return !owner && ct->zone == 1 && IsPort(port, true, kDns);
  if (IsPort(port, false, kDns)) return ct->zone == (owner ? 1 : 2);
  return owner && ct->zone == 2 && IsPort(port, true, kDnsListener);
}

// `-p udp --dport 53 [-d server] -j REDIRECT --to-ports 15053`
bool IsDnsRedirect(const Rule& rule) {
  const auto* redirect = std::get_if<Redirect>(&rule.target);
  return redirect && redirect->port == kDnsListener && rule.protocol == IPPROTO_UDP && rule.matches.size() == 1 &&
         IsPort(rule.matches[0], false, kDns);
}

bool IsProxysDns(const Rule& rule) {
  return rule.target == Target(Verdict::kReturn) && rule.protocol == IPPROTO_UDP && rule.matches.size() == 2 &&
         IsPort(rule.matches[0], false, kDns) && IsOwner(rule.matches[1]);
}

bool IsTproxyMark(const Rule& rule, std::string_view chain) {
  if (rule.protocol != IPPROTO_TCP || rule.matches.size() != 1) return false;
  const Match& match = rule.matches[0];
  if (chain == "PREROUTING") return rule.target == Target(CopyMark{true}) && IsMark(match, false);
  if (rule.target == Target(CopyMark{false})) return IsMark(match, true);
  if (rule.out_interface != "lo") return false;
  if (rule.target == Target(Verdict::kReturn)) return IsMark(match, false);
  return rule.target == Target(SetMark{kOutboundMark}) && IsOwner(match);
}

bool IsInterfaceReturn(const Rule& rule, std::string_view chain) {
  return rule.target == Target(Verdict::kReturn) && rule.matches.empty() && rule.protocol == 0 && !rule.source &&
         !rule.destination && rule.in_interface.empty() == (chain == "OUTPUT") &&
         rule.out_interface.empty() == (chain == "PREROUTING");
}

bool IsInvalidDrop(const Rule& rule, std::string_view chain) {
  if (chain != "PREROUTING" || rule.target != Target(Verdict::kDrop) || rule.matches.size() != 1) return false;
  const auto* conntrack = std::get_if<ConntrackMatch>(&rule.matches[0]);
  return conntrack && conntrack->states == kStateInvalid && !rule.source && !rule.destination &&
         rule.in_interface.empty() && rule.protocol == 0;
}

}  // namespace

IstioForm IstioFormOf(const Rule& rule, TableName table, std::string_view chain) {
  if (chain != "PREROUTING" && chain != "OUTPUT") return IstioForm::kNone;
  if (table == TableName::kRaw) return IsZone(rule, chain) ? IstioForm::kSure : IstioForm::kNone;
  if (IsInterfaceReturn(rule, chain)) return IstioForm::kInterface;
  if (table == TableName::kMangle) {
    if (IsTproxyMark(rule, chain)) return IstioForm::kSure;
    return IsInvalidDrop(rule, chain) ? IstioForm::kOld : IstioForm::kNone;
  }
  if (chain != "OUTPUT") return IstioForm::kNone;
  if (IsDnsRedirect(rule)) return IstioForm::kSure;
  return IsProxysDns(rule) ? IstioForm::kOld : IstioForm::kNone;
}

bool IsOldJump(const Rule& rule, std::string_view chain) {
  const auto* jump = std::get_if<Jump>(&rule.target);
  return chain == "OUTPUT" && jump && jump->chain == "ISTIO_OUTPUT" && rule.protocol == IPPROTO_TCP;
}

std::set<std::string> IstioInterfaces(const std::vector<Rule>& prerouting, const std::vector<Rule>& output) {
  std::set<std::string> out, interfaces;
  for (const Rule& rule : output)
    if (IsInterfaceReturn(rule, "OUTPUT")) out.insert(rule.out_interface);
  for (const Rule& rule : prerouting) {
    const auto* jump = std::get_if<Jump>(&rule.target);
    if ((jump && jump->chain == "ISTIO_REDIRECT" && !rule.in_interface.empty()) ||
        (IsInterfaceReturn(rule, "PREROUTING") && out.contains(rule.in_interface)))
      interfaces.insert(rule.in_interface);
  }
  return interfaces;
}

}  // namespace ipnc
