/** The time that each stage of one pod takes. */
import type { Stage, Stages } from '../observe/metrics.ts';

export class Stopwatch {
  readonly #stages: Stages = {};
  readonly #start = performance.now();
  #last = this.#start;

  /** Adds the time since the last lap to this stage. */
  lap(stage: Stage): void {
    const now = performance.now();
    this.#stages[stage] = (this.#stages[stage] ?? 0) + (now - this.#last) * 1000;
    this.#last = now;
  }

  /** Moves parts of a stage into stages of their own. Microseconds. */
  split(stage: Stage, parts: Stages): void {
    Object.assign(this.#stages, parts);
    for (const part of Object.values(parts)) this.#stages[stage] = (this.#stages[stage] ?? 0) - part;
  }

  /** Every stage and the total, in microseconds. */
  total(): Stages {
    this.#stages.total = (performance.now() - this.#start) * 1000;
    return this.#stages;
  }
}
