// Recognises Istio's rules in the kernel's own chains, in every form that Istio has written since 1.20. They do not
// have our comment. Istio's chains, and rules that jump to them, are recognised by the name of the chain. Pure.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "native/rule.h"

namespace ipnc {

// How certain it is that a rule is Istio's.
enum class IstioForm : uint8_t {
  kNone,
  // Only Istio writes it: zones of DNS traffic, TPROXY's marks, the agent's port 15053.
  kSure,
  // `-i net1 -j RETURN`: Istio's if its chains are in the same table and IstioInterfaces says so.
  kInterface,
  // `-m conntrack --ctstate INVALID -j DROP` (until about 1.24), and the proxy's own DNS requests in nat (until 1.22).
  // They are Istio's if nat has the jump of that time, see IsOldJump.
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
