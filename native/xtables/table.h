// One table of one family: read what is ours, merge in what is wanted, keep everything else.
//
// Ours are the chains with our names (Istio's, whoever made them), and in the kernel's own chains the jumps to them,
// the rules that carry our comment, and Istio's own rules (native/istio.h). Nothing else is ever deleted.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "native/xtables/encode.h"
#include "native/xtables/layout.h"
#include "native/xtables/replay.h"

namespace ipnc::xtables {

inline constexpr std::array<const char*, 8> kOurChains{
    "ISTIO_DIVERT", "ISTIO_DROP",       "ISTIO_INBOUND",  "ISTIO_IN_REDIRECT",
    "ISTIO_OUTPUT", "ISTIO_OUTPUT_DNS", "ISTIO_REDIRECT", "ISTIO_TPROXY",
};
// With a number behind it: a chain of a long list (lib/ruleset/trees.ts).
inline constexpr char kListChain[] = "ISTIO_LIST_";
inline constexpr char kRuleComment[] = "istio-pod-network-controller";
// The system call that errors name where rules of others go in with ours: they may be why the kernel refuses.
inline constexpr char kMergeCall[] = "setsockopt(SO_SET_REPLACE, merge)";

bool IsOurChain(std::string_view name);

// A rule in a chain of the kernel's: ours, or a place that somebody else's rule holds.
using Slot = std::optional<Entry>;

// What a table holds, as far as it is ours.
struct State {
  std::map<std::string, std::vector<Entry>> chains;
  std::map<std::string, std::vector<Slot>> builtin;
  // Others' rules, in chains of theirs, that jump to ours, by position: they go with a chain of ours and come back with
  // it.
  std::map<std::string, std::map<unsigned, Entry>> jumps;
  // Rules that an excluded interface has of Istio, by chain and position. Another program's can look the same, so they
  // count as others' while ours are as they should be, and as Istio's when ours take its place: see Claim.
  std::map<std::string, std::map<size_t, Entry>> claimed;
  std::set<std::string> interfaces;  // of those rules
  bool claims = false;               // those rules count as ours
  bool old_istio = false;            // see native/istio.h: rules of that time count as ours

  bool HasOurs() const;
  void Claim();
};

// What a table is to hold.
struct Wanted {
  struct Builtin {
    std::vector<Entry> inserts;  // at the top
    std::vector<Entry> appends;  // where ours stood, else at the end
  };
  std::map<std::string, std::vector<Entry>> chains;
  std::map<std::string, Builtin> builtin;
};

// Whether ours is the same in both, whatever others have there.
bool SameOurs(const State& one, const State& other);

template <typename F>
Wanted Encode(const Table& table);

// The state in which `wanted` stands and others' rules keep their order. `first`: all of ours comes before them.
State Merge(const State& current, const Wanted& wanted, bool first = false);

// The state in which ours stands as it did `before`, among others' rules as they are now.
State PutBack(const State& before, const State& current);

// Whether all of ours in `current` is what is wanted, rule by rule in order, and nothing besides.
bool Matches(const State& current, const Wanted& wanted);

// A copy of a table in the netns of the socket. It is read once, and written back at most once. libiptc would trust the
// table of a hostile pod, so it is bounded, checked and taken apart here.
template <typename F>
class TableCopy {
 public:
  // Throws ERR_BUDGET if the table has more entries than the job may read, ERR_TABLE_LAYOUT as Parse() does.
  TableCopy(const Access& access, TableName table);
  State Read() const;
  // Others' rules that can let traffic pass by ours, by the kernel's chain that they are in, at most 16 of each: rules
  // in front of ours whose verdict ends the chain, and in the table raw rules that exempt traffic from connection
  // tracking. `state` is what Read() returned.
  std::map<std::string, std::vector<Entry>> Ahead(const State& state) const;
  // Changes the copy so that ours becomes `wanted`.
  void Write(const State& wanted);
  // False: somebody changed the table meanwhile, nothing was written.
  bool Commit();

 private:
  // Whether the rule, or a chain that it leads to, can let traffic pass by the rules after it.
  bool MayPass(const LayoutRule& rule, unsigned depth = 0) const;
  bool IsOurs(const Rule& rule, std::string_view chain, const State& state) const;
  bool IsIstioInterface(const Rule& rule, std::string_view chain, const State& state) const;

  Access access_;
  TableName table_;
  Blob read_;
  Layout layout_;
};

// Writes `wanted` into a table without rules, of a netns of our own, through libiptc. Throws Error.
template <typename F>
void WriteByLibiptc(TableName table, const State& wanted);

}  // namespace ipnc::xtables
