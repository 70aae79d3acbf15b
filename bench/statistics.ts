/**
 * Order statistics with confidence intervals. Samples of the same moment are similar, so the bootstrap draws whole
 * rounds, with all series that were measured in them.
 */

/** Samples of one subject, by round. */
export type Rounds = readonly (readonly number[])[];

/** A value, and the interval in which the true one lies with 95 % confidence. */
export interface Estimate {
  value: number;
  low: number;
  high: number;
}

export interface Summary {
  n: number;
  p50: Estimate;
  p90: Estimate;
  p99: Estimate;
  max: number;
}

/** How often rounds are drawn anew. */
const REPLICATES = 400;
/** Of a series as it is kept. */
const KEPT_SAMPLES = 2400;

/** The p-th percentile (0 to 1) of sorted samples: the smallest that at most 1 - p of them exceed. */
function percentileOfSorted(sorted: ArrayLike<number>, p: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(p * sorted.length))] ?? Number.NaN;
}

/** The p-th percentile (0 to 1) of unsorted samples. */
export function percentile(samples: readonly number[], p: number): number {
  return percentileOfSorted(Float64Array.from(samples).sort(), p);
}

export interface Random {
  /** At least 0, below 1. */
  next(): number;
  shuffled<T>(items: readonly T[]): T[];
}

/** mulberry32: the same numbers for the same seed, on every machine. */
export function seeded(seed: number): Random {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const shuffled = <T>(items: readonly T[]): T[] => {
    const out = [...items];
    for (let at = out.length - 1; at > 0; at--) {
      const other = Math.floor(next() * (at + 1));
      [out[at], out[other]] = [out[other] as T, out[at] as T];
    }
    return out;
  };
  return { next, shuffled };
}

/** Of many samples evenly chosen ones of each round, its largest among them: percentiles stay what they are. */
export function thinned(rounds: Rounds): number[][] {
  const all = rounds.reduce((sum, round) => sum + round.length, 0);
  const share = Math.min(1, KEPT_SAMPLES / all);
  return rounds.map((round) => {
    const sorted = Array.from(Float64Array.from(round).sort());
    const kept = Math.max(1, Math.round(sorted.length * share));
    if (kept >= sorted.length) return sorted;
    return Array.from({ length: kept }, (_, at) => sorted[Math.ceil(((at + 1) * sorted.length) / kept) - 1] ?? 0);
  });
}

export function summarize(rounds: Rounds, random: Random): Summary {
  const draws = resampled(rounds.length, random).map((chosen) => pooled(rounds, chosen));
  const whole = pooled(rounds, every(rounds.length));
  const estimate = (p: number): Estimate => ({
    value: percentileOfSorted(whole, p),
    ...interval(draws.map((draw) => percentileOfSorted(draw, p))),
  });
  return {
    n: whole.length,
    p50: estimate(0.5),
    p90: estimate(0.9),
    p99: estimate(0.99),
    max: whole[whole.length - 1] ?? Number.NaN,
  };
}

/** A ratio, and the standard error of its logarithm. */
export interface Ratio extends Estimate {
  logError: number;
}

/** p50 to p50. Rounds of both that were measured side by side are drawn together, so that what slowed both cancels. */
export function ratioOf(rounds: Rounds, baseline: Rounds, random: Random): Ratio {
  const paired = rounds.length === baseline.length;
  const draws = resampled(rounds.length, random);
  const others = paired ? draws : resampled(baseline.length, random);
  const median = (of: Rounds, chosen: readonly number[]) => percentileOfSorted(pooled(of, chosen), 0.5);
  const value = median(rounds, every(rounds.length)) / median(baseline, every(baseline.length));
  const ratios = draws.map((chosen, at) => median(rounds, chosen) / median(baseline, others[at] ?? chosen));
  return { value, ...interval(ratios), logError: deviation(ratios.map(Math.log)) };
}

function every(count: number): number[] {
  return Array.from({ length: count }, (_, at) => at);
}

function resampled(count: number, random: Random): number[][] {
  return Array.from({ length: REPLICATES }, () =>
    Array.from({ length: count }, () => Math.floor(random.next() * count)),
  );
}

function pooled(rounds: Rounds, chosen: readonly number[]): Float64Array {
  const out = new Float64Array(chosen.reduce((sum, at) => sum + (rounds[at]?.length ?? 0), 0));
  let end = 0;
  for (const at of chosen) {
    const round = rounds[at] ?? [];
    out.set(round, end);
    end += round.length;
  }
  return out.sort();
}

function interval(values: readonly number[]): { low: number; high: number } {
  const sorted = Float64Array.from(values).sort();
  return { low: percentileOfSorted(sorted, 0.025), high: percentileOfSorted(sorted, 0.975) };
}

function deviation(values: readonly number[]): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(1, values.length - 1));
}

/**
 * By how much what is sampled once a second grows in a minute: least squares over the second half, when it has warmed
 * up.
 */
export function growth(samples: readonly number[]): number {
  const half = samples.slice(Math.floor(samples.length / 2));
  const middle = (half.length - 1) / 2;
  const mean = half.reduce((sum, value) => sum + value, 0) / half.length;
  let [over, under] = [0, 0];
  for (const [at, value] of half.entries()) {
    over += (at - middle) * (value - mean);
    under += (at - middle) ** 2;
  }
  return (60 * over) / under;
}
