/**
 * Pods of a real mesh (test/mesh): from created to app started and to Ready, without a mesh, with each of Istio's own ways
 * to write the redirect rules, and with each of ours. The ways take turns, in an order drawn anew for each round.
 *
 * istio-cni changes how a node starts every pod, so its pods have a node of their own.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { ControllerProcess } from '../../test/cluster/controller-process.ts';
import { type Mesh, OUTSIDE, PRIVILEGED, RESTRICTED, startMesh } from '../../test/mesh/mesh.ts';
import { usePolicy, withdrawPolicies } from '../../test/mesh/policy.ts';
import { meshLack } from '../../test/mesh/programs.ts';
import { templateValues } from '../../test/mesh/template.ts';
import { STAGES, type Start, Starts, type Way } from '../mesh/starts.ts';
import type { WayId } from '../mesh/ways.ts';
import { seriesOf } from '../method.ts';
import { busySeconds } from '../others.ts';
import type { Chart, Series } from '../schema.ts';
import { percentile } from '../statistics.ts';
import { type Bench, type Measured, SETTLE_MS, type Workload } from './workload.ts';

/** Of each way, unless `--pods` says otherwise. */
const PODS = { quick: 4, full: 40 };
/** Seconds before the budget ends in which no round begins. */
const RESERVE_S = { quick: 20, full: 60 };
/** istiod injects a pod with it in a namespace whose other pods it leaves alone. No policy is in force there. */
const INJECTED = { 'sidecar.istio.io/inject': 'true' };
/** At least so many samples are a round of a series: the bootstrap draws rounds. */
const ROUND = 4;

export const mesh: Workload = {
  name: 'mesh',
  title: 'Pods of a real mesh: from created to app started, and to Ready',
  budget: { quick: 300, full: 2700 },
  apart: true,
  lack: meshLack,
  async run(bench) {
    const started = await startMesh({ images: ['toolbox', 'pod-network-gate'] });
    try {
      const { node } = started.cluster;
      await started.installRevision('cni', { pilot: { cni: { enabled: true } } });
      for (const wait of ['sidecar', 'init'] as const) await started.installRevision(wait, await templateValues(wait));
      const other = await started.addNode({ images: ['toolbox'] });
      await started.installIstioCni(other);
      await using ours = new Ours(started);
      await using starts = new Starts(started);
      await starts.fill([node, other], bench.starts.resident);
      const { ways: named } = bench.starts;
      const ways = waysOf(started, other, ours).filter(({ id, away }) => named?.includes(id) ?? away !== true);
      return await measure(bench, starts, ours, ways);
    } finally {
      await started.stop();
    }
  },
};

/** The controller of the first node, and the policies. */
class Ours implements AsyncDisposable {
  readonly #mesh: Mesh;
  #controller: ControllerProcess | undefined;

  constructor(mesh: Mesh) {
    this.#mesh = mesh;
  }

  /** Throws while it is away. */
  get controller(): ControllerProcess {
    if (this.#controller === undefined) throw new Error('the controller does not run');
    return this.#controller;
  }

  async come(): Promise<void> {
    if (this.#controller !== undefined) return;
    const { node, kubeconfig } = this.#mesh.cluster;
    await usePolicy(this.#mesh, { only: RESTRICTED });
    await usePolicy(this.#mesh, { only: PRIVILEGED, wait: 'sidecar' });
    this.#controller = await ControllerProcess.start(node, kubeconfig, '--enroll=istio');
    await sleep(SETTLE_MS);
  }

  async leave(): Promise<void> {
    if (this.#controller === undefined) return;
    await withdrawPolicies(this.#mesh);
    await this[Symbol.asyncDispose]();
    await sleep(SETTLE_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#controller?.[Symbol.asyncDispose]();
    this.#controller = undefined;
  }
}

function waysOf({ cluster: { node } }: Mesh, other: Way['node'], here: Ours): (Way & { id: WayId })[] {
  const ours = { node, controller: () => here.controller, ours: true };
  const by = (revision: string) => ({ namespace: OUTSIDE, labels: { 'istio.io/rev': revision } });
  return [
    { id: 'none', name: 'no mesh: the app alone', namespace: OUTSIDE, node, ours: false, proxy: false },
    {
      ...{ id: 'away', name: 'no mesh, and ipnc is not installed: the app alone', away: true },
      ...{ namespace: OUTSIDE, node, ours: false, proxy: false },
    },
    {
      ...{ id: 'istio-init', name: "Istio's istio-init", waiter: 'istio-init' },
      ...{ namespace: OUTSIDE, labels: INJECTED, node, ours: false, proxy: true },
    },
    {
      ...{ id: 'istio-cni', name: "Istio's istio-cni, istio-validation waits", waiter: 'istio-validation' },
      ...{ ...by('cni'), node: other, ours: false, proxy: true },
    },
    {
      ...{ id: 'policy-sidecar', name: 'ipnc by policy: gate in the sidecar' },
      ...{ namespace: PRIVILEGED, ...ours, proxy: 'gated' },
    },
    {
      ...{ id: 'policy', name: 'ipnc by policy: gate as init container', waiter: 'pod-network-gate' },
      ...{ namespace: RESTRICTED, ...ours, proxy: true },
    },
    {
      ...{ id: 'template-sidecar', name: 'ipnc by template: gate in the sidecar' },
      ...{ ...by('sidecar'), ...ours, proxy: 'gated' },
    },
    {
      ...{ id: 'template-init', name: 'ipnc by template: gate as init container', waiter: 'istio-validation' },
      ...{ ...by('init'), ...ours, proxy: true },
    },
    {
      ...{ id: 'validation', name: 'ipnc in CNI mode: istio-validation waits', waiter: 'istio-validation' },
      ...{ ...by('cni'), ...ours, proxy: true },
    },
  ];
}

async function measure(bench: Bench, starts: Starts, ours: Ours, ways: readonly Way[]): Promise<Measured> {
  const mode = bench.quick ? 'quick' : 'full';
  const { pods = PODS[mode], atOnce } = bench.starts;
  const found = new Map<Way, Start[]>(ways.map((way) => [way, []]));
  const used = new Map<Way, number[]>(ways.map((way) => [way, []]));
  const began = performance.now();
  // The first pod of each way does not count: images are unpacked, files are read for the first time.
  await ours.come();
  for (const way of ways) if (!way.away) await starts.one(way);
  await starts.gone();
  for (let made = 0; made < pods; made += atOnce) {
    const seconds = (performance.now() - began) / 1000;
    // A number that was asked for is measured, however long it takes.
    if (bench.starts.pods === undefined && made >= ROUND && seconds > bench.seconds - RESERVE_S[mode]) break;
    await bench.atRest();
    for (const way of bench.random.shuffled(ways)) {
      await (way.away ? ours.leave() : ours.come());
      const busy = busySeconds();
      const together = Array.from({ length: Math.min(atOnce, pods - made) }, () => starts.one(way));
      found.get(way)?.push(...(await Promise.all(together)));
      used.get(way)?.push((busySeconds() - busy) / together.length);
      await starts.gone();
    }
    bench.progress(Math.min(1, (made + atOnce) / pods));
  }
  await bench.atRest();
  const figures = [...used].map(([{ id, name }, seconds]) => {
    const label = `CPU of the whole machine for a pod's start: ${name}`;
    return { id: `cpu/${id}`, label, value: 1000 * percentile(seconds, 0.5), unit: 'ms' };
  });
  return { series: seriesOfStarts(bench, found), figures, charts: [waterfall(found)] };
}

function seriesOfStarts(bench: Bench, found: ReadonlyMap<Way, Start[]>): Series[] {
  // Pods that started together resemble each other: they are in one round.
  const size = Math.ceil(ROUND / bench.starts.atOnce) * bench.starts.atOnce;
  const rounds = (starts: readonly Start[], stage: 'app' | 'ready') =>
    Array.from({ length: Math.ceil(starts.length / size) }, (_, at) =>
      starts.slice(at * size, (at + 1) * size).map(({ [stage]: ended }) => ended),
    );
  const [baseline] = ['istio-init', 'away'].flatMap((id) => [...found].filter(([way]) => way.id === id));
  return (['app', 'ready'] as const).flatMap((stage) =>
    [...found].map(([{ id, name, ours }, starts]) => {
      const group = stage === 'app' ? 'from created to app started' : 'from created to Ready';
      const named = { id: `${stage}/${id}`, name, group, ours, unit: 'ms' } as const;
      const to = baseline && { baseline: { id: `${stage}/${baseline[0].id}`, rounds: rounds(baseline[1], stage) } };
      return seriesOf(bench.random, named, rounds(starts, stage), to ?? {});
    }),
  );
}

/** Each stage at the p50 of when it ended; a stage that ended before the one above it took no time of its own. */
function waterfall(found: ReadonlyMap<Way, Start[]>): Chart {
  return {
    kind: 'waterfall',
    title: "A pod's start in a real mesh, stage by stage",
    bars: [...found].map(([{ name }, starts]) => {
      const ends = STAGES.flatMap(([stage, what]) => {
        const values = starts.flatMap(({ [stage]: ended }) => ended ?? []);
        return values.length === 0 ? [] : [{ name: what, to: percentile(values, 0.5) }];
      }).sort((a, b) => a.to - b.to);
      return {
        name,
        stages: ends.map(({ name, to }, at) => ({ name, from: ends[at - 1]?.to ?? 0, to })),
      };
    }),
  };
}
