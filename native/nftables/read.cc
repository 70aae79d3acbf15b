#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include <algorithm>

#include "native/error.h"
#include "native/nftables/channel.h"
#include "native/nftables/encode.h"
#include "native/nftables/message.h"

namespace ipnc::nftables {
namespace {

// Thrown where something changed while it was being read.
struct Changed {};

// Chains, named sets and other objects of a table that are read. A table of ours has at most ten chains, and the kernel
// walks a list for each set that is asked for.
constexpr uint32_t kMostNamed = 256;

std::string Named(TableName table) {
  return std::string("inet ") + KernelName(table);
}

void Append(Bytes& bytes, View data) {
  bytes.insert(bytes.end(), data.begin(), data.end());
  bytes.resize(NLMSG_ALIGN(bytes.size()));
}

void RequireDone(int error, TableName table) {
  if (error == EINTR || error == ENOENT) throw Changed{};
  if (error != 0) throw Error{.number = error, .syscall = "nf_tables dump", .table = Named(table)};
}

// Of a message of any of these types the table's name is attribute 1, as of a table itself. `set`: of that set alone.
void Dump(Channel& channel, uint16_t type, TableName table, const std::string& set, Bytes& bytes) {
  const int error = channel.Ask(
      type, NLM_F_DUMP,
      [&](Writer& writer) {
        writer.PutText(NFTA_TABLE_NAME, KernelName(table));
        if (!set.empty()) writer.PutText(NFTA_SET_ELEM_LIST_SET, set);
      },
      [&](const Message& message) {
        // Of chains, and in older kernels of more, the kernel tells of every table.
        if (message.family == NFPROTO_INET && TableOf(message) == KernelName(table)) Append(bytes, message.whole);
      });
  RequireDone(error, table);
}

struct Chains {
  struct One {
    uint64_t handle = 0;
    Bytes message;
  };
  std::vector<One> list;
  uint64_t uses = 0;  // rules, and jumps to a chain
};

// The chains that may be ours, each asked for by its name: of all chains the kernel tells only for the whole netns. In
// the order in which they were made.
Chains AskChains(Channel& channel, TableName table) {
  Chains chains;
  for (const char* name : kChainNames) {
    const int error = channel.Ask(
        NFT_MSG_GETCHAIN, 0,
        [&](Writer& writer) {
          writer.PutText(NFTA_CHAIN_TABLE, KernelName(table));
          writer.PutText(NFTA_CHAIN_NAME, name);
        },
        [&](const Message& message) {
          Attributes attributes(message.attributes);
          chains.uses += attributes.U32(NFTA_CHAIN_USE).value_or(0);
          chains.list.push_back({attributes.U64(NFTA_CHAIN_HANDLE).value_or(0), {}});
          Append(chains.list.back().message, message.whole);
        });
    if (error != ENOENT) RequireDone(error, table);
  }
  std::sort(chains.list.begin(), chains.list.end(), [](const auto& a, const auto& b) { return a.handle < b.handle; });
  return chains;
}

Bytes ReadTable(Channel& channel, TableName table) {
  Bytes dump;
  const auto use = AskTable(channel, table, [&dump](const Message& message) { Append(dump, message.whole); });
  if (!use) return {};
  if (*use > kMostNamed) Budget::Refuse("chains, sets and other objects in table " + Named(table), kMostNamed);
  const Chains chains = AskChains(channel, table);
  channel.budget().Require(chains.uses);
  Bytes sets;
  Dump(channel, NFT_MSG_GETSET, table, {}, sets);
  std::vector<std::string> names;
  size_t named = 0;
  View rest = sets;
  while (const auto set = TakeMessage(rest)) {
    Attributes attributes(set->attributes);
    names.emplace_back(attributes.Text(NFTA_SET_NAME));
    named += !(attributes.U32(NFTA_SET_FLAGS).value_or(0) & NFT_SET_ANONYMOUS);
  }
  if (chains.list.size() + named == *use) {
    for (const Chains::One& chain : chains.list) Append(dump, chain.message);
  } else {
    Dump(channel, NFT_MSG_GETCHAIN, table, {}, dump);
    Dump(channel, NFT_MSG_GETFLOWTABLE, table, {}, dump);
    Dump(channel, NFT_MSG_GETOBJ, table, {}, dump);
  }
  dump.insert(dump.end(), sets.begin(), sets.end());
  for (const std::string& name : names) Dump(channel, NFT_MSG_GETSETELEM, table, name, dump);
  Dump(channel, NFT_MSG_GETRULE, table, {}, dump);
  return dump;
}

}  // namespace

std::optional<State> ReadState(Channel& channel) {
  constexpr int kAttempts = 16;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    State state;
    const auto generation = Generation(channel);
    if (!generation) return std::nullopt;
    state.generation = *generation;
    try {
      bool any = false;
      for (TableName table : kTableNames) {
        state.dumps[static_cast<size_t>(table)] = ReadTable(channel, table);
        any = any || !state.of(table).empty();
      }
      if (!any || Generation(channel) == generation) return state;
    } catch (const Changed&) {
    }
  }
  ThrowErrno(EAGAIN, "nf_tables", "another process keeps changing the ruleset");
}

}  // namespace ipnc::nftables
