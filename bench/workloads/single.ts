/** One install at a time into fresh netns, by every driver: what each costs. */
import type { Driver } from '../drivers/driver.ts';
import { interleaved, type Subject } from '../method.ts';
import type { Bench, Workload } from './workload.ts';

/** Many short rounds: rounds differ from one another far more than installs within one. */
const BURST = { quick: { fast: 6, slow: 1 }, full: { fast: 12, slow: 5 } };
const ROUNDS = { quick: 28, full: 45 };

export const single: Workload = {
  name: 'single',
  title: 'One install at a time into a fresh netns, IPv4 and IPv6',
  budget: { quick: 20, full: 150 },
  async run(bench) {
    const mode = bench.quick ? 'quick' : 'full';
    const subjects = (await bench.drivers()).map((driver) =>
      burstOf(bench, driver, { burst: BURST[mode][driver.pace] }),
    );
    const series = await interleaved(bench, subjects, { rounds: ROUNDS[mode], seconds: bench.seconds });
    const groups = [...new Set(series.map(({ group }) => group))];
    return {
      series,
      figures: [],
      charts: groups.map((group) => ({
        kind: 'distribution',
        title: `One install, ${group}`,
        series: series.filter((each) => each.group === group).map(({ id }) => id),
      })),
    };
  },
};

interface BurstOptions {
  burst: number;
  /** After the backend, in ids. */
  at?: string;
  group?: string;
}

/** A driver as a subject: a round is a burst of installs, checked in the first one. */
export function burstOf(bench: Bench, driver: Driver, { burst, at = '', group }: BurstOptions): Subject {
  const { name, title, backend, ours } = driver;
  const id = (of: string) => `${backend}${at}/${of}`;
  let paths: string[] = [];
  return {
    id: id(name),
    name: title,
    group: group ?? backend,
    ours,
    baseline: id(name.includes('uncounted') ? 'floor-uncounted' : 'floor'),
    setUp: async () => {
      paths = await bench.farm.fresh(burst);
    },
    round: async () => {
      const samples: number[] = [];
      for (const path of paths) samples.push(await driver.install(path));
      return samples;
    },
    tearDown: async (warm) => {
      // A way that installs something else is no way to compare with.
      if (warm)
        for (const path of paths)
          if (!(await driver.stands(path))) throw new Error(`${id(name)} installs other rules than it should`);
      await bench.farm.takeDown(paths);
    },
    usage: () => driver.usage(),
  };
}
