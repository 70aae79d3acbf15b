// Requests to nf_tables and their answers, on a NETLINK_NETFILTER socket.
#pragma once

#include <functional>
#include <optional>

#include "native/netlink/channel.h"
#include "native/nftables/expression.h"
#include "native/nftables/netlink.h"

namespace ipnc::nftables {

// The kernel took nothing of a transaction.
struct Refusal {
  int number = 0;
  uint32_t sequence = 0;  // of the first message that it would not take
};

class Channel : private netlink::Channel {
 public:
  Channel(int socket, Budget& budget);

  // 0, or an errno; for a dump EINTR and ENOBUFS mean that it is not whole. `each` gets the messages of the answer.
  int Ask(uint16_t type, uint16_t flags, const std::function<void(Writer&)>& fill,
          const std::function<void(const Message&)>& each, uint8_t family = kInet);

  // An error that is `uncertain`: it is not known whether the kernel took the batch.
  std::optional<Refusal> Send(const Batch& batch);

  using netlink::Channel::budget;

 private:
  std::optional<Refusal> ReceiveOutcome(const Batch& batch);
  void MakeRoom(size_t size);
};

// The generation of the netns' ruleset, which grows with each transaction. Nullopt where this kernel has no nf_tables.
std::optional<uint32_t> Generation(Channel& channel);
// Of a netns in which nobody has used nf_tables (linux/net/netfilter/nf_tables_api.c, nf_tables_init_net).
inline constexpr uint32_t kFirstGeneration = 1;

// The number of chains, named sets and other objects with a name in a table of ours, or nullopt where it does not
// stand.
std::optional<uint32_t> AskTable(Channel& channel, TableName table, const std::function<void(const Message&)>& each);

// Our tables as the kernel tells of them, all of one generation: see PutRecreation for the order. Empty: it does not
// stand.
struct State {
  uint32_t generation = 0;
  std::array<Bytes, kTableNames.size()> dumps;
  const Bytes& of(TableName table) const { return dumps[static_cast<size_t>(table)]; }
};
// Nullopt where this kernel has no nf_tables.
std::optional<State> ReadState(Channel& channel);

// Others' rules that can let traffic pass by ours, at most 16, in words: "table ip x, rule in chain y: notrack". They
// are in tables that have a chain of the hooks prerouting or output, and these chains come before ours: one of type nat
// with a rule that translates addresses, or one that comes before connection tracking with a rule that exempts traffic
// from it. A verdict of accept ends only the chain that it is in, so it lets nothing pass by ours.
std::vector<std::string> RulesAhead(Channel& channel);

}  // namespace ipnc::nftables
