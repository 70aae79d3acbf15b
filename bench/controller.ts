/**
 * What the controller costs on a busy node: start with many pods, sweeps, churn; bundled as released, with real netns
 * and real installs. The API server is a stand-in in a process of its own, then the real one where test/cluster is
 * built.
 *
 *   node bench/controller.ts [--pods 250 --rate 500 --seconds 60 --json FILE --quick]
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { runInSandbox } from '../lib/userns.ts';
import { clusterLack } from '../test/cluster/programs.ts';
import { churn, Sandboxes } from './controller/churn.ts';
import type { Sweep } from './controller/entry.ts';
import { NODE } from './controller/pods.ts';
import { realChurn } from './controller/real.ts';
import { Prober, StandIn } from './controller/stand-in.ts';
import { bundleSubject, Subject } from './controller/subject.ts';
import { percentile, table } from './report.ts';

const { values } = parseArgs({
  options: {
    pods: { type: 'string', default: '250' },
    rate: { type: 'string', default: '500' },
    seconds: { type: 'string' },
    /** full or short: what is told of a pod between its first line and its last. */
    life: { type: 'string', default: 'short' },
    /** Of the real API server: as many pods are on their way at a time. */
    lanes: { type: 'string', default: '8' },
    /** Of node, for the controller. */
    flags: { type: 'string', default: '--max-semi-space-size=4' },
    /** A folder for a CPU profile of the controller. */
    profile: { type: 'string' },
    only: { type: 'string', default: 'stand-in,real' },
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
  },
});
const pods = Number(values.pods);
const rate = Number(values.rate);
const seconds = Number(values.seconds ?? (values.quick ? 5 : 60));
const sweeps = values.quick ? 5 : 20;
if (!(pods > 0 && rate > 0 && seconds > 0)) throw new Error('--pods, --rate and --seconds must be above 0');
const life = values.life === 'full' ? 'full' : 'short';

const sandbox = await runInSandbox();
if (sandbox.ran) process.exit(sandbox.exitCode);

const folder = mkdtempSync(join(tmpdir(), 'ipnc-bench-controller-'));
const toolbox = fileURLToPath(new URL('../build/Release/toolbox', import.meta.url));
const execArgv = [
  ...values.flags.split(' ').filter(Boolean),
  ...(values.profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${values.profile}`]),
];

const ms = (value: number) => (value < 100 ? value.toFixed(2) : value.toFixed(0));
const mib = (value: number) => `${value.toFixed(1)} MiB`;

/** MiB a minute, by least squares. */
function slope(samples: readonly number[]): number {
  const middle = (samples.length - 1) / 2;
  const mean = samples.reduce((sum, value) => sum + value, 0) / samples.length;
  const [over, under] = samples.reduce(
    ([over, under], value, at) => [over + (at - middle) * (value - mean), under + (at - middle) ** 2],
    [0, 0],
  );
  return (60 * over) / under;
}

function latencyRows(latencies: readonly number[], bare: readonly number[]) {
  const p = (samples: readonly number[], at: number) => percentile(samples, at);
  const beyond = { p50: p(latencies, 0.5) - p(bare, 0.5), p99: p(latencies, 0.99) - p(bare, 0.99) };
  const row = (name: string, samples: readonly number[]) => [
    name,
    ...[0.5, 0.9, 0.99, 1].map((at) => ms(p(samples, at))),
    String(samples.length),
  ];
  return {
    beyond,
    rows: [
      row('event to patch', latencies),
      row('a bare patch', bare),
      ['beyond it', ms(beyond.p50), '', ms(beyond.p99), '', ''],
    ],
  };
}

async function sweepAll(subject: Subject): Promise<Sweep[]> {
  const all: Sweep[] = [];
  await subject.sweep();
  for (let done = 0; done < sweeps; done++) {
    all.push(await subject.sweep());
    await sleep(20);
  }
  return all;
}

function sweepSummary(all: readonly Sweep[]) {
  const p50 = (pick: (sweep: Sweep) => number) => percentile(all.map(pick), 0.5);
  return {
    pods: all[0]?.pods ?? 0,
    took: p50(({ took }) => took),
    worst: percentile(
      all.map(({ took }) => took),
      1,
    ),
    delay: p50(({ delay }) => delay),
    idle: p50(({ idle }) => idle),
  };
}

async function withStandIn(bundle: string): Promise<unknown> {
  const sandboxFolder = join(folder, 'netns');
  mkdirSync(sandboxFolder);
  await using sandboxes = new Sandboxes(toolbox, sandboxFolder);
  await using standIn = await StandIn.start(folder);
  for (let at = 0; at < pods; at++) {
    await sandboxes.add(`pod-${at}`);
    standIn.change('create', `pod-${at}`);
  }
  await sleep(500);
  const began = performance.timeOrigin + performance.now();
  await using subject = new Subject(bundle, [standIn.kubeconfig, sandboxFolder, NODE], execArgv, join(folder, 'log'));
  const allMarked = (await standIn.whenMarked(pods)) - began;
  await sleep(2000);
  const rssStarted = subject.rss();
  const first = await standIn.report();
  console.log(`${pods} pods at the start: all marked ${ms(allMarked)} ms after the process was started`);
  console.log(
    `  list to patch p50 ${ms(percentile(first.latencies, 0.5))} ms, last ${ms(percentile(first.latencies, 1))} ms; RSS ${mib(rssStarted)}\n`,
  );

  const swept = sweepSummary(await sweepAll(subject));
  console.log(
    `A sweep over ${swept.pods} pods, p50 of ${sweeps}: ${ms(swept.took)} ms (worst ${ms(swept.worst)}); ` +
      `longest delay of the event loop ${ms(swept.delay)} ms, idle ${ms(swept.idle)} ms\n`,
  );

  await subject.state();
  subject.samples.length = 0;
  const cpu = subject.cpu();
  const prober = new Prober(standIn.kube, { name: 'probe', uid: '' });
  const load = loadavg()[0] ?? Number.NaN;
  const held = await churn(standIn, sandboxes, { rate, seconds, life });
  const bare = prober.stop();
  const cpuShare = (subject.cpu() - cpu) / seconds;
  const report = await standIn.report();
  const samples = [...subject.samples];
  const state = await subject.state();
  const { beyond, rows } = latencyRows(report.latencies, bare);
  const half = samples.slice(Math.floor(samples.length / 2));
  const rss = { started: rssStarted, highest: Math.max(...samples), last: subject.rss(), slope: slope(half) };
  console.log(
    table([`${held.toFixed(0)} pods/s, stand-in, ms`, 'p50', 'p90', 'p99', 'max', 'n'], rows) +
      `  CPU ${(100 * cpuShare).toFixed(0)} %; loop p99 ${ms(state.loopP99)} ms; ended unmarked ${report.unmarked}; ` +
      `further patches ${report.further}; load of the machine ${load.toFixed(1)} before, ${(loadavg()[0] ?? Number.NaN).toFixed(1)} after\n  RSS highest ${mib(rss.highest)}, ${mib(rss.last)} after; ` +
      `second half ${rss.slope.toFixed(2)} MiB/min; heap used ${mib(state.heapUsed / 2 ** 20)}\n  ${JSON.stringify(state)}\n`,
  );
  return { allMarked, swept, held, beyond, rows, cpuShare, rss, samples, unmarked: report.unmarked, state };
}

async function withRealServer(bundle: string): Promise<unknown> {
  const lack = clusterLack();
  if (lack !== undefined) {
    console.log(`The real API server: skipped, ${lack}`);
    return { lack };
  }
  const sandboxFolder = join(folder, 'netns-real');
  mkdirSync(sandboxFolder);
  await using sandboxes = new Sandboxes(toolbox, sandboxFolder);
  const begin = (kubeconfig: string) =>
    new Subject(bundle, [kubeconfig, sandboxFolder, NODE], execArgv, join(folder, 'log-real'));
  const { held, latencies, bare, rss, samples } = await realChurn(begin, sandboxes, Number(values.lanes), seconds);
  const { beyond, rows } = latencyRows(latencies, bare);
  console.log(
    `${table([`${held.toFixed(0)} pods/s, kube-apiserver, ms`, 'p50', 'p90', 'p99', 'max', 'n'], rows)}  RSS highest ${mib(Math.max(...samples))}, ${mib(rss)} after; second half ${slope(samples.slice(Math.floor(samples.length / 2))).toFixed(2)} MiB/min\n`,
  );
  return { held, beyond, rows, rss };
}

try {
  const bundle = await bundleSubject(folder, values.profile === undefined);
  const results: Record<string, unknown> = { conditions: { pods, rate, seconds, life, execArgv } };
  if (values.only.includes('stand-in')) results.standIn = await withStandIn(bundle);
  if (values.only.includes('real')) results.real = await withRealServer(bundle);
  if (values.json !== undefined) writeFileSync(values.json, JSON.stringify(results, null, 2));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
