// Two tables of any bytes, compared: never past their end, the same in both directions, and a difference is seen. A
// table that can be taken apart is the same again once it is put together.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "native/error.h"
#include "native/fuzz/target.h"
#include "native/xtables/layout.h"

namespace {

using namespace ipnc::xtables;

template <typename F>
Blob BlobOf(const uint8_t* entries, size_t size) {
  Blob blob(sizeof(typename F::Replace) + size);
  if (size > 0) std::memcpy(blob.data() + sizeof(typename F::Replace), entries, size);
  return blob;
}

// A table of two chains of the kernel's and two others, with a rule for each of the first bytes; the rest of the bytes
// say which of its bytes are changed, and how.
template <typename F>
void TakeApart(const uint8_t* data, size_t size) {
  using Replace = typename F::Replace;
  const auto rule = [](const ipnc::Target& target) { return Encode<F>(ipnc::Rule{.target = target}); };
  const LayoutRule policy{.entry = rule(ipnc::Verdict::kAccept), .standard = true};
  Layout layout;
  layout.builtin[NF_INET_PRE_ROUTING] = {.rules = {}, .policy = policy};
  layout.builtin[NF_INET_LOCAL_OUT] = {.rules = {}, .policy = policy};
  for (const char* name : {"ONE", "OTHER"}) layout.chains[name];
  const size_t rules = size == 0 ? 0 : std::min<size_t>(size - 1, data[0] % 16);
  for (size_t i = 1; i <= rules; ++i) {
    const unsigned kind = data[i] >> 2;
    const Entry entry = rule(ipnc::MakeTarget(static_cast<int>(kind % ipnc::kTargetKinds), kind & 1 ? "ONE" : "OTHER",
                                              [&](uint32_t most) { return kind * 0x01010101U & most; }));
    const LayoutRule added = NewRule<F>(layout, entry);
    switch (data[i] & 3) {
      case 0:
        layout.builtin[NF_INET_PRE_ROUTING].rules.push_back(added);
        break;
      case 1:
        layout.builtin[NF_INET_LOCAL_OUT].rules.push_back(added);
        break;
      case 2:
        layout.chains["ONE"].push_back(added);
        break;
      default:
        layout.chains["OTHER"].push_back(added);
    }
  }
  Replace header{};
  header.valid_hooks = 1U << NF_INET_PRE_ROUTING | 1U << NF_INET_LOCAL_OUT;
  Blob read(sizeof(header));
  std::memcpy(read.data(), &header, sizeof(header));
  Blob blob = Build<F>(layout, read).blob;
  if (Build<F>(Parse<F>(blob), blob).blob != blob) __builtin_trap();

  for (size_t i = rules + 1; i + 2 < size; i += 3) {
    const size_t at = (data[i] | static_cast<size_t>(data[i + 1]) << 8) % blob.size();
    // The number of entries and the size are the kernel's own.
    if (at >= offsetof(Replace, num_entries) && at < offsetof(Replace, hook_entry)) continue;
    blob[at] = data[i + 2];
  }
  try {
    layout = Parse<F>(blob);
  } catch (const ipnc::Error& error) {
    if (error.code != ipnc::kTableLayout || error.detail.empty()) __builtin_trap();
    return;
  }
  // Chains are sorted when they are put together, so the second time is the one that must not change anything.
  const Blob once = Build<F>(layout, blob).blob;
  if (once.size() != blob.size() || Build<F>(Parse<F>(once), once).blob != once) __builtin_trap();
}

template <typename F>
void Try(const uint8_t* data, size_t size) {
  using Entry = typename F::Entry;
  // Copies of their own, so that a step past an end is seen.
  const std::vector<uint8_t> one(data, data + size / 2);
  const std::vector<uint8_t> other(data + size / 2, data + size);
  const Blob blob_one = BlobOf<F>(one.data(), one.size());
  const Blob blob_other = BlobOf<F>(other.data(), other.size());
  TakeApart<F>(data, size);
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
