// What must hold of any bytes that are read as an entry.
#pragma once

#include <cstdint>
#include <string_view>

#include "native/error.h"
#include "native/xtables/encode.h"
#include "native/xtables/family.h"

namespace ipnc::xtables {

// Refused, or read and written again byte for byte, or marked as unknown. Traps otherwise.
template <typename F>
void Reread(const uint8_t* data, size_t size, std::string_view target) {
  Entry entry;
  try {
    entry = Canonical<F>(data, size, target);
  } catch (const Error& error) {
    if (error.code != kInvalidRule) __builtin_trap();
    return;
  }
  if (Canonical<F>(entry.data(), entry.size(), target) != entry) __builtin_trap();
  const Rule rule = Decode<F>(entry);
  const auto* first = rule.matches.size() == 1 ? std::get_if<Opaque>(&rule.matches[0]) : nullptr;
  const bool unknown = first && first->name == "entry";
  if (!unknown && Encode<F>(rule) != entry) __builtin_trap();
}

}  // namespace ipnc::xtables
