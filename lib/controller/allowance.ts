/** Limits how often something happens: a few times at once, and then at a fixed rate. */
export interface AllowanceLimits {
  burst: number;
  /** Milliseconds until one more action is allowed. */
  eachMs: number;
}

/**
 * Actions that come too early are merged into one, which runs as soon as the limit allows. It keeps at most one timer.
 */
export class Allowance {
  readonly #limits: AllowanceLimits;
  /** The time of performance.now(), in milliseconds, at which the whole burst is allowed again. */
  #fullAt = 0;
  #late: NodeJS.Timeout | undefined;

  constructor(limits: AllowanceLimits) {
    this.#limits = limits;
  }

  /** Calls `act` now or later. If an earlier call still waits, `act` is dropped, because that call counts for both. */
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

  /** Drops the call that still waits. */
  cancel(): void {
    clearTimeout(this.#late);
    this.#late = undefined;
  }
}
