// Rule <-> the kernel's ipt_entry / ip6t_entry. Pure: no system call, no state.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "native/rule.h"
#include "native/xtables/family.h"

namespace ipnc::xtables {

// One entry, its matches and its target, 8-byte aligned, as libiptc takes it: the target of a verdict or a jump carries
// its name ("RETURN", "ISTIO_OUTPUT"), its verdict is 0, and everything the kernel keeps for itself (nfcache,
// comefrom, counters) is 0. Two rules are the same when these bytes are.
using Entry = std::vector<uint8_t>;

// Throws ERR_INVALID_RULE, naming the part of the rule, where the kernel's form cannot hold it.
template <typename F>
Entry Encode(const Rule& rule);

// The entry as it stands in a table, in the form above. `target` is its target's name as libiptc tells it.
// Throws ERR_INVALID_RULE where lengths and offsets do not fit each other.
template <typename F>
Entry Canonical(const void* entry, size_t size, std::string_view target);

// Never refuses what Canonical made: what it does not know, or what Encode would not write byte for byte the same,
// comes back as Opaque.
template <typename F>
Rule Decode(const Entry& entry);

// A match or target of nf_tables' own wrapping (NFTA_MATCH_INFO), as far as the model knows it; as it is otherwise.
Match DecodeMatch(const Opaque& raw);
template <typename F>
Target DecodeTarget(const Opaque& raw);

}  // namespace ipnc::xtables
