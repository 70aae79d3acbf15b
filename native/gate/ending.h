// How the gate ends, and the line that says why.
#pragma once

#include "native/gate/text.h"

namespace ipnc::gate {

struct Ending {
  int code;
  Line line;
};

}  // namespace ipnc::gate
