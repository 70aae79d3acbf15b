// A legacy table as chains of rules <-> the bytes that the kernel reads and writes. Pure: no system call, no state.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "native/xtables/encode.h"
#include "native/xtables/replay.h"

namespace ipnc::xtables {

struct LayoutRule {
  Entry entry;  // as Encode makes it
  // The target is a verdict or a jump, and its name that of the verdict or the chain; empty: go on with the next rule.
  bool standard = false;
  // The number of its entry in the table that was read. The rule keeps the counters of that entry; a new rule has none.
  std::optional<size_t> number{};
};

struct BuiltinChain {
  std::vector<LayoutRule> rules;
  LayoutRule policy;
};

// Written in this order.
struct Layout {
  std::map<unsigned, BuiltinChain> builtin;  // by hook
  std::map<std::string, std::vector<LayoutRule>, std::less<>> chains;
};

// The name of the kernel's chain of a hook.
const char* HookName(unsigned hook);

// The name of a rule's target.
template <typename F>
std::string_view TargetName(const Entry& entry);

// A rule to be added to `layout`: a name of a chain in there makes it a jump.
template <typename F>
LayoutRule NewRule(const Layout& layout, const Entry& entry);

// Takes a table apart. Throws ERR_TABLE_LAYOUT where the table is not laid out as iptables does it: the kernel takes
// other tables too, from any process with NET_ADMIN, and to write them back would change what they mean. Its time is
// n log n.
template <typename F>
Layout Parse(const Blob& blob);

struct Built {
  Blob blob;
  // For each entry of the blob, the number of its entry in the table that was read.
  std::vector<std::optional<size_t>> numbers;
};

// Puts a table together, with the name and hooks of `read`, the table as it was read. Throws ERR_TABLE_LAYOUT if a rule
// jumps to a chain that is not there.
template <typename F>
Built Build(const Layout& layout, const Blob& read);

}  // namespace ipnc::xtables
