/**
 * Limits of waiting. A limit says how long something may take on an idle machine, so that a test that waits in vain
 * fails instead of hanging. On a busy machine everything takes longer, and the limits grow with the load: no test is
 * about speed, which is the bench's.
 */
import { availableParallelism, loadavg } from 'node:os';

/** By how much the limits grow at least: the load average is a minute late. */
const LEAST = 3;

/** By how much limits grow now, a whole number since timers take no other. With twice as many runnable processes as CPUs a wait may take four times its limit. */
export function patience(): number {
  const [load = 0] = loadavg();
  return Math.ceil(Math.max(LEAST, (2 * load) / availableParallelism()));
}

/** Whether what began then, as performance.now() has it, has gone on for longer than its limit. */
export function isOver(began: number, limitMs: number): boolean {
  return performance.now() - began > limitMs * patience();
}
