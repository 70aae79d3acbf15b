// Which rules in the kernel's own chains are Istio's, in every form that it has written since 1.20. They carry no
// comment of ours. Rules that jump to a chain of Istio's, and those chains, are known by the chain's name. Pure.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "native/rule.h"

namespace ipnc {

// How surely a rule is Istio's.
enum class IstioForm : uint8_t {
  kNone,
  // Nobody else writes it: zones of DNS traffic, TPROXY's marks, the agent's port 15053.
  kSure,
  // `-i net1 -j RETURN`: Istio's where Istio's chains are in the same table and IstioInterfaces says so.
  kInterface,
  // Of 1.22 and before: `-m conntrack --ctstate INVALID -j DROP`, and the proxy's own DNS requests in nat. Istio's
  // where nat has the jump of that time, see IsOldJump.
  kOld,
};

// Of a rule in PREROUTING or OUTPUT. Istio's sources: tools/istio-iptables/pkg/capture/run.go.
IstioForm IstioFormOf(const Rule& rule, TableName table, std::string_view chain);

// `-A OUTPUT -p tcp -j ISTIO_OUTPUT`, of nat. Today's Istio, and ours, jump whatever the protocol is.
bool IsOldJump(const Rule& rule, std::string_view chain);

// The interfaces whose rules of kInterface are Istio's. It writes them in pairs, `-i net1` and `-o net1`, for an
// excluded interface, and beside a jump to ISTIO_REDIRECT for a rerouted one.
std::set<std::string> IstioInterfaces(const std::vector<Rule>& prerouting, const std::vector<Rule>& output);

}  // namespace ipnc
