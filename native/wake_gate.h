// Wakes the gate that waits in a pod's network namespace: its rules stand.
#pragma once

namespace ipnc {

// To be called in the netns. It is a hint, after which the gate looks for itself: nobody listening is no error, nor is
// anything else that keeps it from being sent.
void WakeGate();

}  // namespace ipnc
