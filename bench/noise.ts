/**
 * Decides whether the machine was quiet enough. Between the rounds of a workload a fixed unit of work is timed:
 * arithmetic, system calls and waking another thread, about 75 us (`reference` in bench/drivers.cc). It uses no code of
 * this project, so only the machine can change its time. A workload is refused in three cases: the p50 of the unit in
 * one quarter of the time is more than SPREAD times that in another quarter; more than STALLED of the units took more
 * than twice the p50; or other programs used more than OTHERS of the CPUs. The last one works even if the workload
 * keeps the machine busy.
 *
 * Ratios within a round stay correct on a machine that is always slow. They are wrong on a machine whose speed changes,
 * because the subjects of a round then run at different speeds. Figures of memory do not depend on speed.
 */
import type { Noise } from './schema.ts';
import { percentile } from './statistics.ts';

export const SPREAD = 1.3;
export const STALLED = 0.1;
export const OTHERS = 0.15;
/** Fewer say nothing. */
const LEAST = 16;
/** The most repeats of one turn, and of all turns of a workload. */
const REPEATS = { turn: 2, workload: 32 };

/** `others`: the share of all CPUs that other programs had. `timed`: as a workload has it. */
export function judge(
  units: readonly number[],
  others: number,
  { timed = true }: { timed?: boolean } = {},
): { noise: Noise; refused?: string } {
  const quarter = units.length / 4;
  const quarters =
    units.length < LEAST
      ? []
      : [0, 1, 2, 3].map((at) =>
          percentile(units.slice(Math.floor(at * quarter), Math.floor((at + 1) * quarter)), 0.5),
        );
  const spread = quarters.length === 0 ? 1 : Math.max(...quarters) / Math.min(...quarters);
  const stalled = quarters.length === 0 ? 0 : stalledShare(units, percentile(units, 0.5));
  const noise = { quarters, spread, stalled, others };
  const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
  if (others > OTHERS) return { noise, refused: `other programs had ${percent(others)} of the CPUs` };
  if (timed && spread > SPREAD)
    return { noise, refused: `fixed work took ${spread.toFixed(2)} times as long in one quarter as in another` };
  if (stalled > STALLED)
    return { noise, refused: `${percent(stalled)} of all fixed work took more than twice as long as usual` };
  return { noise };
}

/**
 * The turns of a workload, and its units. The machine may change during a long turn. A turn is repeated if the units after it
 * are slower than the units before. What the turn measured has no part in this choice.
 */
export class Turns {
  /** Microseconds, without the units of the attempts that were repeated. */
  readonly units: number[] = [];
  /** How many attempts were repeated. */
  repeated = 0;

  /** `turn` appends its units. Resolves with the result of the last attempt. */
  async take<T>(turn: () => Promise<T>): Promise<T> {
    for (let repeats = 0; ; repeats++) {
      const from = this.units.length;
      const result = await turn();
      const disturbed = isDisturbed(this.units.slice(from), this.units.slice(0, from));
      if (!disturbed || repeats === REPEATS.turn || this.repeated === REPEATS.workload) return result;
      this.units.length = from;
      this.repeated++;
    }
  }
}

function isDisturbed(units: readonly number[], before: readonly number[]): boolean {
  const usual = percentile(before, 0.5);
  return percentile(units, 0.5) > SPREAD * usual || stalledShare(units, usual) > STALLED;
}

/** The share of units that took more than twice as long as usual. */
function stalledShare(units: readonly number[], usual: number): number {
  return units.filter((unit) => unit > 2 * usual).length / units.length;
}
