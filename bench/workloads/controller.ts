/**
 * What the controller costs on a busy node: start with many pods, sweeps, churn; bundled as released, with real netns and
 * real installs. The API server is a stand-in in a process of its own, then the real one where test/cluster is built.
 */
import { mkdirSync, mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FLAG } from '../../chart/image/files.ts';
import { clusterLack } from '../../test/cluster/programs.ts';
import { startBusyNode } from '../controller/busy-node.ts';
import { churn, Sandboxes } from '../controller/churn.ts';
import type { Sweep } from '../controller/entry.ts';
import { NODE } from '../controller/pods.ts';
import { realChurn } from '../controller/real.ts';
import { Prober } from '../controller/stand-in.ts';
import { bundleSubject, COLLECTABLE, Subject } from '../controller/subject.ts';
import { TOOLBOX } from '../farm.ts';
import { seriesOf } from '../method.ts';
import type { Figure, Series } from '../schema.ts';
import { growth, percentile } from '../statistics.ts';
import type { Bench, Measured, Workload } from './workload.ts';

const PODS = 250;
/** Pods a second, of the stand-in, unless `--rate` says otherwise. */
const RATE = 500;
/** Between two bare patches to the stand-in, where pods come evenly. */
const PROBE_MS = 25;
const WARM_UP_SECONDS = 4;
const SECONDS = { quick: 5, full: 60 };
const REAL_SECONDS = 60;
/** Of the real API server: as many pods are on their way at a time. */
const LANES = 8;
const SWEEPS = { quick: 5, full: 20 };
/** Into so many are latencies cut, in the order in which they came. */
const ROUNDS = 12;

export const controller: Workload = {
  name: 'controller',
  title: `The controller: ${PODS} pods at its start, sweeps, ${RATE} pods/s or those of --rate`,
  budget: { quick: 22, full: 165 },
  async run(bench) {
    const folder = mkdtempSync(join(bench.folder, 'controller-'));
    const { profile } = bench;
    const bundle = await bundleSubject(folder, profile === undefined);
    const execArgv = [FLAG, COLLECTABLE, ...(profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profile}`])];
    const parts = [await withStandIn(bench, folder, bundle, execArgv)];
    if (!bench.quick && clusterLack() === undefined) parts.push(await withRealServer(bench, folder, bundle, execArgv));
    return {
      series: parts.flatMap(({ series }) => series),
      figures: parts.flatMap(({ figures }) => figures),
      charts: parts.flatMap(({ charts }) => charts),
    };
  },
};

async function withStandIn(bench: Bench, folder: string, bundle: string, execArgv: string[]): Promise<Measured> {
  const mode = bench.quick ? 'quick' : 'full';
  const seconds = SECONDS[mode];
  const { rate = RATE } = bench;
  // Figures of different rates cannot be compared, and the goals are for one of them.
  const server = rate === RATE ? 'stand-in' : `stand-in at ${rate}/s`;
  const id = server.replaceAll(/[^a-z0-9]+/g, '-');
  const atRest = () => bench.atRest();
  await using node = await startBusyNode({ folder, bundle, execArgv, pods: PODS, atRest });
  const { sandboxes, standIn, subject } = node;
  const rssStarted = subject.rss();
  await bench.atRest();
  bench.progress(0.15);

  const sweeps = await sweepAll(subject, SWEEPS[mode]);
  const p50 = (pick: (sweep: Sweep) => number) => percentile(sweeps.map(pick), 0.5);
  const swept = sweeps.map(({ took }) => [took]);
  // The first thousand pods warm up: code is compiled, connections are opened.
  await churn(standIn, sandboxes, { rate: rate / 2, seconds: WARM_UP_SECONDS, life: 'short' });
  await standIn.report();
  const kept = await subject.heapKept();
  subject.samples.length = 0;
  const cpu = subject.cpu();
  const prober = new Prober(standIn.kube, { name: 'probe', uid: '' }).each(PROBE_MS);
  const ticking = setInterval(() => bench.progress(0.2 + 0.4 * Math.min(1, subject.samples.length / seconds)), 500);
  const held = await churn(standIn, sandboxes, { rate, seconds, life: 'short' });
  clearInterval(ticking);
  const bare = prober.stop();
  const pods = held * seconds;
  const cpuShare = (subject.cpu() - cpu) / seconds;
  const report = await standIn.report();
  const samples = [...subject.samples];
  const { loopP99 } = await subject.state();
  await sleep(500);
  const heap = (await subject.heapKept()) - kept;
  await bench.atRest();
  return {
    series: [
      ...latencySeries(bench, { id, name: server }, report.latencies, bare),
      seriesOf(
        bench.random,
        { id: 'sweep', name: `a resync over ${PODS} pods`, group: 'sweeps', ours: true, unit: 'ms' },
        swept,
      ),
    ],
    figures: [
      ...beyond({ id, name: server }, report.latencies, bare),
      { id: 'start/marked', label: `${PODS} pods at the start: all marked after`, value: node.markedMs, unit: 'ms' },
      rss('start/rss', `RSS with ${PODS} pods`, rssStarted),
      { id: 'sweep/delay', label: 'a resync delays the event loop by', value: p50(({ delay }) => delay), unit: 'ms' },
      { id: 'sweep/idle', label: 'without a resync it is delayed by', value: p50(({ idle }) => idle), unit: 'ms' },
      { id: `${id}/held`, label: `${server}: held`, value: held, unit: 'pods/s' },
      {
        id: `${id}/unmarked`,
        label: `${server}: ended unmarked`,
        value: report.unmarked,
        unit: 'pods',
        tolerance: 0,
      },
      { id: `${id}/cpu`, label: `${server}: CPU of the controller`, value: 100 * cpuShare, unit: '%' },
      { id: `${id}/cpu-a-pod`, label: `${server}: CPU a pod`, value: (cpuShare * 1e6 * seconds) / pods, unit: 'us' },
      { id: `${id}/loop`, label: `${server}: event loop delay, p99`, value: loopP99, unit: 'ms' },
      { id: 'patches', label: 'patches a pod', value: report.patches / pods, unit: '', tolerance: 0.05 },
      { id: 'events', label: 'Events a pod', value: report.events / pods, unit: '' },
      { id: 'echoed', label: 'watch bytes a pod, of the mark', value: report.echoed / pods, unit: 'B' },
      { id: 'told', label: 'watch bytes a pod, of all', value: report.told / pods, unit: 'B' },
      rss(`${id}/rss`, `${server}: highest RSS`, Math.max(...samples)),
      { id: `${id}/growth`, label: `${server}: RSS grows, second half`, value: growth(samples), unit: 'MiB/min' },
      { id: `${id}/kept`, label: `${server}: heap kept of pods that are gone`, value: heap, unit: 'KiB' },
    ],
    charts: [],
  };
}

/** The server under the controller, in ids and for people. */
interface Server {
  id: string;
  name: string;
}

const REAL: Server = { id: 'kube-apiserver', name: 'kube-apiserver' };

async function withRealServer(bench: Bench, folder: string, bundle: string, execArgv: string[]): Promise<Measured> {
  const sandboxFolder = join(folder, 'netns-real');
  mkdirSync(sandboxFolder);
  await using sandboxes = new Sandboxes(TOOLBOX, sandboxFolder);
  const begin = (kubeconfig: string) =>
    new Subject(bundle, [kubeconfig, sandboxFolder, NODE], execArgv, join(folder, 'log-real'));
  bench.progress(0.65);
  const { held, latencies, bare, samples } = await realChurn(begin, sandboxes, LANES, REAL_SECONDS);
  await bench.atRest();
  return {
    series: latencySeries(bench, REAL, latencies, bare),
    figures: [
      ...beyond(REAL, latencies, bare),
      { id: 'kube-apiserver/held', label: 'kube-apiserver: held', value: held, unit: 'pods/s' },
      rss('kube-apiserver/rss', 'kube-apiserver: highest RSS', Math.max(...samples)),
    ],
    charts: [],
  };
}

function rss(id: string, label: string, value: number): Figure {
  return { id, label, value, unit: 'MiB', tolerance: 0.15 };
}

/**
 * Without a ratio: what a pod takes is a matter of how near its server, or this machine, is to the most that it can do, and a
 * queue near its limit grows tenfold for a tenth of speed.
 */
function latencySeries(
  bench: Bench,
  { id, name }: Server,
  latencies: readonly number[],
  bare: readonly number[],
): Series[] {
  const group = `${name}, event to patch`;
  const ours = { id: `${id}/marked`, name: 'from event to patch', group, ours: true, unit: 'ms' } as const;
  const of = { id: `${id}/bare`, name: 'a bare patch', group, ours: false, unit: 'ms' } as const;
  return [seriesOf(bench.random, ours, inRounds(latencies)), seriesOf(bench.random, of, inRounds(bare))];
}

function inRounds(samples: readonly number[]): number[][] {
  const length = Math.max(1, Math.ceil(samples.length / ROUNDS));
  return Array.from({ length: Math.ceil(samples.length / length) }, (_, at) =>
    samples.slice(at * length, (at + 1) * length),
  );
}

function beyond({ id, name }: Server, latencies: readonly number[], bare: readonly number[]): Figure[] {
  return [0.5, 0.99].map((p) => ({
    id: `${id}/beyond-p${100 * p}`,
    label: `${name}: event to patch beyond a bare patch, p${100 * p}`,
    value: percentile(latencies, p) - percentile(bare, p),
    unit: 'ms',
  }));
}

async function sweepAll(subject: Subject, count: number): Promise<Sweep[]> {
  const all: Sweep[] = [];
  await subject.sweep();
  while (all.length < count) {
    all.push(await subject.sweep());
    await sleep(20);
  }
  return all;
}
