/** GetContainerEvents, which the CRI has for the kubelet. */
import { keepNewest } from '../../bounded.ts';
import { opened } from '../opened.ts';
import type { EventSource } from '../source.ts';
import type { VersionResponse } from './messages.ts';

/** containerd sends both of a sandbox, CRI-O only the second. */
const MADE: ReadonlySet<string> = new Set(['CONTAINER_CREATED_EVENT', 'CONTAINER_STARTED_EVENT']);

/** More sandboxes than a node runs. */
const MOST_REPORTED = 4096;

/** CRI-O ends the stream within 25 ms if its events are off. */
const OPEN_AFTER_MS = 100;

export const cri: EventSource = {
  name: 'cri',

  caution({ runtimeName }) {
    // One loop serves all subscribers of CRI-O and waits for each of them (server/container_events.go).
    if (runtimeName !== 'cri-o') return undefined;
    return "auto does not use it, because a stopped controller would keep CRI-O's events from the kubelet";
  },

  async connect({ cri, version }, signal) {
    if (!broadcasts(version))
      throw new Error('this runtime gives each event to one client only, so the kubelet would miss events');
    const events = await opened(cri.containerEvents(signal), OPEN_AFTER_MS);
    return async ({ report }) => {
      const reported = new Map<string, true>();
      for await (const { containerId, containerEventType, podSandboxStatus } of events) {
        if (podSandboxStatus?.id !== containerId) continue;
        if (!MADE.has(containerEventType)) reported.delete(containerId);
        else if (!reported.has(containerId)) {
          keepNewest(reported, containerId, true, MOST_REPORTED);
          report({ sandboxId: containerId, podUid: podSandboxStatus.metadata?.uid ?? '' });
        }
      }
    };
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
