/** How often something may happen: a few times at once, and then at a fixed rate. */
export interface AllowanceLimits {
  burst: number;
  /** Milliseconds after which one more may happen. */
  eachMs: number;
}

/** What happens too soon is done once, as soon as it may be. Keeps at most one timer. */
export class Allowance {
  readonly #limits: AllowanceLimits;
  /** Milliseconds of performance.now() at which the whole burst may happen again. */
  #fullAt = 0;
  #late: NodeJS.Timeout | undefined;

  constructor(limits: AllowanceLimits) {
    this.#limits = limits;
  }

  /** Calls `act` at once or later, unless one that was given before is still to be called: that one counts for both. */
  take(act: () => void): void {
    if (this.#late !== undefined) return;
    const { burst, eachMs } = this.#limits;
    const now = performance.now();
    const fullAt = Math.max(this.#fullAt, now) + eachMs;
    const waitMs = fullAt - now - burst * eachMs;
    this.#fullAt = fullAt;
    if (waitMs <= 0) {
      act();
      return;
    }
    this.#late = setTimeout(() => {
      this.#late = undefined;
      act();
    }, waitMs).unref();
  }

  /** What is still to be called is not called. */
  cancel(): void {
    clearTimeout(this.#late);
    this.#late = undefined;
  }
}
