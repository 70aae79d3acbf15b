/** The time that each stage of one pod takes. */
import type { Stage, Stages } from '../observe/metrics.ts';

export class Stopwatch {
  /** Microseconds. */
  readonly stages: Stages = {};
  readonly #start = performance.now();
  #last = this.#start;

  /** The time since the last call belongs to this stage, which may have several laps. */
  lap(stage: Stage): void {
    const now = performance.now();
    this.stages[stage] = (this.stages[stage] ?? 0) + (now - this.#last) * 1000;
    this.#last = now;
  }

  /** Parts of a stage become stages of their own, and are taken from it. Microseconds. */
  split(stage: Stage, parts: Stages): void {
    Object.assign(this.stages, parts);
    for (const part of Object.values(parts)) this.stages[stage] = (this.stages[stage] ?? 0) - part;
  }

  total(): Stages {
    this.stages.total = (performance.now() - this.#start) * 1000;
    return this.stages;
  }
}
