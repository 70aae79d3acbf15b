// How the controller names a network namespace in a pod's annotations: `<boot id>:<cookie>`
// (lib/controller/reconcile.ts).
#pragma once

#include "native/gate/text.h"

namespace ipnc::gate {

// The stamp of the calling process's netns; empty if the kernel does not support it (before Linux 5.14). An empty stamp
// equals no other.
Text<96> OwnStamp();

}  // namespace ipnc::gate
