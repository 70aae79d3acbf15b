/** When what happened, on one clock: milliseconds since 1970, of the machine that node and harness share. */
import { globSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export function now(): number {
  return performance.timeOrigin + performance.now();
}

/** Of RFC 3339 with nanoseconds, of which a Date keeps milliseconds. */
function instant(text: string): number {
  const [, whole = '', fraction = '0', zone = 'Z'] = /^(.*?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)$/.exec(text) ?? [];
  return Date.parse(`${whole}${zone}`) + 1000 * Number(`0.${fraction}`);
}

const WRITTEN_MS = 5000;

interface PodName {
  namespace: string;
  name: string;
  uid: string;
}

/** Of the first and last line that a container wrote. */
export async function containerLines(logs: string, pod: PodName, container: string) {
  const lines = await linesOf(logs, pod, container, () => true);
  return { first: at(lines[0]), last: at(lines.at(-1)) };
}

/** Of the first line of a container that says this; `since`: not before that instant. */
export async function containerSaid(
  logs: string,
  pod: PodName,
  container: string,
  what: RegExp,
  since = 0,
): Promise<number> {
  const wanted = (line: string) => what.test(line) && at(line) >= since;
  return at((await linesOf(logs, pod, container, wanted)).find(wanted));
}

const at = (line = '') => instant(line.slice(0, line.indexOf(' ')));

/**
 * What a container has written, in the CRI's log format. The runtime keeps a file for each restart. A pod is ready before
 * its container has written anything, so this waits for a wanted line.
 */
async function linesOf(logs: string, pod: PodName, container: string, wanted: (line: string) => boolean) {
  const folder = join(logs, `${pod.namespace}_${pod.name}_${pod.uid}`, container);
  let lines: string[] = [];
  for (const limit = performance.now() + WRITTEN_MS; performance.now() < limit; await sleep(20)) {
    const files = globSync('*.log', { cwd: folder }).sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10));
    lines = files.flatMap((file) => readFileSync(join(folder, file), 'utf8').split('\n').filter(Boolean));
    if (lines.some(wanted)) return lines;
  }
  const written = lines.slice(0, 20).join('\n');
  throw new Error(`${container} of ${pod.name} did not write the expected line; its first lines are:\n${written}`);
}

export interface Sandbox {
  /** The runtime had made its first process, and not yet started it: when it wrote that process's id. */
  made: number;
  /** It told the kubelet that the sandbox is ready. */
  returned: number;
}

/** Where the kubelet keeps what containers wrote. */
export const LOGS = '/var/log/pods';

/** Where containerd keeps what runs, a folder each. */
export const STATE = '/run/containerd/io.containerd.runtime.v2.task/k8s.io';

/** Quotes are escaped there. */
const RETURNED = /RunPodSandbox for name:\W+([\w-]+).*returns sandbox id \W+(\w+)/;

/** By the pod's name, as containerd's log has it; of sandboxes that are still there. `state` is its folder. */
export function sandboxesOf(log: string, state: string): Map<string, Sandbox> {
  const found = new Map<string, Sandbox>();
  for (const line of readFileSync(log, 'utf8').split('\n')) {
    const [, pod = '', id = ''] = RETURNED.exec(line) ?? [];
    const time = /time="([^"]+)"/.exec(line)?.[1];
    const made = statSync(join(state, id, 'init.pid'), { throwIfNoEntry: false })?.mtimeMs;
    if (pod !== '' && made !== undefined && time !== undefined) found.set(pod, { made, returned: instant(time) });
  }
  return found;
}
