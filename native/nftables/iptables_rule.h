// A rule that iptables-nft wrote, as iptables would say it. Pure.
#pragma once

#include "native/nftables/netlink.h"
#include "native/rule.h"

namespace ipnc::nftables {

// `expressions` is what the kernel lists of the rule (NFTA_RULE_EXPRESSIONS): expressions of nf_tables, and matches and
// targets of iptables that it wraps. Never refuses: what is not known becomes an Opaque match or target.
ipnc::Rule ReadIptablesRule(Family family, View expressions);

}  // namespace ipnc::nftables
