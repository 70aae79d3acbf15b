// What an install or a clean-up did to one table.
#pragma once

#include <cstdint>
#include <optional>

#include "native/rule.h"

namespace ipnc {

// lib/native/addon.ts has the same list, and says what each means.
enum class How : uint8_t { kReplayed, kMerged, kReplaced, kUnchanged, kCleaned };

struct TableResult {
  std::optional<Family> family;  // absent: nftables' `inet`, which is both
  TableName table = TableName::kNat;
  How how = How::kUnchanged;
};

}  // namespace ipnc
