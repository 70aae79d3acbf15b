/** What a way to install the rules has to do to be measured next to the others. */
import type { Backend } from '../../lib/ruleset/form.ts';

export interface Usage {
  /** CPU time in microseconds, user and system, of all that it has done so far. */
  cpu: number;
  /** Largest resident set so far, in MiB. */
  rss: number;
}

export interface Driver {
  /** Short, for ids and `--driver`: `ours`, `floor`. */
  name: string;
  /** For people. */
  title: string;
  /** What it writes through. */
  backend: Backend;
  /** Microseconds, or milliseconds. */
  pace: 'fast' | 'slow';
  /** Whether it is this project's own path, which `--compare` watches. */
  ours: boolean;
  /** Once, before anything else; given the paths of fresh netns that it may fill. */
  prepare(freshNetns: () => Promise<string>): Promise<void>;
  /** Installs in the fresh netns at `path`; microseconds. */
  install(path: string): Promise<number>;
  /** Whether what it installed there is what all of its kind install. */
  stands(path: string): Promise<boolean>;
  usage(): Promise<Usage>;
}

export async function timed(job: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await job();
  return (performance.now() - start) * 1000;
}
