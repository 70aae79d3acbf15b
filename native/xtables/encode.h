// Converts rules to the kernel's ipt_entry or ip6t_entry and back. Pure: no system call, no state.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "native/rule.h"
#include "native/xtables/family.h"

namespace ipnc::xtables {

// One entry with its matches and its target, 8-byte aligned, in the form of libiptc: the target of a verdict or a jump
// has a name ("RETURN", "ISTIO_OUTPUT") and the verdict 0. The kernel's own fields (nfcache, comefrom, counters) are 0.
// Two rules are equal if these bytes are equal.
using Entry = std::vector<uint8_t>;

// Throws ERR_INVALID_RULE with the part of the rule that the kernel's form cannot hold.
template <typename F>
Entry Encode(const Rule& rule);

// The entry as it stands in a table, in the form above. `target` is its target's name as libiptc tells it.
// Throws ERR_INVALID_RULE where lengths and offsets do not fit each other.
template <typename F>
Entry Canonical(const void* entry, size_t size, std::string_view target);

// Never fails for an entry from Canonical: unknown parts, and parts that Encode would write differently, become Opaque.
template <typename F>
Rule Decode(const Entry& entry);

// A match or target of nf_tables' own wrapping (NFTA_MATCH_INFO), as far as the model knows it; as it is otherwise.
Match DecodeMatch(const Opaque& raw);
template <typename F>
Target DecodeTarget(const Opaque& raw);

}  // namespace ipnc::xtables
