/**
 * What an install costs, and what the other ways cost, side by side in one run: each round makes ten fresh netns a way
 * and installs Istio's default rules, IPv4 and IPv6, in one after the other, in an order of ways that rotates. Absolute
 * figures move from machine to machine; the ratios are what counts.
 *
 *   npm run bench [-- --rounds 200 --installs 1500 --json FILE]
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type Compiled, native } from '../lib/native.ts';
import { redirect } from '../lib/redirect.ts';
import { iptablesText } from '../lib/ruleset/iptables.ts';
import type { Family } from '../lib/ruleset/model.ts';
import { plan } from '../lib/ruleset/plan.ts';
import { Coprocess } from './coprocess.ts';
import { figure, percentile, ratio, table } from './report.ts';

const BUILD = new URL('../build/Release/', import.meta.url);
const { values } = parseArgs({
  options: { rounds: { type: 'string' }, installs: { type: 'string' }, json: { type: 'string' } },
});
const rounds = Number(values.rounds ?? 200);
const installs = Number(values.installs ?? 1500);
if (!(rounds >= 1 && installs >= 64)) throw new Error('--rounds must be at least 1, --installs at least 64');

const families: Family[] = [4, 6];
const ruleset = plan(redirect({ flags: {}, environment: {} }).spec, families);
const folder = mkdtempSync(join(tmpdir(), 'ipnc-bench-'));

/** The plan's text as one iptables command a rule: the original controller's way. */
function script(): string {
  return families
    .flatMap((family) => {
      const program = family === 4 ? 'iptables-legacy' : 'ip6tables-legacy';
      return iptablesText(ruleset, family)
        .split('\n')
        .flatMap((line) => {
          if (line.startsWith('-')) return `${program} -t nat ${line}`;
          const chain = /^:(ISTIO_\S+)/.exec(line)?.[1];
          return chain === undefined ? [] : `${program} -t nat -N ${chain}`;
        });
    })
    .join('\n');
}

/** Pods come in bursts. The first round warms up, and proves that each way installs the same. */
const BURST = 40;

/** Of each degree of concurrency: what else the machine does comes and goes within seconds. */
const REPEATS = 5;

interface Way {
  name: string;
  /** Installs in the netns at `path`; microseconds. */
  install(path: string): Promise<number>;
  samples: number[];
}

let made = 0;

async function freshNetns(farm: Coprocess, count: number): Promise<string[]> {
  const paths = Array.from({ length: count }, () => join(folder, `pod${made++}`));
  await Promise.all(paths.map((path) => farm.ask(`add ${path}`)));
  return paths;
}

/**
 * The kernel takes namespaces down behind our back, at about a millisecond each, and whatever runs meanwhile pays for it;
 * thousands that are left standing make each install slower.
 */
async function takeDown(farm: Coprocess, paths: readonly string[]): Promise<void> {
  await Promise.all(paths.map((path) => farm.ask(`del ${path}`)));
  await setTimeout(30 + 2 * paths.length);
}

/** A way that installs something else is no way to compare with. */
async function mustStand(compiled: Compiled, way: Way, paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    const { tables } = await compiled.verify(await native().identify(path));
    if (tables.length > 0) throw new Error(`${way.name} did not install the rules`);
  }
}

/** The ways, against each other, one install at a time. */
async function oneAtATime(farm: Coprocess, drivers: Coprocess, compiled: Compiled): Promise<Way[]> {
  const files = families.map((family) => {
    const file = join(folder, `rules.v${family}`);
    writeFileSync(file, iptablesText(ruleset, family));
    return file;
  });
  const commands = join(folder, 'commands.sh');
  writeFileSync(commands, script());
  const driver = async (line: string) => Number(await drivers.ask(line)) / 1000;
  const timed = async (job: () => Promise<unknown>) => {
    const start = performance.now();
    await job();
    return (performance.now() - start) * 1000;
  };

  const ways: Way[] = [
    { name: 'floor: setns + setsockopt, C++', install: (path) => driver(`replay ${path}`), samples: [] },
    { name: 'floor and ::6/128 on lo, C++', install: (path) => driver(`replay+address ${path}`), samples: [] },
    {
      name: 'ipnc apply, from JavaScript',
      install: async (path) => {
        const netns = await native().identify(path);
        return timed(() => compiled.apply(netns, { fresh: true }));
      },
      samples: [],
    },
    {
      name: 'ipnc identify + apply',
      install: (path) => timed(async () => compiled.apply(await native().identify(path), { fresh: true })),
      samples: [],
    },
    {
      name: 'nsenter + iptables-restore',
      install: (path) => driver(`restore ${path} ${files.join(' ')}`),
      samples: [],
    },
    { name: 'nsenter + an iptables exec a rule', install: (path) => driver(`script ${path} ${commands}`), samples: [] },
  ];

  const [first = ''] = await freshNetns(farm, 1);
  await compiled.apply(await native().identify(first));
  await drivers.ask(`template ${first}`);

  for (let round = -1; round < rounds / BURST; round++) {
    for (let i = 0; i < ways.length; i++) {
      const way = ways[(i + round + ways.length) % ways.length];
      if (way === undefined) throw new Error('no way');
      const paths = await freshNetns(farm, BURST);
      for (const path of paths) {
        const took = await way.install(path);
        if (round >= 0) way.samples.push(took);
      }
      if (round < 0) await mustStand(compiled, way, paths);
      await takeDown(farm, paths);
    }
  }
  return ways;
}

/** Installs per second, and what each costs the main thread. */
async function throughput(farm: Coprocess, compiled: Compiled, concurrency: number) {
  const paths = await freshNetns(farm, installs);
  const targets = await Promise.all(paths.map((path) => native().identify(path)));
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

try {
  await using farm = new Coprocess(fileURLToPath(new URL('toolbox', BUILD)), 'netns');
  await using drivers = new Coprocess(fileURLToPath(new URL('drivers', BUILD)));
  const compiled = await native().compile(ruleset, 'iptables-legacy');

  console.log(`One install into a fresh netns, IPv4 and IPv6, ${rounds} of each, microseconds\n`);
  const ways = await oneAtATime(farm, drivers, compiled);
  const [floor, whole, ours] = ways.map((way) => percentile(way.samples, 0.5));
  if (floor === undefined || whole === undefined || ours === undefined) throw new Error('no samples');
  const latency = ways.map(({ name, samples }) => {
    const [p50, p99] = [percentile(samples, 0.5), percentile(samples, 0.99)];
    return { name, p50, p99, toFloor: p50 / floor, toWhole: p50 / whole, toOurs: p50 / ours };
  });
  console.log(
    table(
      ['', 'p50', 'p99', '/ floor', '/ floor and ::6', '/ ours'],
      latency.map(({ name, p50, p99, toFloor, toWhole, toOurs }) => [
        name,
        figure(p50),
        figure(p99),
        ratio(toFloor),
        ratio(toWhole),
        ratio(toOurs),
      ]),
    ),
  );

  console.log(`Many installs at a time, ${installs} each, median of ${REPEATS}\n`);
  const runs: Awaited<ReturnType<typeof throughput>>[] = [];
  for (let repeat = 0; repeat < REPEATS; repeat++) {
    for (const concurrency of [1, 8, 64]) runs.push(await throughput(farm, compiled, concurrency));
  }
  const rates = [1, 8, 64].map((concurrency) => {
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
      ['at a time', 'installs/s', 'main thread, us each'],
      rates.map(({ concurrency, perSecond, mainThread }) => [
        String(concurrency),
        figure(perSecond),
        figure(mainThread),
      ]),
    ),
  );
  if (values.json !== undefined) writeFileSync(values.json, JSON.stringify({ latency, rates }, null, 2));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
