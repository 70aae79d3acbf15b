/** A workload of the benchmark: an activity that is measured, for each driver or for the whole project. */
import type { Driver } from '../drivers/driver.ts';
import type { Floors } from '../drivers/floors.ts';
import type { Farm } from '../farm.ts';
import type { WayId } from '../mesh/ways.ts';
import type { Method } from '../method.ts';
import type { Chart, Figure, Series } from '../schema.ts';

/** How many pods the workload `mesh` starts. */
export interface Extent {
  /** Of each way; absent: as many as the budget has time for. */
  pods?: number;
  /** Pods of one way that start together. */
  atOnce: number;
  /** Pods that each node runs already. */
  resident: number;
  /** If given, `mesh` measures only these ways. */
  ways?: WayId[];
}

/**
 * So long after pods, controllers or policies came or went, none of them works any more: pods start as usual, and the
 * reference does not measure our own load.
 */
export const SETTLE_MS = 2000;

/** What every workload gets. */
export interface Bench extends Method {
  quick: boolean;
  /** Removed in the end. */
  folder: string;
  farm: Farm;
  floors: Floors;
  /**
   * Times the reference unit where nothing of ours is under way, often enough that it is no matter of one moment. It first
   * pauses for `pauseMs`.
   */
  atRest(pauseMs?: number): Promise<void>;
  /** Runs a turn and then times the reference at rest. Repeats both if the machine was slow; see Turns in bench/noise.ts. */
  turn<T>(run: () => Promise<T>): Promise<T>;
  /** Made at the first call. */
  drivers(): Promise<readonly Driver[]>;
  /** A folder for CPU profiles of the controller. */
  profile?: string | undefined;
  starts: Extent;
  /** Of `controller` and `scale`: pods a second; absent: the workload's own. */
  rate?: number | undefined;
  /** How long this workload may take. */
  seconds: number;
}

export interface Measured {
  series: Series[];
  figures: Figure[];
  charts: Chart[];
}

export interface Workload {
  /** As in `--only`. */
  name: string;
  title: string;
  /** Seconds. */
  budget: { quick: number; full: number };
  /** Runs only if it is named, because a whole run has only 15 minutes. */
  apart?: true;
  /** False for figures of memory, which do not depend on the speed of the machine. */
  timed?: false;
  /** What is missing here, in words. */
  lack?(): string | undefined;
  run(bench: Bench): Promise<Measured>;
}
