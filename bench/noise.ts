/**
 * Whether the machine was quiet enough. All through a workload a fixed unit of work is timed between the rounds:
 * arithmetic, system calls and waking another thread, about 75 us (`reference` in bench/drivers.cc). Nothing of ours is
 * in it, so what changes it is the machine. A workload is refused where the unit's p50 in one quarter of its time is
 * more than SPREAD times that of another, or where more than STALLED of all units took more than twice their p50.
 *
 * Ratios to what was measured in the same rounds bear a machine that is slow all the time; they do not bear one that is
 * fast now and slow then, for then a round's subjects do not meet the same machine.
 */
import type { Noise } from './schema.ts';
import { percentile } from './statistics.ts';

export const SPREAD = 1.3;
export const STALLED = 0.1;
/** Fewer say nothing. */
const LEAST = 16;

export function judge(units: readonly number[]): { noise: Noise; refused?: string } | undefined {
  if (units.length < LEAST) return undefined;
  const quarter = units.length / 4;
  const quarters = [0, 1, 2, 3].map((at) =>
    percentile(units.slice(Math.floor(at * quarter), Math.floor((at + 1) * quarter)), 0.5),
  );
  const spread = Math.max(...quarters) / Math.min(...quarters);
  const middle = percentile(units, 0.5);
  const stalled = units.filter((unit) => unit > 2 * middle).length / units.length;
  const noise = { quarters, spread, stalled };
  const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
  if (spread > SPREAD)
    return {
      noise,
      refused: `a fixed piece of work took ${spread.toFixed(2)} times as long in one quarter as in another`,
    };
  if (stalled > STALLED)
    return { noise, refused: `${percent(stalled)} of all fixed pieces of work took more than twice as long as usual` };
  return { noise };
}
