// The time that the gate goes by: microseconds that no change of the date moves.
#pragma once

#include <time.h>

#include <cstdint>

namespace ipnc::gate {

inline int64_t NowUs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000 + now.tv_nsec / 1000;
}

}  // namespace ipnc::gate
