// The nftables form of a ruleset, both families at once: compiled once, then installed, checked and removed in any
// number of netns. Every function works on the netns that `channel` belongs to.
//
// Ours are the tables `inet istio-proxy-nat`, `-mangle` and `-raw`, whoever made them, and all that is in them.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "native/nftables/channel.h"
#include "native/nftables/netlink.h"
#include "native/nftables/rule.h"
#include "native/table_result.h"
#include "native/undo.h"

namespace ipnc::nftables {

class Tables {
 public:
  // Encodes and serialises; throws ERR_INVALID_RULE. No tables: wants nothing.
  explicit Tables(std::vector<Table> tables);

  // Installs everything in a netns that has none of ours and reads it back: what this kernel refuses, or keeps in
  // another form, is refused here.
  void Try(Channel& channel) const;

  // Installs what is wanted and removes what is not, in one transaction. A result for each table that is wanted or was
  // there. `fresh`: sent without looking first; the kernel refuses it (EEXIST) where tables of ours stand, and then
  // they are looked at after all.
  void Apply(Channel& channel, bool fresh, std::vector<TableResult>& results, Undo& undo) const;

  // Throws ERR_VERIFY unless what is wanted stands. `results` is what Apply said: what was replayed is only asked for
  // by its number of objects.
  void RequireInstalled(Channel& channel, const std::vector<TableResult>& results) const;

  // Bytes that it holds, roughly.
  size_t Size() const;

  // The tables in which ours is not what is wanted, as they are.
  std::vector<Table> Drift(Channel& channel) const;

 private:
  struct Wanted {
    TableName name;
    Content content;
    Bytes messages;  // that make it
  };
  const Wanted* Find(TableName table) const;
  // Whether the table is as it is wanted, be it that it is not there.
  bool Matches(const State& state, TableName table) const;
  // False: something of ours is there.
  bool ApplyFresh(Channel& channel, uint32_t generation, std::vector<TableResult>& results, Undo& undo) const;
  bool ApplyOver(Channel& channel, const State& before, std::vector<TableResult>& results, Undo& undo) const;

  std::vector<Wanted> wanted_;
  // Where none of them is: what makes them all, and what removes them again.
  Batch fresh_;
  Batch removal_;
};

// Whether any of these tables of ours is there. False where this kernel has no nf_tables.
bool HasOurs(Channel& channel, std::span<const TableName> tables = kTableNames);

// As long as it lives no TCP comes in: what is dropped is sent again. The kernel takes it away with the socket, should
// this process end meanwhile.
class Guard {
 public:
  Guard(Channel& channel);  // throws Error
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

 private:
  Channel& channel_;
  Batch removal_;
};

// 0 if nf_tables answers, or an errno.
int ProbeGeneration(Channel& channel);

// The expressions and chain types our rules can need that this kernel lacks, in nft's words: "tproxy", "redirect".
// Tries each for real, and leaves there what the kernel took: `channel` is that of a scratch netns.
std::vector<std::string> MissingExpressions(Channel& channel);

}  // namespace ipnc::nftables
