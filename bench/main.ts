/**
 * What an install costs, and what the other ways cost, side by side in one run: each round makes fresh netns for each
 * way of a backend and installs Istio's default rules, IPv4 and IPv6, in one after the other, in an order of ways that
 * rotates. Absolute figures move from machine to machine; the ratios are what counts.
 *
 *   npm run bench [-- --rounds 200 --installs 1500 --json FILE]
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { formOf } from '../lib/backend.ts';
import { type Backend, type Compiled, native } from '../lib/native.ts';
import { Coprocess } from './coprocess.ts';
import { figure, percentile, ratio, table } from './report.ts';
import { type Comparison, comparisons, ruleset, type Way } from './ways.ts';

const BUILD = new URL('../build/Release/', import.meta.url);
const { values } = parseArgs({
  options: { rounds: { type: 'string' }, installs: { type: 'string' }, json: { type: 'string' } },
});
const rounds = Number(values.rounds ?? 200);
const installs = Number(values.installs ?? 1500);
if (!(rounds >= 1 && installs >= 64)) throw new Error('--rounds must be at least 1, --installs at least 64');

const folder = mkdtempSync(join(tmpdir(), 'ipnc-bench-'));

/** Pods come in bursts. The first round warms up, and proves that each way installs the same. */
const BURST = 40;

/** Of each degree of concurrency: what else the machine does comes and goes within seconds. */
const REPEATS = 5;

let made = 0;

async function freshNetns(farm: Coprocess, count: number): Promise<string[]> {
  const paths = Array.from({ length: count }, () => join(folder, `pod${made++}`));
  await Promise.all(paths.map((path) => farm.ask(`add ${path}`)));
  return paths;
}

/**
 * The kernel takes namespaces down behind our back, at about a millisecond each, and whatever runs meanwhile pays for
 * it; thousands that are left standing make each install slower.
 */
async function takeDown(farm: Coprocess, paths: readonly string[]): Promise<void> {
  await Promise.all(paths.map((path) => farm.ask(`del ${path}`)));
  await setTimeout(30 + 2 * paths.length);
}

/** The ways, against each other, one install at a time. */
async function oneAtATime(farm: Coprocess, ways: readonly Way[]): Promise<void> {
  for (let round = -1; round < rounds / BURST; round++) {
    for (let i = 0; i < ways.length; i++) {
      const way = ways[(i + round + ways.length) % ways.length];
      if (way === undefined) throw new Error('no way');
      const paths = await freshNetns(farm, BURST);
      for (const path of paths) {
        const took = await way.install(path);
        if (round >= 0) way.samples.push(took);
      }
      // A way that installs something else is no way to compare with.
      if (round < 0)
        for (const path of paths) if (!(await way.stands(path))) throw new Error(`no rules by ${way.name}`);
      await takeDown(farm, paths);
    }
  }
}

function printLatency({ title, ways }: Comparison) {
  const [floor = Number.NaN, whole = Number.NaN, ours = Number.NaN] = ways.map(({ samples }) =>
    percentile(samples, 0.5),
  );
  const rows = ways.map(({ name, samples }) => {
    const [p50, p99] = [percentile(samples, 0.5), percentile(samples, 0.99)];
    return { name, p50, p99, toFloor: p50 / floor, toWhole: p50 / whole, toOurs: p50 / ours };
  });
  console.log(
    table(
      [title, 'p50', 'p99', '/ floor', '/ floor and ::6', '/ ours'],
      rows.map(({ name, p50, p99, toFloor, toWhole, toOurs }) => [
        name,
        figure(p50),
        figure(p99),
        ratio(toFloor),
        ratio(toWhole),
        ratio(toOurs),
      ]),
    ),
  );
  return { title, rows };
}

/** Installs per second, and what each costs the main thread. */
async function throughput(farm: Coprocess, compiled: Compiled, concurrency: number) {
  const paths = await freshNetns(farm, installs);
  const targets = await Promise.all(paths.map((path) => native().identify(path, { fresh: true })));
  await setTimeout(200);
  const start = performance.now();
  const cpu = process.threadCpuUsage();
  let next = 0;
  const lane = async () => {
    for (let target = targets[next++]; target !== undefined; target = targets[next++])
      await compiled.apply(target, { fresh: true });
  };
  await Promise.all(Array.from({ length: concurrency }, lane));
  const { user, system } = process.threadCpuUsage(cpu);
  const seconds = (performance.now() - start) / 1000;
  await takeDown(farm, paths);
  return { concurrency, perSecond: installs / seconds, mainThread: (user + system) / installs };
}

/** Medians at each degree of concurrency. */
async function printThroughput(farm: Coprocess, backend: Backend) {
  const compiled = await native().compile(formOf(ruleset, backend, { counters: true }));
  const degrees = [1, 8, 64];
  const runs: Awaited<ReturnType<typeof throughput>>[] = [];
  for (let repeat = 0; repeat < REPEATS; repeat++) {
    for (const concurrency of degrees) runs.push(await throughput(farm, compiled, concurrency));
  }
  const rates = degrees.map((concurrency) => {
    const same = runs.filter((run) => run.concurrency === concurrency);
    const median = (values: number[]) => percentile(values, 0.5);
    return {
      concurrency,
      perSecond: median(same.map((run) => run.perSecond)),
      mainThread: median(same.map((run) => run.mainThread)),
    };
  });
  console.log(
    table(
      [`${backend}, at a time`, 'installs/s', 'main thread, us each'],
      rates.map(({ concurrency, perSecond, mainThread }) => [
        String(concurrency),
        figure(perSecond),
        figure(mainThread),
      ]),
    ),
  );
  return { backend, rates };
}

try {
  await using farm = new Coprocess(fileURLToPath(new URL('toolbox', BUILD)), 'netns');
  await using drivers = new Coprocess(fileURLToPath(new URL('drivers', BUILD)));
  const compared = await comparisons(drivers, folder, async () => (await freshNetns(farm, 1))[0] ?? '');

  console.log(`One install into a fresh netns, IPv4 and IPv6, ${rounds} of each, microseconds\n`);
  const latency = [];
  for (const comparison of compared) {
    await oneAtATime(farm, comparison.ways);
    latency.push(printLatency(comparison));
  }
  console.log(`Many installs at a time, ${installs} each, median of ${REPEATS}\n`);
  const throughputs = [];
  for (const backend of ['iptables-legacy', 'nftables'] as const)
    throughputs.push(await printThroughput(farm, backend));
  if (values.json !== undefined) writeFileSync(values.json, JSON.stringify({ latency, throughputs }, null, 2));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
