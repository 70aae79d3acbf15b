/**
 * CPU time that neither this program nor the kernel's own threads took: other programs', and what a hypervisor gave to
 * other machines. What a workload does to the machine by itself is not in it.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';

/** A tick of /proc (USER_HZ) is a hundredth of a second wherever Linux runs. */
const TICKS = 100;
/** kthreadd, the parent of the kernel's threads: they take down our netns. */
const KTHREADD = 2;

interface Process {
  pid: number;
  parent: number;
  /** Ticks, those of children that have ended included. */
  ticks: number;
}

/** Starts counting; what it returns tells the share of all CPUs that others had since then, 0 to 1. */
export function watchOthers(): () => number {
  const before = sample();
  return () => {
    const after = sample();
    const seconds = (after.at - before.at) / 1000;
    const others = (after.busy - before.busy - (after.own - before.own)) / TICKS;
    return Math.max(0, others / seconds / availableParallelism());
  };
}

function sample() {
  return { at: performance.now(), busy: busyTicks(), own: ticksOf(process.pid) + ticksOf(KTHREADD) };
}

/** user, nice, system, irq, softirq, steal; idle and waiting for a disk are not. */
function busyTicks(): number {
  const [, user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = (
    /^cpu .*$/m.exec(readFileSync('/proc/stat', 'utf8'))?.[0] ?? ''
  )
    .split(/\s+/)
    .map(Number);
  return user + nice + system + irq + softirq + steal;
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
        const ticks = fields.slice(11, 15).reduce((sum, each) => sum + each, 0);
        return [{ pid: Number(entry), parent: fields[1] ?? 0, ticks }];
      } catch {
        return []; // it ended
      }
    });
}

/** Of a process and its descendants, those that have ended and were waited for included. */
export function ticksOf(root: number): number {
  const all = processes();
  const children = Map.groupBy(all, ({ parent }) => parent);
  const below = (pid: number): number =>
    (children.get(pid) ?? []).reduce((total, child) => total + child.ticks + below(child.pid), 0);
  return (all.find(({ pid }) => pid === root)?.ticks ?? 0) + below(root);
}
