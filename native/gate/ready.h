// Waits for the proxy, as the postStart hook of its container: the kubelet starts the application when the hook ends.
#pragma once

#include "native/gate/ending.h"
#include "native/gate/options.h"

namespace ipnc::gate {

// Asks 127.0.0.1 and [::1] in turn until one of them answers GET /healthz/ready with 200, or the time is over. Istio's
// agent answers so once Envoy has its listeners and clusters.
Ending AwaitReady(const Options& options);

}  // namespace ipnc::gate
