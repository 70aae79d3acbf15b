/** Whether the addon's threads still do their work. */
import type { Health } from '../native/addon.ts';

/**
 * How long the kernel may keep a thread before the process counts as unfit. The addon replaces a thread much earlier, after
 * `boundMs`, so that other pods are served meanwhile. A pod can make the kernel slow; it must not be able to have the kubelet
 * restart the controller, which would not make the kernel any faster.
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
