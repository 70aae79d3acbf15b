/**
 * Whether the machine was quiet enough. All through a workload a fixed unit of work is timed between the rounds:
 * arithmetic, system calls and waking another thread, about 75 us (`reference` in bench/drivers.cc). Nothing of ours is
 * in it, so what changes it is the machine. A workload is refused where the unit's p50 in one quarter of its time is
 * more than SPREAD times that of another, where more than STALLED of all units took more than twice their p50, or where
 * others had more than OTHERS of the CPUs, which is also seen where the workload itself keeps the machine busy.
 *
 * Ratios to what was measured in the same rounds bear a machine that is slow all the time; they do not bear one that is
 * fast now and slow then, for then a round's subjects do not meet the same machine. Of memory alone that says nothing.
 */
import type { Noise } from './schema.ts';
import { percentile } from './statistics.ts';

export const SPREAD = 1.3;
export const STALLED = 0.1;
export const OTHERS = 0.15;
/** Fewer say nothing. */
const LEAST = 16;

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
  const middle = percentile(units, 0.5);
  const stalled = quarters.length === 0 ? 0 : units.filter((unit) => unit > 2 * middle).length / units.length;
  const noise = { quarters, spread, stalled, others };
  const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
  if (others > OTHERS) return { noise, refused: `other programs had ${percent(others)} of the CPUs` };
  if (timed && spread > SPREAD)
    return { noise, refused: `fixed work took ${spread.toFixed(2)} times as long in one quarter as in another` };
  if (stalled > STALLED)
    return { noise, refused: `${percent(stalled)} of all fixed work took more than twice as long as usual` };
  return { noise };
}
