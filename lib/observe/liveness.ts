/** Checks whether the addon's threads still work. */
import type { Health } from '../native/addon.ts';

/**
 * How long the kernel may block a thread before /livez fails. The addon replaces a thread much earlier, after
 * `boundMs`, so that other pods are served meanwhile. The limit is long, because a pod can make the kernel slow, and a
 * restart of the controller would not make the kernel faster.
 */
const LONGEST_JOB_MS = 30_000;

/** The problems that only a restart of the process can solve; empty if there are none. */
export function threadProblems(health: Health, limitMs = LONGEST_JOB_MS): string[] {
  const { lost, stuck, spare, longestMs } = health;
  const problems: string[] = [];
  if (lost > 0) problems.push(`${lost} addon threads could not return to the network namespace of this process`);
  if (longestMs > limitMs) problems.push(`an addon thread has worked on one job for ${Math.round(longestMs / 1000)} s`);
  if (stuck > spare) problems.push(`the kernel blocks ${stuck} addon threads, and only ${spare} can be replaced`);
  return problems;
}
