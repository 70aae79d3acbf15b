/**
 * Starts pods with a real API server and a real kubelet (test/cluster), and measures each stage: with this project,
 * without it, and with its rules but the original's way to wait for them. All variants include the node's other work
 * for a pod.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { ControllerProcess } from '../../test/cluster/controller-process.ts';
import { Mesh, NAMESPACE } from '../../test/cluster/mesh-pod.ts';
import { clusterLack } from '../../test/cluster/programs.ts';
import { containerLines, LOGS, now, STATE, sandboxesOf } from '../end-to-end/instants.ts';
import { GATE, type Kind, podOf, WAITER, waits } from '../end-to-end/pods.ts';
import { Watcher } from '../end-to-end/watcher.ts';
import { seriesOf } from '../method.ts';
import type { Chart, Figure, Series } from '../schema.ts';
import { percentile } from '../statistics.ts';
import type { Bench, Workload } from './workload.ts';

const COUNTS: Record<'quick' | 'full', Record<Kind, number>> = {
  quick: { without: 5, ours: 8, poll: 2 },
  full: { without: 40, ours: 100, poll: 8 },
};
/** With the runtime's events switched off. */
const UNTOLD = { quick: 0, full: 20 };
/** On their way at a time, beside those that poll, which mostly sleep. */
const LANES = 3;
const LIMIT_MS = 120_000;
/** Into rounds of as many. */
const ROUND = 4;

export const endToEnd: Workload = {
  name: 'end-to-end',
  title: 'Pods through a real API server and kubelet: from created to app started',
  budget: { quick: 26, full: 180 },
  lack: clusterLack,
  async run(bench) {
    const mesh = await Mesh.start(['toolbox', 'istio-pod-network-controller']);
    try {
      return await measure(bench, mesh);
    } finally {
      await mesh.stop();
    }
  },
};

/** Milliseconds since the pod was asked for. */
interface Life {
  bound: number;
  sandbox: number;
  /** The runtime told the kubelet so. */
  returned: number;
  rules?: number;
  marked?: number;
  /** The waiting container ended. */
  open?: number;
  proxy: number;
  app: number;
}

async function measure(bench: Bench, mesh: Mesh) {
  const mode = bench.quick ? 'quick' : 'full';
  await using watcher = await Watcher.start(mesh.admin, NAMESPACE);
  const lives: Record<Kind | 'untold', Life[]> = { without: [], ours: [], poll: [], untold: [] };
  let made = 0;
  const one = async (kind: Kind, controller: ControllerProcess, into: Life[]) => {
    const name = `${kind}-${made++}`;
    const ready = watcher.ready(name, LIMIT_MS);
    const created = now();
    await mesh.core.createNamespacedPod({ namespace: NAMESPACE, body: podOf(kind, name) });
    const { uid, bound = 0, marked } = await ready;
    const logs = mesh.node.path(LOGS);
    const pod = { namespace: NAMESPACE, name, uid };
    const since = (at: number) => at - created;
    const [waiter, proxy, app] = await Promise.all([
      waits(kind) ? containerLines(logs, pod, WAITER) : undefined,
      containerLines(logs, pod, 'istio-proxy'),
      containerLines(logs, pod, 'app'),
    ]);
    const sandbox = sandboxesOf(mesh.node.services.get('containerd')?.log ?? '', mesh.node.path(STATE)).get(name);
    if (sandbox === undefined) throw new Error(`containerd's log does not tell of the sandbox of ${name}`);
    const [done] = controller.lines.filter((line) => line.msg === 'initialized' && line.pod === `${NAMESPACE}/${name}`);
    const { mark = 0, release = 0 } = done?.us ?? {};
    into.push({
      bound: since(bound),
      sandbox: since(sandbox.made),
      returned: since(sandbox.returned),
      ...(done && { rules: since(Date.parse(done.time) - (mark + release) / 1000) }),
      ...(marked !== undefined && { marked: since(marked) }),
      ...(waiter && { open: since(waiter.last) }),
      proxy: since(proxy.first),
      app: since(app.first),
    });
    await mesh.core.deleteNamespacedPod({ namespace: NAMESPACE, name, gracePeriodSeconds: 1 });
  };

  const start = performance.now();
  const counts = COUNTS[mode];
  const planned = counts.without + counts.ours + UNTOLD[mode];
  let done = 0;
  const inLanes = async (kinds: Kind[], controller: ControllerProcess, into: (kind: Kind) => Life[]) => {
    const due = kinds.values();
    const lane = async () => {
      for (const kind of due) {
        // Time is up; what there is has to do, if it is not too little.
        if ((performance.now() - start) / 1000 > bench.seconds - 20 && into(kind).length >= 2 * ROUND) continue;
        await one(kind, controller, into(kind));
        bench.progress(Math.min(1, ++done / planned));
      }
    };
    await Promise.all(Array.from({ length: LANES }, lane));
  };
  {
    await using controller = await ControllerProcess.start(mesh.node, mesh.kubeconfig);
    // One of each that does not count: images are unpacked, pages are read.
    await Promise.all((['without', 'ours'] as const).map((kind) => one(kind, controller, [])));
    await units(bench);
    const polls = Array.from({ length: counts.poll }, () => one('poll', controller, lives.poll));
    const kinds = (['without', 'ours'] as const).flatMap((kind) => Array.from({ length: counts[kind] }, () => kind));
    await Promise.all([...polls, inLanes(bench.random.shuffled(kinds), controller, (kind) => lives[kind])]);
  }
  if (UNTOLD[mode] > 0) {
    await using controller = await ControllerProcess.start(mesh.node, mesh.kubeconfig, '--runtime-events', 'off');
    const kinds = Array.from({ length: UNTOLD[mode] }, (): Kind => 'ours');
    await inLanes(kinds, controller, () => lives.untold);
  }
  await units(bench);
  return { series: seriesOfLives(bench, lives), figures: figuresOf(lives), charts: [waterfall(lives)] };
}

/** Of the reference, while no pod is on its way: during that they would measure our own load. */
async function units(bench: Bench): Promise<void> {
  await sleep(2000);
  await bench.atRest();
}

const NAMES: Record<Kind | 'untold', string> = {
  without: 'without ipnc: nothing waits',
  ours: 'with ipnc',
  poll: 'rules of ipnc, polled for each 10 s',
  untold: "with ipnc, the runtime's events off",
};

function seriesOfLives(bench: Bench, lives: Record<Kind | 'untold', Life[]>): Series[] {
  const rounds = (kind: Kind | 'untold', pick: (life: Life) => number | undefined) => {
    const values = lives[kind].map(pick).filter((value) => value !== undefined && Number.isFinite(value)) as number[];
    return Array.from({ length: Math.ceil(values.length / ROUND) }, (_, at) =>
      values.slice(at * ROUND, (at + 1) * ROUND),
    );
  };
  const series: Series[] = [];
  const add = (
    id: string,
    kind: Kind | 'untold',
    group: string,
    pick: (life: Life) => number | undefined,
    to?: Kind,
  ) => {
    const measured = rounds(kind, pick);
    if (measured.length === 0) return;
    const baseline = to && { id: `app/${to}`, rounds: rounds(to, pick) };
    const ours = kind === 'ours' || kind === 'untold';
    const named = { id: `${id}/${kind}`, name: NAMES[kind], group, ours, unit: 'ms' } as const;
    series.push(seriesOf(bench.random, named, measured, baseline ? { baseline } : {}));
  };
  for (const kind of ['without', 'ours', 'poll', 'untold'] as const)
    add('app', kind, 'from created to app started', ({ app }) => app, 'without');
  for (const kind of ['ours', 'untold'] as const)
    add('rules', kind, 'from sandbox made to rules verified', ({ rules, sandbox }) => rules && rules - sandbox);
  for (const kind of ['ours', 'poll'] as const)
    add('open', kind, 'from rules verified to let go', ({ rules, open }) => rules && open && open - rules);
  return series;
}

function figuresOf(lives: Record<Kind | 'untold', Life[]>): Figure[] {
  return (['ours', 'untold'] as const).flatMap((kind): Figure[] => {
    const known = lives[kind].filter(({ rules }) => rules !== undefined);
    if (known.length === 0) return [];
    const early = known.filter(({ rules = 0, returned }) => rules < returned).length / known.length;
    const label = `${NAMES[kind]}: rules before RunPodSandbox returned`;
    return [{ id: `early/${kind}`, label, value: 100 * early, unit: '% of pods' }];
  });
}

/** Each stage at the p50 of when it ended; one that ended before the stage before it took no time of its own. */
function waterfall(lives: Record<Kind | 'untold', Life[]>): Chart {
  const stages: [string, (life: Life) => number | undefined][] = [
    ['bound to the node', ({ bound }) => bound],
    ['sandbox', ({ sandbox }) => sandbox],
    ['rules', ({ rules }) => rules],
    ['RunPodSandbox returns', ({ returned }) => returned],
    ['mark seen', ({ marked }) => marked],
    ['let go', ({ open }) => open],
    ['proxy started', ({ proxy }) => proxy],
    ['app started', ({ app }) => app],
  ];
  const kinds = (Object.keys(NAMES) as (Kind | 'untold')[]).filter((kind) => lives[kind].length > 0);
  return {
    kind: 'waterfall',
    title: `A pod's start, stage by stage${GATE ? '' : ' (the gate is not built: nothing waits in a pod of ipnc)'}`,
    bars: kinds.map((kind) => {
      const ends = stages
        .map(([name, pick]) => {
          const values = lives[kind].map(pick).filter((value) => value !== undefined && Number.isFinite(value));
          return { name, to: values.length === 0 ? undefined : percentile(values as number[], 0.5) };
        })
        .filter((stage): stage is { name: string; to: number } => stage.to !== undefined)
        .sort((a, b) => a.to - b.to);
      return {
        name: NAMES[kind],
        stages: ends.map(({ name, to }, at) => ({ name, from: ends[at - 1]?.to ?? 0, to })),
      };
    }),
  };
}
