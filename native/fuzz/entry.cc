// Bytes as the kernel might hand them over: read as an entry, never past their end, and never misread.
#include "native/fuzz/reread.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ipnc::xtables;
  constexpr std::string_view kTargets[] = {"", "ACCEPT", "RETURN", "ISTIO_OUTPUT", "REDIRECT", "TPROXY", "MARK", "CT"};
  if (size == 0) return 0;
  const std::string_view target = kTargets[data[0] / 2 % std::size(kTargets)];
  if (data[0] % 2 == 0)
    Reread<V4>(data + 1, size - 1, target);
  else
    Reread<V6>(data + 1, size - 1, target);
  return 0;
}
