// The clock of the gate, in microseconds. It does not change when the date is set.
#pragma once

#include <time.h>

#include <cstdint>

namespace ipnc::gate {

inline int64_t NowUs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000 + now.tv_nsec / 1000;
}

// `12.3 ms` below a second, `12.3 s` from there on.
inline Text<32> Duration(int64_t us) {
  const bool seconds = us >= 1'000'000;
  const auto tenths = static_cast<uint64_t>(us / (seconds ? 100'000 : 100));
  Text<32> text;
  text << tenths / 10 << '.' << tenths % 10 << (seconds ? " s" : " ms");
  return text;
}

}  // namespace ipnc::gate
