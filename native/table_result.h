// What an install or a clean-up did to one table.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "native/rule.h"

namespace ipnc {

// lib/native/addon.ts says what each means.
enum class How : uint8_t { kReplayed, kMerged, kReplaced, kUnchanged, kCleaned };
inline constexpr std::array<const char*, 5> kHowNames{"replayed", "merged", "replaced", "unchanged", "cleaned"};

struct TableResult {
  std::optional<Family> family;  // absent: nftables' `inet`, which is both
  TableName table = TableName::kNat;
  How how = How::kUnchanged;
};

}  // namespace ipnc
