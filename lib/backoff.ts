/** Waits that grow from one failure to the next. */

/** Milliseconds: the wait after the first failure, and the longest one. */
export type BackoffLimits = readonly [firstMs: number, longestMs: number];

interface Growth {
  /** What each wait is multiplied by; 2 if absent. */
  factor?: number;
  /** From 0 to 1: the wait is shortened by up to half of itself. No shortening if absent. */
  random?: number;
}

/** Milliseconds to wait after `failures` failures in a row; 0 after none. */
export function backoff([firstMs, longestMs]: BackoffLimits, failures: number, growth: Growth = {}): number {
  const { factor = 2, random = 1 } = growth;
  return failures === 0 ? 0 : Math.min(longestMs, firstMs * factor ** (failures - 1)) * (0.5 + random / 2);
}
