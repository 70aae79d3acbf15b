// Istio's rules in the tables of iptables-nft: `ip nat`, `ip6 nat` and the like. iptables-nft is what Istio runs by its
// own choice in a fresh pod. Nothing of ours is ever in these tables, and others share them: what is known as Istio's
// (native/istio.h) is read and removed, and nothing else.
#pragma once

#include <vector>

#include "native/nftables/channel.h"
#include "native/rule.h"

namespace ipnc::nftables {

// What is Istio's in a table, as iptables would say it.
struct IptablesTable {
  Family family;
  TableName name;
  std::vector<ipnc::Chain> chains;  // Istio's own whole, of the kernel's what is Istio's
};

// Tables in which something is Istio's. Empty where this kernel has no nf_tables.
std::vector<IptablesTable> ReadIptablesNft(Channel& channel);

// Whether there is a chain of Istio's; cheaper. `table`: in that one alone.
bool HasIptablesNft(Channel& channel, std::optional<TableName> table = {});

// Removes what is Istio's from all tables in one transaction, and returns it. A chain to which a rule of somebody else
// jumps is emptied and stays. Throws Error, and then the kernel has taken nothing of it.
std::vector<IptablesTable> RemoveIptablesNft(Channel& channel);

}  // namespace ipnc::nftables
