/** A driver: one way to install the rules, which the benchmark compares with the others. */
import type { Backend } from '../../lib/ruleset/form.ts';

export interface Usage {
  /** The CPU time that it has used so far, user and system, in microseconds. */
  cpu: number;
  /** Largest resident set so far, in MiB. */
  rss: number;
}

export interface Driver {
  /** Short, for ids and `--driver`: `ours`, `floor`. */
  name: string;
  /** The name in reports. */
  title: string;
  /** What it writes through. */
  backend: Backend;
  /** Microseconds, or milliseconds. */
  pace: 'fast' | 'slow';
  /** Whether it is this project's own path, which `--compare` watches. */
  ours: boolean;
  /** Called once before all installs, with the paths of new netns that the driver may use. */
  prepare(freshNetns: () => Promise<string>): Promise<void>;
  /** Installs the rules in the new netns at `path`, and returns the time in microseconds. */
  install(path: string): Promise<number>;
  /** Whether it installed the same rules as the other drivers of this backend. */
  stands(path: string): Promise<boolean>;
  usage(): Promise<Usage>;
}

export async function timed(job: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await job();
  return (performance.now() - start) * 1000;
}
