/**
 * Measures the CPU time of other programs, and the time that a hypervisor gave to other machines. The time of this
 * program, and of the kernel's own threads, does not count.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { cpus } from 'node:os';

/** A tick of /proc (USER_HZ) is a hundredth of a second wherever Linux runs. */
const TICKS = 100;
/** kthreadd, the parent of the kernel's threads: they take down our netns. */
const KTHREADD = 2;

/** `user`: in programs, and what a hypervisor gave to other machines; `all`: in the kernel too. In ticks. */
type Kind = 'user' | 'all';
type Ticks = Record<Kind, number>;

interface Process {
  pid: number;
  parent: number;
  /** Those of children that have ended included. */
  ticks: Ticks;
}

/** Starts counting; what it returns tells the share of all CPUs that others had since then, 0 to 1. */
export function watchOthers(): () => number {
  // In a container only user processes count, because kernel threads are invisible there.
  const kind = seesKernelThreads() ? 'all' : 'user';
  const before = sample(kind);
  return () => {
    const after = sample(kind);
    const seconds = (after.at - before.at) / 1000;
    const others = (after.busy - before.busy - (after.own - before.own)) / TICKS;
    return Math.max(0, others / seconds / cpus().length);
  };
}

/** Seconds of CPU that all of the machine has used since its start. */
export function busySeconds(): number {
  return busyTicks().all / TICKS;
}

function sample(kind: Kind) {
  const own = ticksOf(process.pid, kind) + (kind === 'all' ? ticksOf(KTHREADD) : 0);
  return { at: performance.now(), busy: busyTicks()[kind], own };
}

/** Process 2 of a container is any. */
function seesKernelThreads(): boolean {
  try {
    return readFileSync(`/proc/${KTHREADD}/comm`, 'utf8') === 'kthreadd\n';
  } catch {
    return false;
  }
}

/** Of all CPUs; idle and waiting for a disk are not. */
function busyTicks(): Ticks {
  const [, user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = (
    /^cpu .*$/m.exec(readFileSync('/proc/stat', 'utf8'))?.[0] ?? ''
  )
    .split(/\s+/)
    .map(Number);
  const programs = user + nice + steal;
  return { user: programs, all: programs + system + irq + softirq };
}

function processes(): Process[] {
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .flatMap((entry) => {
      try {
        // The name before these may hold anything.
        const fields = readFileSync(`/proc/${entry}/stat`, 'utf8')
          .replace(/^.*\) /s, '')
          .split(' ')
          .map(Number);
        const [user = 0, system = 0, endedUser = 0, endedSystem = 0] = fields.slice(11, 15);
        const programs = user + endedUser;
        const ticks = { user: programs, all: programs + system + endedSystem };
        return [{ pid: Number(entry), parent: fields[1] ?? 0, ticks }];
      } catch {
        return []; // it ended
      }
    });
}

/** Of a process and its descendants, those that have ended and were waited for included. */
export function ticksOf(root: number, kind: Kind = 'all'): number {
  const all = processes();
  const children = Map.groupBy(all, ({ parent }) => parent);
  const below = (pid: number): number =>
    (children.get(pid) ?? []).reduce((total, child) => total + child.ticks[kind] + below(child.pid), 0);
  return (all.find(({ pid }) => pid === root)?.ticks[kind] ?? 0) + below(root);
}
