// Rules' targets, of whatever numbers the caller comes up with.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "native/rule.h"

namespace ipnc {

// Kinds of targets, from 0 on: all but Opaque.
constexpr int kTargetKinds = 9;

// `number(most)` is one from 0 to `most`.
template <typename Number>
Target MakeTarget(int kind, std::string chain, Number number) {
  const auto half = [&number] { return static_cast<uint16_t>(number(UINT16_MAX)); };
  switch (kind) {
    case 0:
      return Verdict::kAccept;
    case 1:
      return Verdict::kDrop;
    case 2:
      return Verdict::kReturn;
    case 3:
      return Jump{std::move(chain)};
    case 4:
      return Redirect{half()};
    case 5:
      return Tproxy{half(), number(UINT32_MAX)};
    case 6:
      return SetMark{number(UINT32_MAX)};
    case 7:
      return CopyMark{number(1) == 1};
    default:
      return CtZone{half()};
  }
}

}  // namespace ipnc
