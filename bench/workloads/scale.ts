/**
 * How far the project goes, and what breaks first: a node with many pods, the replacement of its controller, and many nodes on one
 * real API server. Runs only if it is named.
 */
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { FLAG } from '../../chart/image/files.ts';
import { clusterLack } from '../../test/cluster/programs.ts';
import { bundleSubject, COLLECTABLE } from '../controller/subject.ts';
import { seriesOf } from '../method.ts';
import { DenseNode, type Phase, type Restart } from '../scale/dense.ts';
import { errorOf, fit, type Model, meansOf, type Point, predict } from '../scale/model.ts';
import { type Load, ManyNodes } from '../scale/nodes.ts';
import type { Figure, Series } from '../schema.ts';
import { percentile } from '../statistics.ts';
import { type Bench, type Measured, SETTLE_MS, type Workload } from './workload.ts';

/** Pods a second that start on the dense node, and as many that end, unless `--rate` says otherwise. */
const RATE = 50;
/** All phases of a full run together take ten minutes for each number of pods. */
const DENSE = {
  quick: { pods: [500], rounds: 2, seconds: 5, restarts: 1 },
  full: { pods: [500, 1000], rounds: 5, seconds: 60, restarts: 8 },
};
const RESYNCS = 10;
/** As in a cluster: the default of --resync. */
const RESYNC_S = 30;
/** `starts`: pods of the whole cluster that start in a second. Each point has a turn of `seconds` in each round. */
const MANY = {
  quick: { nodes: 8, starts: 10, seconds: 5, rounds: 1 },
  full: { nodes: 50, starts: 30, seconds: 10, rounds: 3 },
};
/** The clusters for which the model is asked: nodes, and pods that start on each in a second. */
const CLUSTERS = [
  [500, 1],
  [500, 10],
  [5000, 1],
  [5000, 10],
] as const;
const MARKS = ['all', 'failures'] as const;
/** Of a controller: pods and namespaces. */
const WATCHES = 2;
/** The most Events of one type that a controller creates in a second (lib/kube/events.ts). */
const EVENTS = 1;

export const scale: Workload = {
  name: 'scale',
  title: 'A node with up to 1,000 pods, the replacement of its controller, and many nodes on one API server',
  budget: { quick: 120, full: 3000 },
  apart: true,
  async run(bench) {
    const folder = mkdtempSync(join(bench.folder, 'scale-'));
    const bundle = await bundleSubject(folder, true);
    const given = { bundle, execArgv: [FLAG, COLLECTABLE] };
    const { pods: sizes } = DENSE[bench.quick ? 'quick' : 'full'];
    const parts: Measured[] = [];
    for (const pods of sizes)
      parts.push(await dense(bench, { ...given, folder: mkdtempSync(join(folder, 'dense-')), pods }));
    if (clusterLack() === undefined)
      parts.push(await many(bench, { ...given, folder: mkdtempSync(join(folder, 'many-')) }));
    return {
      series: parts.flatMap(({ series }) => series),
      figures: parts.flatMap(({ figures }) => figures),
      charts: [],
    };
  },
};

interface Given {
  folder: string;
  bundle: string;
  execArgv: string[];
}

async function dense(bench: Bench, given: Given & { pods: number }): Promise<Measured> {
  const { pods } = given;
  const { rounds, seconds, restarts } = DENSE[bench.quick ? 'quick' : 'full'];
  const { rate = RATE } = bench;
  await bench.atRest(SETTLE_MS);
  const { node, servedMs } = await DenseNode.start({ ...given, rate });
  await using _node = node;
  const resyncCpu = await node.resyncCpu(RESYNCS);
  const calm: Phase[] = [];
  const troubled: Phase[] = [];
  const faults: Faults = { unserved: 0, needless: 0, restart: 0 };
  // The faults of repeated turns count too, because a busy machine does not excuse them.
  const phase = async (trouble: boolean) => {
    const measured = await node.phase(seconds, trouble);
    faults.unserved += measured.unserved;
    if (!trouble) faults.needless += measured.repaired;
    return measured;
  };
  const restart = async () => {
    const measured = await node.restart();
    faults.restart += measured.needless;
    return measured;
  };
  // The first phase warms up: code is compiled, connections are opened.
  await node.phase(Math.min(seconds, 5), false);
  for (let round = 0; round < rounds; round++) {
    for (const trouble of bench.random.shuffled([false, true]))
      (trouble ? troubled : calm).push(await bench.turn(() => phase(trouble)));
    bench.progress((0.4 * (round + 1)) / rounds);
  }
  const replaced: Restart[] = [];
  while (replaced.length < restarts) replaced.push(await bench.turn(restart));
  return {
    series: denseSeries(bench, pods, calm, troubled, replaced),
    figures: denseFigures(given.pods, rate, { calm, troubled, replaced, faults, servedMs, resyncCpu }),
    charts: [],
  };
}

const latenciesOf = (phases: readonly Phase[]) => phases.map(({ latencies }) => latencies);

function denseSeries(bench: Bench, pods: number, calm: Phase[], troubled: Phase[], replaced: Restart[]): Series[] {
  const group = `${pods} pods on the node, from the event to verified rules`;
  const named = (id: string, name: string, ours: boolean) =>
    ({ id: `dense-${pods}/${id}`, name, group, ours, unit: 'ms' }) as const;
  const baseline = { id: `dense-${pods}/calm`, rounds: latenciesOf(calm) };
  const waits = replaced.map(({ waits }) => waits).filter(({ length }) => length > 0);
  return [
    seriesOf(bench.random, named('calm', 'all other pods are well', false), latenciesOf(calm)),
    seriesOf(bench.random, named('troubled', 'five pods flap and five fail', true), latenciesOf(troubled), {
      baseline,
    }),
    ...(waits.length > 0
      ? [seriesOf(bench.random, named('replaced', 'while the controller is replaced', true), waits, { baseline })]
      : []),
  ];
}

/** What must not happen. */
interface Faults {
  /** Pods that ended before they were served. */
  unserved: number;
  /** Repairs where nothing was removed. */
  needless: number;
  /** Repairs and marks that a new process made needlessly. */
  restart: number;
}

interface DenseRun {
  calm: Phase[];
  troubled: Phase[];
  replaced: Restart[];
  faults: Faults;
  servedMs: number;
  resyncCpu: number;
}

function denseFigures(
  pods: number,
  rate: number,
  { calm, troubled, replaced, faults, servedMs, resyncCpu }: DenseRun,
): Figure[] {
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
  const p99 = (phases: readonly Phase[]) => percentile(latenciesOf(phases).flat(), 0.99);
  const p50 = (values: readonly number[]) => percentile(values, 0.5);
  const cpu = sum(calm.map((phase) => phase.cpu)) / calm.length;
  const resyncsASecond =
    sum(calm.map(({ resyncs }) => resyncs.length)) / sum(calm.map(({ latencies }) => latencies.length / (rate / 2)));
  // The phases have many more resyncs than a cluster.
  const withoutResyncs = cpu - resyncCpu * resyncsASecond;
  const inCluster = resyncCpu / RESYNC_S;
  const figure = (id: string, label: string, value: number, unit: string, tolerance?: number): Figure => ({
    id: `dense-${pods}/${id}`,
    label: `${pods} pods, ${rate} starts/s: ${label}`,
    value,
    unit,
    ...(tolerance !== undefined && { tolerance }),
  });
  const all = [...calm, ...troubled];
  return [
    figure('fairness', 'p99 with pods that flap and fail, to p99 without', p99(troubled) / p99(calm), 'x'),
    figure('unserved', 'pods that ended before they were served', faults.unserved, 'pods', 0),
    figure('cpu', 'CPU of the controller, resyncs included', 100 * (withoutResyncs + inCluster), '%'),
    figure(
      'resync-share',
      `share of this CPU for a resync each ${RESYNC_S} s`,
      (100 * inCluster) / (withoutResyncs + inCluster),
      '%',
    ),
    figure('resync', 'a resync takes, p50', p50(calm.flatMap(({ resyncs }) => resyncs)), 'ms'),
    figure('repaired', 'repairs of pods whose rules are removed', sum(troubled.map(({ repaired }) => repaired)), ''),
    figure('needless', 'repairs where nothing was removed', faults.needless, '', 0),
    figure('rss', 'highest RSS', Math.max(...all.map(({ rss }) => rss)), 'MiB', 0.15),
    figure('cold', 'from the start of the process until all pods were marked for the first time', servedMs, 'ms'),
    figure('restart-needless', 'repairs and marks that a new process made needlessly', faults.restart, '', 0),
    figure(
      'restart-first',
      'a new process serves its first pod after, p50',
      p50(replaced.map(({ first }) => first)),
      'ms',
    ),
    figure(
      'restart-examined',
      'a new process has examined all pods after, p50',
      p50(replaced.map(({ examined }) => examined)),
      'ms',
    ),
  ];
}

/** Controllers of the cluster, and the rates at which pods start. */
interface Setup {
  nodes: number;
  marks: Point['marks'];
  rates: number[];
}

function setupsOf(nodes: number, starts: number): Setup[] {
  return [
    { nodes: 0, marks: 'all', rates: [0, starts] },
    // One controller limits its Events, so that they are not as many as marks. Two such points, because the error leaves each
    // out once.
    { nodes: 1, marks: 'all', rates: [starts / 2, starts] },
    { nodes: nodes / 2, marks: 'all', rates: [0, starts] },
    { nodes: nodes / 2, marks: 'failures', rates: [starts] },
    { nodes, marks: 'all', rates: [0, starts / 2, starts] },
    { nodes, marks: 'failures', rates: [starts] },
  ];
}

async function many(bench: Bench, given: Given): Promise<Measured> {
  const { nodes, starts, seconds, rounds } = MANY[bench.quick ? 'quick' : 'full'];
  await using cluster = await ManyNodes.start(given);
  const alone = await cluster.restartApiServer();
  const setups = setupsOf(nodes, starts);
  const measured: Load[][] = [];
  while (measured.length < rounds) {
    const loads: Load[] = [];
    for (const { nodes, marks, rates } of bench.random.shuffled(setups)) {
      await cluster.use(nodes, marks);
      for (const rate of bench.random.shuffled(rates)) loads.push(await bench.turn(() => cluster.load(rate, seconds)));
      const share = loads.length / setups.flatMap(({ rates }) => rates).length;
      bench.progress(0.5 + (0.4 * (measured.length + share)) / rounds);
    }
    measured.push(loads);
  }
  await cluster.use(0, 'all');
  const before = await cluster.memory();
  const herd = await cluster.use(nodes, 'all', nodes);
  const memory = (await cluster.memory()) - before;
  await bench.atRest(SETTLE_MS);
  const restarted = await cluster.restartApiServer();
  await bench.atRest(SETTLE_MS);
  const stored = await cluster.stored();
  return {
    series: [],
    figures: [
      ...apiServerFigures(measured),
      {
        id: 'many/herd',
        label: `${nodes} controllers start at once: all pods examined after`,
        value: herd.examined,
        unit: 'ms',
      },
      {
        id: 'many/herd-cpu',
        label: "the API server's CPU for the start of a controller",
        value: 1000 * herd.apiServer,
        unit: 'ms',
      },
      {
        id: 'many/memory-node',
        label: 'memory of the API server for a controller, after garbage collections',
        value: (1024 * memory) / nodes,
        unit: 'KiB',
      },
      {
        id: 'many/restart',
        label: `the API server is killed, with ${nodes} controllers: all watch again after its first answer`,
        value: restarted.watching,
        unit: 'ms',
      },
      {
        id: 'many/restart-cpu',
        label: "the API server's CPU for a controller that connects again",
        value: (1000 * (restarted.apiServer - alone.apiServer)) / nodes,
        unit: 'ms',
      },
      {
        id: 'many/restart-expired',
        label: 'watches that had to start again with a list (410)',
        value: (100 * restarted.expired) / (WATCHES * nodes),
        unit: '%',
      },
      { id: 'many/stored', label: "etcd's database at the end", value: stored / 2 ** 20, unit: 'MiB' },
    ],
    charts: [],
  };
}

/** Each round has each point of the model once. */
function apiServerFigures(rounds: readonly Load[][]): Figure[] {
  const loads = meansOf(rounds.flat());
  const pointsOf = (pick: (load: Load) => number, of = loads) => of.map((load) => ({ ...load, value: pick(load) }));
  const cpuOf = ({ apiServer }: Load) => apiServer;
  const points = pointsOf(cpuOf);
  const model = fit(points);
  const modelsOfRounds = rounds.map((round) => fit(pointsOf(cpuOf, round)));
  const etcd = fit(pointsOf(({ etcd }) => etcd));
  const writes = fit(pointsOf(({ writes }) => writes));
  const bytes = fit(pointsOf(({ watchBytes }) => watchBytes));
  const figure = (id: string, label: string, value: number, unit: string): Figure => ({
    id: `many/${id}`,
    label,
    value,
    unit,
  });
  return [
    ...loads.map(({ nodes, startsPerSecond, marks, apiServer }) =>
      figure(
        `point/${nodes}x${startsPerSecond}/${marks}`,
        `the API server's CPU, measured: ${nodes} controllers, ${startsPerSecond} starts/s in all, marks: ${marks}`,
        100 * apiServer,
        '%',
      ),
    ),
    figure('node', "the API server's CPU for a node without changes", 1e6 * model.node, 'us/s'),
    figure(
      'pod',
      "the API server's CPU for a pod's creation and deletion, without controllers",
      1000 * model.pod,
      'ms',
    ),
    figure('watched', 'in addition, if a controller watches the pod', 1000 * model.watched, 'ms'),
    figure('mark', 'in addition, if the pod gets a mark', 1000 * model.mark, 'ms'),
    figure('event', "the API server's CPU for an Event of a controller", 1000 * model.event, 'ms'),
    figure('etcd-mark', "etcd's CPU for the mark of a pod", 1000 * etcd.mark, 'ms'),
    figure('error', 'largest error of the model, for a point that was left out of it', 100 * errorOf(points), '%'),
    figure('writes-mark', 'writes for the mark of a pod', writes.mark, ''),
    figure('writes-watched', 'other writes of a controller for a pod', writes.watched, ''),
    figure('bytes-watched', 'watch bytes for a pod that gets no mark', bytes.watched, 'B'),
    figure('bytes-mark', 'in addition, if it gets a mark', bytes.mark, 'B'),
    ...CLUSTERS.flatMap(([nodes, each]) =>
      MARKS.flatMap((marks) => {
        const events = marks === 'all' ? nodes * Math.min(each, EVENTS) : 0;
        const cluster = { nodes, startsPerSecond: nodes * each, marks, events };
        const id = `model/${nodes}x${each}/${marks}`;
        const label = `${nodes} nodes, ${each} starts/s on each, marks: ${marks}: cores that the controllers add`;
        // A part of the model may be smaller than its error, and a large cluster multiplies the error too.
        const most = Math.max(...modelsOfRounds.map((ofRound) => added(ofRound, cluster)));
        return [
          figure(id, label, added(model, cluster), 'cores'),
          figure(`${id}/most`, `${label}, the highest prediction from one round`, most, 'cores'),
        ];
      }),
    ),
  ];
}

/** What the controllers add to a cluster that has these pods anyway. */
function added(model: Model, point: Point): number {
  return predict({ ...model, base: 0, pod: 0 }, point);
}
