/**
 * RunPodSandbox on a real containerd, with each source of runtime events and with none: how long it takes, and whether the
 * rules are in the pod when it returns. Runs only if it is named.
 */
import { ControllerProcess } from '../../test/cluster/controller-process.ts';
import { meshPod } from '../../test/cluster/mesh-pod.ts';
import { until } from '../../test/cluster/pods.ts';
import { clusterLack } from '../../test/cluster/programs.ts';
import { SandboxStarts, type Started } from '../../test/cluster/sandbox-starts.ts';
import { seriesOf } from '../method.ts';
import type { Figure, Series } from '../schema.ts';
import { type Bench, SETTLE_MS, type Workload } from './workload.ts';

const NAMES = { off: 'no runtime events', containerd: "containerd's events", nri: 'NRI' } as const;
type Source = keyof typeof NAMES;
const SOURCES = Object.keys(NAMES) as Source[];

/** Each source has a turn in each round. A turn's first pod does not count: its controller has just been started. */
const ROUNDS = { quick: 4, full: 25 };
const PODS = { quick: 5, full: 20 };

export const sandbox: Workload = {
  name: 'sandbox',
  title: 'RunPodSandbox with each source of runtime events',
  budget: { quick: 60, full: 600 },
  apart: true,
  lack: clusterLack,
  async run(bench) {
    await using starts = await SandboxStarts.setUp();
    const rounds = await measure(bench, starts);
    return { series: seriesOfRounds(bench, rounds), figures: figuresOf(rounds), charts: [] };
  },
};

interface Pod extends Started {
  /** NRI: how long the runtime waited for the controller's answer, milliseconds. */
  waited: number;
}

type Rounds = Record<Source, Pod[][]>;

async function measure(bench: Bench, starts: SandboxStarts): Promise<Rounds> {
  const mode = bench.quick ? 'quick' : 'full';
  const rounds: Rounds = { off: [], containerd: [], nri: [] };
  await bench.atRest(SETTLE_MS);
  for (let round = 0; round < ROUNDS[mode]; round++) {
    for (const source of bench.random.shuffled(SOURCES)) {
      rounds[source].push(await turn(starts, source, PODS[mode]));
    }
    bench.progress((round + 1) / ROUNDS[mode]);
  }
  await bench.atRest(SETTLE_MS);
  return rounds;
}

async function turn(starts: SandboxStarts, source: Source, pods: number): Promise<Pod[]> {
  const { mesh } = starts;
  const flags = ['--runtime-events', source, '--log-level', 'info'];
  await using controller = await ControllerProcess.start(mesh.node, mesh.kubeconfig, ...flags);
  const all: Pod[] = [];
  let before = 0;
  for (let pod = 0; pod <= pods; pod++) {
    const started = await starts.start(meshPod(source), controller);
    await starts.end(started);
    const sum = source === 'nri' ? await waitsOf(controller, pod + 1) : 0;
    if (pod > 0) all.push({ ...started, waited: sum - before });
    before = sum;
  }
  await starts.deletePods();
  return all;
}

/** The sum of all waits in milliseconds. Waits until the metric has counted `count` of them. */
async function waitsOf(controller: ControllerProcess, count: number): Promise<number> {
  await until(
    `counted: ${count} waits`,
    () => controller.metric('runtime_wait_seconds_count'),
    (counted) => counted === count,
  );
  return 1000 * (await controller.metric('runtime_wait_seconds_sum'));
}

function times(rounds: Rounds, source: Source, of: 'took' | 'waited' = 'took'): number[][] {
  return rounds[source].map((round) => round.map(({ [of]: ms }) => ms));
}

function seriesOfRounds({ random }: Bench, rounds: Rounds): Series[] {
  const baseline = { id: 'run/off', rounds: times(rounds, 'off') };
  const runs = SOURCES.map((source) => {
    const ours = source !== 'off';
    const named = { id: `run/${source}`, name: NAMES[source], group: 'RunPodSandbox', ours, unit: 'ms' } as const;
    return seriesOf(random, named, times(rounds, source), ours ? { baseline } : {});
  });
  const wait = {
    id: 'wait/nri',
    name: NAMES.nri,
    group: "the runtime's wait for an answer",
    ours: true,
    unit: 'ms',
  } as const;
  return [...runs, seriesOf(random, wait, times(rounds, 'nri', 'waited'), {})];
}

function figuresOf(rounds: Rounds): Figure[] {
  return SOURCES.map((source) => {
    const all = rounds[source].flat();
    const label = `${NAMES[source]}: rules before RunPodSandbox returned, of ${all.length} pods`;
    const value = (100 * all.filter(({ ruled }) => ruled).length) / all.length;
    return { id: `early/${source}`, label, value, unit: '% of pods' };
  });
}
