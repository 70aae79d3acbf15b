// Two tables of any bytes, compared: never past their end, the same in both directions, and a difference is seen. The
// same bytes are searched for what libiptc cannot read.
#include <cstdint>
#include <cstring>

#include "native/xtables/replay.h"

namespace {

using namespace ipnc::xtables;

template <typename F>
Blob BlobOf(const uint8_t* entries, size_t size) {
  Blob blob(sizeof(typename F::Replace) + size);
  if (size > 0) std::memcpy(blob.data() + sizeof(typename F::Replace), entries, size);
  return blob;
}

template <typename F>
void Try(const uint8_t* data, size_t size) {
  using Entry = typename F::Entry;
  // Copies of their own, so that a step past an end is seen.
  const std::vector<uint8_t> one(data, data + size / 2);
  const std::vector<uint8_t> other(data + size / 2, data + size);
  const Blob blob_one = BlobOf<F>(one.data(), one.size());
  const Blob blob_other = BlobOf<F>(other.data(), other.size());
  if (LayoutFault<F>(blob_one) != LayoutFault<F>(BlobOf<F>(one.data(), one.size()))) __builtin_trap();
  const bool same = SameEntries<F>(blob_one, other.data(), other.size());
  if (same != SameEntries<F>(blob_other, one.data(), one.size())) __builtin_trap();
  if (!same && one == other && SameEntries<F>(blob_one, one.data(), one.size())) __builtin_trap();

  // A table that is well formed equals itself, and not itself with a byte of a rule changed.
  if (one.empty() || !SameEntries<F>(blob_one, one.data(), one.size())) return;
  std::vector<uint8_t> changed = one;
  changed[data[size - 1] % offsetof(Entry, nfcache)] ^= 1;
  if (SameEntries<F>(blob_one, changed.data(), changed.size())) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  if (data[0] % 2 == 0)
    Try<V4>(data + 1, size - 1);
  else
    Try<V6>(data + 1, size - 1);
  return 0;
}
