// How the controller names a network namespace in a pod's annotations: `<boot id>:<cookie>`
// (lib/controller/reconcile.ts).
#pragma once

#include "native/gate/text.h"

namespace ipnc::gate {

// Of the netns that the calling process is in; empty where the kernel does not tell (before Linux 5.14), and an empty
// one equals no stamp.
Text<96> OwnStamp();

}  // namespace ipnc::gate
