/**
 * The common method of measurement: in each round every subject has a turn, in a new random order. So other load of the
 * machine affects all subjects, and cancels out in their ratios.
 */
import type { Usage } from './drivers/driver.ts';
import type { Series } from './schema.ts';
import { type Random, type Rounds, ratioOf, summarize, thinned } from './statistics.ts';

export interface Subject {
  /** Unique in its workload. */
  id: string;
  name: string;
  group: string;
  ours: boolean;
  unit?: Series['unit'];
  /** Id of what its ratio is to. */
  baseline?: string;
  /** Called before each round, and not measured. */
  setUp?(): Promise<void>;
  /** The samples of a round. */
  round(): Promise<number[]>;
  /** After each round, not measured. `warm`: it was the one that does not count. */
  tearDown?(warm: boolean): Promise<void>;
  usage?(): Promise<Usage>;
}

export interface Method {
  random: Random;
  /** Times the reference unit. */
  reference(): Promise<void>;
  /** Called with the completed share, 0 to 1. */
  progress(done: number): void;
}

export interface Extent {
  /** Beside one that warms up and is thrown away. */
  rounds: number;
  /** No round is begun later than this, once there are LEAST_ROUNDS. */
  seconds: number;
}

/** Below that the bootstrap has nothing to draw from. */
export const LEAST_ROUNDS = 4;
/** Units of the reference before each subject's round. */
const UNITS = 2;

export async function interleaved(method: Method, subjects: readonly Subject[], extent: Extent): Promise<Series[]> {
  const start = performance.now();
  const elapsed = () => (performance.now() - start) / 1000;
  const measured = new Map(subjects.map(({ id }) => [id, { rounds: [] as number[][], cpu: 0, rss: 0 }]));
  for (let round = -1; round < extent.rounds; round++) {
    if (round >= LEAST_ROUNDS && elapsed() > extent.seconds) break;
    for (const [at, subject] of method.random.shuffled(subjects).entries()) {
      const warm = round < 0;
      await subject.setUp?.();
      for (let unit = 0; unit < UNITS; unit++) await method.reference();
      const before = await subject.usage?.();
      const samples = await subject.round();
      const after = await subject.usage?.();
      const kept = measured.get(subject.id);
      if (!warm && kept !== undefined) {
        kept.rounds.push(samples);
        kept.cpu += (after?.cpu ?? 0) - (before?.cpu ?? 0);
        kept.rss = after?.rss ?? 0;
      }
      await subject.tearDown?.(warm);
      const share = (round + 1 + (at + 1) / subjects.length) / (extent.rounds + 1);
      method.progress(Math.max(share, Math.min(1, elapsed() / extent.seconds)));
    }
  }
  return subjects.map((subject) => {
    const { rounds, cpu, rss } = measured.get(subject.id) ?? { rounds: [], cpu: 0, rss: 0 };
    const count = rounds.reduce((sum, samples) => sum + samples.length, 0);
    return seriesOf(method.random, subject, rounds, {
      ...(subject.baseline !== undefined && {
        baseline: { id: subject.baseline, rounds: measured.get(subject.baseline)?.rounds ?? [] },
      }),
      ...(subject.usage && { cpu: cpu / count, rss }),
    });
  });
}

type Named = Pick<Subject, 'id' | 'name' | 'group' | 'ours' | 'unit'>;

/** A series of what was measured, by whatever method. */
export function seriesOf(
  random: Random,
  { id, name, group, ours, unit = 'us' }: Named,
  rounds: Rounds,
  { baseline, cpu, rss }: { baseline?: { id: string; rounds: Rounds }; cpu?: number; rss?: number } = {},
): Series {
  const kept = thinned(rounds.filter((samples) => samples.length > 0));
  if (kept.length === 0) throw new Error(`${id}: nothing was measured`);
  const rounded = kept.map((samples) => samples.map((value) => Number(value.toPrecision(5))));
  const against = baseline && thinned(baseline.rounds.filter((samples) => samples.length > 0));
  return {
    id,
    name,
    group,
    unit,
    ours,
    rounds: rounded,
    summary: summarize(rounded, random),
    ...(cpu !== undefined && { cpu }),
    ...(rss !== undefined && { rss }),
    ...(baseline && against && { ratio: { to: baseline.id, ...ratioOf(rounded, against, random) } }),
  };
}
