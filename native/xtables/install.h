// The iptables-legacy form of a ruleset, in one family: compiled once, then installed, checked and removed in any
// number of netns. Every function works on the netns that the calling thread is in.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "native/rule.h"
#include "native/table_result.h"
#include "native/undo.h"
#include "native/xtables/replay.h"
#include "native/xtables/table.h"

namespace ipnc::xtables {

// Ours in a table, as it is.
struct ActualTable {
  Family family;
  TableName table;
  std::vector<Chain> chains;
};

using TableSet = std::array<bool, kTableNames.size()>;  // by TableName

// The tables that exist in this netns. Asking the kernel for a table's contents would make it.
template <typename F>
TableSet Existing(int socket);

// Whether any of those holds something of ours.
template <typename F>
bool HasOurs(const Access& access, const TableSet& existing);

template <typename F>
class Tables {
 public:
  // Encodes; throws ERR_INVALID_RULE. A family that the ruleset leaves out wants nothing.
  explicit Tables(const Ruleset& ruleset);

  // Builds each table in the netns at hand, which must be a scratch one, and keeps what the kernel made of it.
  void BuildTemplates(const Access& access);

  // Installs what is wanted and removes what is not. A result for each table that is wanted or was ours. `first`: ours
  // are moved in front of others' rules that let traffic pass.
  void Apply(const Access& access, const TableSet& existing, bool first, std::vector<TableResult>& results,
             Undo& undo) const;

  // Throws ERR_VERIFY unless what is wanted stands. `results` is what Apply said.
  void RequireInstalled(const Access& access, const std::vector<TableResult>& results) const;

  struct Difference {
    std::vector<ActualTable> drift;  // tables in which ours is not what is wanted
    std::vector<ActualTable> ahead;  // others' rules that let traffic pass by ours: see TableCopy::Ahead
  };
  // Bytes, roughly.
  size_t Size() const;
  Difference Compare(const Access& access, const TableSet& existing) const;

 private:
  struct Compiled {
    Wanted wanted;
    Blob pristine;
    Blob installed;
  };
  How Install(const Access& access, TableName table, const Compiled& compiled, bool exists, bool first,
              Undo& undo) const;

  std::array<std::optional<Compiled>, kTableNames.size()> tables_;
  // Written in this order, so that a change of mode leaves no moment in which neither the old capture stands nor the
  // new one: with TPROXY mangle takes over before nat lets go, otherwise nat before mangle.
  std::array<TableName, kTableNames.size()> order_;
};

// The extensions our rules can need that this kernel lacks: "owner match, revision 1 (IPv4)".
template <typename F>
std::vector<std::string> MissingExtensions(int socket);

}  // namespace ipnc::xtables
