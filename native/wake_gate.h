// Wakes the gate that waits in a pod's network namespace, because the rules are installed.
#pragma once

namespace ipnc {

// Must be called in the netns. It is a hint, after which the gate checks the rules itself. So it is not an error if no
// gate listens, or if the hint cannot be sent.
void WakeGate();

}  // namespace ipnc
