/** Invented results of a run, with everything that a report can show. */
import { checkGoals } from '../../bench/goals.ts';
import { seriesOf } from '../../bench/method.ts';
import type { Figure, Results, WorkloadResult } from '../../bench/schema.ts';
import { type Random, seeded } from '../../bench/statistics.ts';

export interface SampleOptions {
  seed: number;
  /** By which the whole machine is slower. */
  slower?: number;
  /** Microseconds on top of each install of ours. */
  planted?: number;
}

/** As an install's: most near the p50, some far above it, and rounds that differ from one another. */
function rounds(random: Random, middle: number, { slower = 1, planted = 0 }: Omit<SampleOptions, 'seed'>): number[][] {
  return Array.from({ length: 12 }, () => {
    const round = 1 + 0.15 * random.next();
    return Array.from({ length: 20 }, () => {
      const tail = random.next() < 0.03 ? 4 : 1 + 0.3 * random.next() ** 3;
      return slower * (middle * round * tail + planted);
    });
  });
}

export function sample({ seed, ...options }: SampleOptions): Results {
  const random = seeded(seed);
  const quiet = { noise: { quarters: [75, 75, 76, 75], spread: 1.01, stalled: 0.01, others: 0.02 } };
  const driver = (group: string, name: string, middle: number, own = false) => {
    const floor = rounds(random, middle / 2, { ...options, planted: 0 });
    const measured = rounds(random, middle, own ? options : { ...options, planted: 0 });
    const named = { id: `${group}/${name}`, name: `${name} <of ${group}>`, group, ours: own };
    return seriesOf(random, named, measured, {
      baseline: { id: `${group}/floor`, rounds: floor },
      cpu: middle,
      rss: 80,
    });
  };
  const series = ['iptables-legacy', 'nftables'].flatMap((group) => [
    driver(group, 'floor', 60),
    driver(group, 'ours', 110, true),
    driver(group, 'restore', 5000),
  ]);
  const figure = (id: string, value: number, tolerance?: number): Figure => {
    return { id, label: id, value, unit: 'MiB', ...(tolerance !== undefined && { tolerance }) };
  };
  const workloads: WorkloadResult[] = [
    {
      name: 'single',
      title: 'One install at a time',
      seconds: 60,
      ...quiet,
      series,
      figures: [],
      charts: [{ kind: 'distribution', title: 'One install', series: series.map(({ id }) => id) }],
    },
    {
      name: 'controller',
      title: 'The controller',
      seconds: 90,
      ...quiet,
      series: [],
      figures: [
        ...[figure('start/rss', 90, 0.15), figure('stand-in/rss', 100, 0.15), figure('patches', 1, 0.05)],
        ...[figure('events', 0.5), figure('echoed', 12_000), figure('told', 40_000), figure('stand-in/cpu-a-pod', 900)],
      ],
      charts: [
        {
          kind: 'lines',
          title: 'Latency over load',
          x: 'netns/s',
          y: 'us',
          lines: ['ours', 'floor'].map((name, at) => ({
            name,
            points: [50, 100, 200].map((x) => ({ x, y: (2 - at) * x })),
          })),
        },
        {
          kind: 'waterfall',
          title: 'Stages',
          bars: [
            {
              name: 'with us',
              stages: [
                { name: 'sandbox', from: 0, to: 900 },
                { name: 'rules', from: 900, to: 903 },
              ],
            },
            {
              name: 'polled',
              stages: [
                { name: 'sandbox', from: 0, to: 900 },
                { name: 'let go', from: 900, to: 11_000 },
              ],
            },
          ],
        },
      ],
    },
  ];
  return {
    schema: 1,
    made: '2026-01-02T03:04:05.000Z',
    version: '0.1.0',
    commit: 'abc1234',
    mode: 'full',
    seed,
    seconds: 150,
    machine: {
      kernel: '6.18.0',
      cpu: 'a CPU',
      cpus: 2,
      memoryMiB: 4096,
      distribution: 'Debian',
      node: 'v24',
      virtual: '',
      load: { before: 0.1, after: 0.2 },
    },
    workloads,
    goals: checkGoals(workloads),
  };
}
