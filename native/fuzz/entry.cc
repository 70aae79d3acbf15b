// Bytes as the kernel might hand them over: read as an entry, never past their end, and never misread.
#include <cstdint>
#include <string_view>

#include "native/error.h"
#include "native/xtables/encode.h"
#include "native/xtables/family.h"

namespace {

using namespace ipnc;
using namespace ipnc::xtables;

bool IsOpaque(const Rule& rule) {
  if (rule.matches.size() != 1) return false;
  const auto* match = std::get_if<Opaque>(&rule.matches[0]);
  return match && match->name == "entry";
}

template <typename F>
void Try(const uint8_t* data, size_t size, std::string_view target) {
  Entry entry;
  try {
    entry = Canonical<F>(data, size, target);
  } catch (const Error& error) {
    if (error.code != kInvalidRule) __builtin_trap();
    return;
  }
  if (Canonical<F>(entry.data(), entry.size(), target) != entry) __builtin_trap();
  const Rule rule = Decode<F>(entry);
  if (!IsOpaque(rule) && Encode<F>(rule) != entry) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr std::string_view kTargets[] = {"", "ACCEPT", "RETURN", "ISTIO_OUTPUT", "REDIRECT", "TPROXY", "MARK", "CT"};
  if (size == 0) return 0;
  const std::string_view target = kTargets[data[0] / 2 % std::size(kTargets)];
  if (data[0] % 2 == 0)
    Try<V4>(data + 1, size - 1, target);
  else
    Try<V6>(data + 1, size - 1, target);
  return 0;
}
