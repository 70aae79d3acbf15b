/** Creates netns, installs rules and removes them at growing rates: measures latency under load, and finds leaks. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Driver } from '../drivers/driver.ts';
import { seriesOf } from '../method.ts';
import type { Chart, Figure, Series } from '../schema.ts';
import type { Bench, Workload } from './workload.ts';

/** Netns a second. */
const RATES = { quick: [50, 200], full: [50, 100, 200, 400] };
const SECONDS = { quick: 2, full: 7 };
const LIFE_MS = 300;
/** Every so many-th netns is the floor's, so that it meets the same load. */
const FLOOR_EACH = 4;
/** Beyond this many at a time nothing more is begun: then the rate is not held, and the figures say so. */
const MOST_LIVES = 2000;

export const churn: Workload = {
  name: 'churn',
  title: 'Netns made, installed and deleted at a rate: latency under load',
  budget: { quick: 10, full: 75 },
  async run(bench) {
    const mode = bench.quick ? 'quick' : 'full';
    const drivers = await bench.drivers();
    const series: Series[] = [];
    const figures: Figure[] = [];
    const lines: Extract<Chart, { kind: 'lines' }>['lines'] = [];
    let done = 0;
    let first: Levels | undefined;
    const steps = 2 * RATES[mode].length;
    for (const backend of ['iptables-legacy', 'nftables'] as const) {
      const of = (name: string) => drivers.find((driver) => driver.backend === backend && driver.name === name);
      const [ours, floor] = [of('ours'), of('floor')];
      if (ours === undefined || floor === undefined) throw new Error(`no driver for ${backend}`);
      for (const rate of RATES[mode]) {
        await sleep(1000);
        // Not during it: that would measure our own load.
        await bench.atRest();
        const outcome = await churnAt(bench, { rate, seconds: SECONDS[mode], ours, floor });
        const id = `${backend}/${rate}`;
        const group = `${backend}, ${rate} netns/s`;
        const baseline = { id: `${id}/floor`, rounds: outcome.floor };
        series.push(
          seriesOf(bench.random, { id: `${id}/ours`, name: ours.title, group, ours: true }, outcome.ours, { baseline }),
          seriesOf(bench.random, { id: baseline.id, name: floor.title, group, ours: false }, outcome.floor, {
            baseline,
          }),
        );
        figures.push({ id: `${id}/held`, label: `${group}: held`, value: outcome.held, unit: 'netns/s' });
        // What the first rate warms up and allocates is no leak.
        first ??= levels();
        bench.progress(++done / steps);
      }
      for (const name of ['ours', 'floor']) {
        for (const p of ['p50', 'p99'] as const) {
          lines.push({
            name: `${backend}, ${name}, ${p}`,
            points: RATES[mode].map((x) => ({
              x,
              y: series.find(({ id }) => id === `${backend}/${x}/${name}`)?.summary[p].value ?? 0,
            })),
          });
        }
      }
    }
    const last = levels();
    for (const [id, label] of Object.entries(LEAKS))
      figures.push({ id, label, value: last[id as LeakId] - (first?.[id as LeakId] ?? 0), unit: '', tolerance: 0 });
    figures.push({ id: 'rss', label: 'RSS grew by', value: last.rss - (first?.rss ?? 0), unit: 'MiB' });
    return {
      series,
      figures,
      charts: [{ kind: 'lines', title: 'Latency over load', x: 'netns/s', y: 'us', lines }],
    };
  },
};

/** What must be none at the end, for all that was made and deleted. */
const LEAKS = {
  descriptors: 'descriptors left open',
  mounts: 'netns left mounted',
  strays: 'threads left in other netns',
};
type LeakId = keyof typeof LEAKS;
type Levels = Record<LeakId | 'rss', number>;

function levels(): Levels {
  const home = readlinkSync('/proc/self/ns/net');
  const tasks = readdirSync('/proc/self/task');
  return {
    descriptors: readdirSync('/proc/self/fd').length,
    mounts: readFileSync('/proc/self/mountinfo', 'utf8').match(/ - nsfs /g)?.length ?? 0,
    strays: tasks.filter((task) => readlinkSync(`/proc/self/task/${task}/ns/net`) !== home).length,
    rss: process.memoryUsage.rss() / 2 ** 20,
  };
}

interface ChurnOptions {
  rate: number;
  seconds: number;
  ours: Driver;
  floor: Driver;
}

/** Latencies, by second. */
async function churnAt(bench: Bench, { rate, seconds, ours, floor }: ChurnOptions) {
  const samples = { ours: [] as number[][], floor: [] as number[][] };
  const lives = new Set<Promise<void>>();
  const failures: unknown[] = [];
  let begun = 0;
  const start = performance.now();
  const elapsed = () => (performance.now() - start) / 1000;
  const live = async (whose: 'ours' | 'floor', second: number) => {
    const path = await bench.farm.one();
    const took = await (whose === 'ours' ? ours : floor).install(path);
    samples[whose][second] ??= [];
    samples[whose][second]?.push(took);
    await sleep(LIFE_MS);
    await bench.farm.remove([path]);
  };
  while (elapsed() < seconds && failures.length === 0) {
    const second = Math.floor(elapsed());
    while (begun < rate * elapsed() && lives.size < MOST_LIVES) {
      const one: Promise<void> = live(begun++ % FLOOR_EACH === 0 ? 'floor' : 'ours', second)
        .catch((error: unknown) => void failures.push(error))
        .finally(() => lives.delete(one));
      lives.add(one);
    }
    await sleep(2);
  }
  const held = begun / elapsed();
  await Promise.all(lives);
  if (failures.length > 0) throw failures[0];
  return { ...samples, held };
}
