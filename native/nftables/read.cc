#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "native/error.h"
#include "native/nftables/channel.h"
#include "native/nftables/message.h"

namespace ipnc::nftables {
namespace {

// Thrown where something changed while it was being read.
struct Changed {};

// Of what a table is told in, bytes: several times our largest. A pod that may change its own tables can make them as
// large as its memory allows, which may be more than ours.
constexpr size_t kMost = size_t{4} << 20;

void Append(Bytes& bytes, View data) {
  bytes.insert(bytes.end(), data.begin(), data.end());
  bytes.resize(NLMSG_ALIGN(bytes.size()));
}

// Returns the number of messages. In each the table's name is attribute 1, as of a table itself.
uint32_t Dump(Channel& channel, uint16_t type, TableName table, const std::string& set, Bytes& bytes) {
  uint32_t count = 0;
  const int error = channel.Ask(
      type, NLM_F_DUMP,
      [&](Writer& writer) {
        writer.PutText(NFTA_TABLE_NAME, KernelName(table));
        if (!set.empty()) writer.PutText(NFTA_SET_ELEM_LIST_SET, set);
      },
      [&](const Message& message) {
        // Older kernels tell of every table.
        if (message.family != NFPROTO_INET || TableOf(message) != KernelName(table)) return;
        if (bytes.size() > kMost)
          throw Error{.number = EFBIG,
                      .syscall = "nf_tables dump",
                      .detail = "somebody has made more of it than is ever ours",
                      .table = std::string("inet ") + KernelName(table)};
        Append(bytes, message.whole);
        ++count;
      });
  if (error == EINTR || error == ENOENT) throw Changed{};
  if (error != 0)
    throw Error{.number = error, .syscall = "nf_tables dump", .table = std::string("inet ") + KernelName(table)};
  return count;
}

Bytes ReadTable(Channel& channel, TableName table) {
  Bytes dump;
  const auto use = AskTable(channel, table, [&dump](const Message& message) { Append(dump, message.whole); });
  if (!use) return {};
  uint32_t found = Dump(channel, NFT_MSG_GETCHAIN, table, {}, dump);
  Bytes sets;
  Dump(channel, NFT_MSG_GETSET, table, {}, sets);
  std::vector<std::string> names;
  View rest = sets;
  while (const auto set = TakeMessage(rest)) {
    Attributes attributes(set->attributes);
    names.emplace_back(attributes.Text(NFTA_SET_NAME));
    found += !(attributes.U32(NFTA_SET_FLAGS).value_or(0) & NFT_SET_ANONYMOUS);
  }
  if (found != *use) {
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
