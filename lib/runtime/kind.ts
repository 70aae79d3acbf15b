/** Which of a runtime's events can be had, without taking them from anybody. */
import { existsSync } from 'node:fs';
import type { VersionResponse } from './cri/messages.ts';

/** containerd: its own events; cri: GetContainerEvents; inotify: new files where the runtime keeps netns. */
export type RuntimeKind = 'containerd' | 'cri' | 'inotify';

/** In the order in which they are tried. */
export const KINDS: readonly RuntimeKind[] = ['containerd', 'cri', 'inotify'];

export interface Choice {
  kind: RuntimeKind | 'none';
  reason: string;
}

/**
 * The first of `kinds` that this runtime has and that is not `refused`; `reason` says what spoke against those before.
 * `folder` is where netns are kept, as this process sees it.
 */
export function chooseKind(
  version: VersionResponse,
  folder: string,
  kinds: readonly RuntimeKind[],
  refused: ReadonlyMap<RuntimeKind, string>,
): Choice {
  const against: string[] = [];
  for (const kind of kinds) {
    const objection = refused.get(kind) ?? objectionTo(kind, version, folder);
    if (objection !== undefined) against.push(`${kind}: ${objection}`);
    else return { kind, reason: [`${version.runtimeName} ${version.runtimeVersion}`, ...against].join('; ') };
  }
  return { kind: 'none', reason: against.join('; ') };
}

function objectionTo(kind: RuntimeKind, version: VersionResponse, folder: string): string | undefined {
  if (kind === 'containerd') return version.runtimeName === 'containerd' ? undefined : 'another runtime';
  if (kind === 'cri') return broadcasts(version) ? undefined : 'would take them from the kubelet';
  return existsSync(folder) ? undefined : `there is no ${folder}`;
}

/**
 * Whether each subscriber hears of all. In containerd 1.7 subscribers share one channel; CRI-O has a list of them
 * (server/container_events.go). Of a runtime that is not known the worst is assumed.
 */
function broadcasts({ runtimeName, runtimeVersion }: VersionResponse): boolean {
  if (runtimeName === 'cri-o') return true;
  const major = Number(/^v?(\d+)\./.exec(runtimeVersion)?.[1] ?? 0);
  return runtimeName === 'containerd' && major >= 2;
}
