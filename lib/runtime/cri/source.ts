/** GetContainerEvents, which the CRI has for the kubelet. */
import { earlyEnd } from '../early-end.ts';
import type { EventSource } from '../source.ts';
import type { VersionResponse } from './messages.ts';

/** CRI-O ends the stream within 25 ms if its events are off. */
const OPEN_AFTER_MS = 100;

export const cri: EventSource = {
  name: 'cri',

  async lack({ cri, version }, signal) {
    if (!broadcasts(version)) return 'its events would be taken from the kubelet';
    return earlyEnd((signal) => cri.containerEvents(signal), OPEN_AFTER_MS, signal);
  },

  async follow({ cri, report, signal }) {
    for await (const { containerId, containerEventType, podSandboxStatus } of cri.containerEvents(signal)) {
      if (containerEventType !== 'CONTAINER_CREATED_EVENT' || podSandboxStatus?.id !== containerId) continue;
      report({ sandboxId: containerId, podUid: podSandboxStatus.metadata?.uid ?? '' });
    }
  },
};

/**
 * Whether each subscriber gets all events. In containerd 1.7 subscribers share one channel; CRI-O has a list of them
 * (server/container_events.go). An unknown runtime is assumed to share.
 */
function broadcasts({ runtimeName, runtimeVersion }: VersionResponse): boolean {
  if (runtimeName === 'cri-o') return true;
  const major = Number(/^v?(\d+)\./.exec(runtimeVersion)?.[1] ?? 0);
  return runtimeName === 'containerd' && major >= 2;
}
