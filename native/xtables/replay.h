// A whole table as bytes: read, compare, write with one setsockopt. No allocation on the way in.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "native/budget.h"
#include "native/rule.h"
#include "native/xtables/family.h"

namespace ipnc::xtables {

// An ipt_replace / ip6t_replace with its entries, as IPT_SO_SET_REPLACE takes it. Holds no state of a call: any number
// of threads may write the same one.
using Blob = std::vector<uint8_t>;

// The blob without its entries.
template <typename F>
typename F::Replace HeaderOf(const Blob& blob) {
  typename F::Replace header;
  std::memcpy(&header, blob.data(), sizeof(header));
  return header;
}

// A netns by a socket that lives in it, and what the job may still spend there.
struct Access {
  int socket;
  Budget& budget;
  // The netns has rules of Istio 1.24 or before, even if this table's own rules do not show it: see native/istio.h.
  bool old_istio = false;
};

// The table of the netns that the socket lives in. The kernel makes a table at first touch. Throws ERR_BUDGET, before
// it is read, if the table has more entries than the job may read, and what the kernel says.
template <typename F>
Blob Read(const Access& access, TableName table);

// Whether the table is what the blob says, but for counters and what the kernel keeps for itself.
template <typename F>
bool Matches(int socket, const Blob& blob);

// Whether the table has the blob's size, number of entries and hooks: enough for one that was just written.
template <typename F>
bool LooksLike(int socket, const Blob& blob);

// The same as Stands over bytes; `entries` is as long as the blob's entries. Pure.
template <typename F>
bool SameEntries(const Blob& blob, const uint8_t* entries, size_t size);

// Writes the blob over a table that has as many entries as `pristine` has; the kernel refuses any other (EAGAIN).
// False if it did. Throws what else the kernel says.
template <typename F>
bool Replace(int socket, const Blob& blob);

// Sets what Replace asks for: a table with as many entries as `pristine`.
template <typename F>
void GuardBy(Blob& blob, const Blob& pristine);

}  // namespace ipnc::xtables
