/** A pod's processes, by their cgroups: the last resort if no runtime answers. Needs the node's /proc. */
import { readdirSync, readFileSync, type Stats, statSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';

export interface PodProcess {
  /** As in this process's /proc. */
  pid: number;
  /** Its name is that of a sandbox's own process: `pause`. */
  pause: boolean;
  /** The id of its container, from the cgroup; absent if the cgroup's name has none. */
  containerId: string | undefined;
}

/**
 * The netns of a process; undefined if it cannot be read. It is synchronous, because procfs answers in microseconds and an
 * asynchronous call would first wake a thread.
 */
export function netnsOf(proc: string, pid: number | 'self'): Pick<Stats, 'dev' | 'ino'> | undefined {
  try {
    return statSync(join(proc, `${pid}`, 'ns/net'));
  } catch {
    return undefined;
  }
}

/** Processes of a runtime in a pod's cgroup. They are on the host's network, and parents of the pod's processes. */
const RUNTIMES_OWN = /^(containerd-shim|conmon)/;

/** Reading /proc blocks: 64 processes take about 2 ms. */
const SLICE = 64;

/**
 * Whether a /proc/PID/cgroup is that of a pod's process:
 *
 *     11:memory:/kubepods/burstable/pod0d8ee1a3-...-b1/4f2a...                                      cgroupfs
 *     0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0d8ee1a3_..._b1.slice/cri-containerd-4f2a....scope
 *     0::/../../kubepods-besteffort-pod....slice/...                         seen from within another cgroup namespace
 *
 * The uid of a static pod is a hash, without any `-`.
 */
export function isOfPod(cgroup: string, uid: string): boolean {
  const marks = [`pod${uid}`, `pod${uid.replaceAll('-', '_')}`];
  if (uid === '' || !marks.some((mark) => cgroup.includes(mark))) return false;
  const parts = cgroup.split(/[/\n]/).map((part) => part.replace(/\.slice$/, ''));
  // systemd nests by name: kubepods-burstable-pod...
  return marks.some((mark) => parts.some((part) => part === mark || part.endsWith(`-${mark}`)));
}

/** `cri-containerd-ID.scope`, `crio-ID.scope`, `docker-ID.scope`, or the bare ID. */
export function containerIdOf(cgroup: string): string | undefined {
  return /\/(?:[a-z][a-z-]*-)?([0-9a-f]{64})(?:\.scope)?(?:\/|$)/m.exec(cgroup)?.[1];
}

/**
 * The first process of each container of a pod: those that were not started by another process of the pod. A process
 * further down may be in a netns that it made for itself.
 */
export async function firstProcesses(proc: string, uid: string): Promise<PodProcess[]> {
  const found = new Map<number, PodProcess & { parent: number }>();
  const pids = readdirSync(proc).filter((name) => /^\d+$/.test(name));
  for (const [at, name] of pids.entries()) {
    if (at % SLICE === SLICE - 1) await setImmediate();
    const cgroup = read(join(proc, name, 'cgroup'));
    if (!isOfPod(cgroup, uid)) continue;
    const stat = statOf(read(join(proc, name, 'stat')));
    if (stat === undefined || RUNTIMES_OWN.test(stat.comm)) continue;
    const { comm, parent } = stat;
    const pid = Number(name);
    found.set(pid, { pid, pause: comm === 'pause', containerId: containerIdOf(cgroup), parent });
  }
  return [...found.values()].filter(({ parent }) => !found.has(parent)).map(({ parent: _, ...process }) => process);
}

/** Whether the process exists and is one of the pod's. */
export function isProcessOf(proc: string, pid: number, uid: string): boolean {
  return isOfPod(read(join(proc, `${pid}`, 'cgroup')), uid);
}

/** See proc_pid_stat(5). Undefined for a process that has ended. The name may hold spaces and brackets. */
function statOf(stat: string): { comm: string; parent: number } | undefined {
  const end = stat.lastIndexOf(')');
  const [state = '', parent] = stat.slice(end + 2).split(' ');
  if (end === -1 || state === 'Z' || state === 'X') return undefined;
  return { comm: stat.slice(stat.indexOf('(') + 1, end), parent: Number(parent) };
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8').trimEnd();
  } catch {
    return '';
  }
}
