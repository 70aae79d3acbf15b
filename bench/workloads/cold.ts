/**
 * A cold node: all pods of a node that reboots, and a pod whose gate's image the node has to pull. Runs only if it is
 * named.
 */
import { clusterLack } from '../../test/cluster/programs.ts';
import { type Back, ColdNode, type Reboot } from '../cold/node.ts';
import { KINDS, type Kind, NAMES } from '../cold/pods.ts';
import { type Pulled, Pulls } from '../cold/pull.ts';
import { seriesOf } from '../method.ts';
import type { Figure, Series } from '../schema.ts';
import { percentile } from '../statistics.ts';
import { type Bench, type Measured, SETTLE_MS, type Workload } from './workload.ts';

/** Pods that a rebooting node runs, and how often it reboots with pods of each kind. */
const REBOOTS = { quick: { pods: 10, rounds: 1 }, full: { pods: 100, rounds: 2 } };
/** Each way has a turn in each round. */
const PULLS = { quick: { pods: 1, rounds: 4 }, full: { pods: 5, rounds: 10 } };

export const cold: Workload = {
  name: 'cold',
  title: 'A node that reboots with up to 100 pods, and the pull of the image of a gate',
  budget: { quick: 120, full: 1500 },
  apart: true,
  lack: clusterLack,
  async run(bench) {
    await using node = await ColdNode.start();
    const pulled = await pulls(bench, node);
    const rebooted = await reboots(bench, node);
    return {
      series: [...rebooted.series, ...pulled.series],
      figures: [...rebooted.figures, ...pulled.figures],
      charts: [],
    };
  },
};

async function reboots(bench: Bench, node: ColdNode): Promise<Measured> {
  const { pods, rounds } = REBOOTS[bench.quick ? 'quick' : 'full'];
  const all: Record<Kind, Reboot[]> = { without: [], init: [], sidecar: [] };
  const began = performance.now();
  for (let round = 0; round < rounds; round++) {
    // The budget is used up: the finished rounds are the result.
    if (round > 0 && (performance.now() - began) / 1000 > bench.seconds) break;
    for (const kind of bench.random.shuffled(KINDS)) {
      await bench.atRest(SETTLE_MS);
      all[kind].push(await node.reboot(kind, pods));
      bench.progress(0.2 + (0.8 * KINDS.reduce((sum, each) => sum + all[each].length, 0)) / rounds / KINDS.length);
    }
  }
  await bench.atRest(SETTLE_MS);
  return {
    series: rebootSeries(bench, all, pods),
    figures: KINDS.flatMap((kind) => rebootFigures(all, kind)),
    charts: [],
  };
}

function rebootSeries({ random }: Bench, all: Record<Kind, Reboot[]>, pods: number): Series[] {
  const rounds = (kind: Kind, of: (back: Back) => number) => all[kind].map(({ pods }) => pods.map(of));
  const app = ({ app }: Back) => app;
  const waited = ({ sandbox, open = Number.NaN }: Back) => open - sandbox;
  return KINDS.flatMap((kind) => {
    const named = (id: string, group: string) =>
      ({ id: `reboot/${id}/${kind}`, name: NAMES[kind], group, ours: kind !== 'without', unit: 'ms' }) as const;
    const start = named('app', `a reboot with ${pods} pods, from the start of the node to the start of an application`);
    if (kind === 'without') return [seriesOf(random, start, rounds(kind, app))];
    const baseline = { id: 'reboot/app/without', rounds: rounds('without', app) };
    return [
      seriesOf(random, start, rounds(kind, app), { baseline }),
      seriesOf(
        random,
        named('gate', `a reboot with ${pods} pods, from the return of RunPodSandbox to the open gate`),
        rounds(kind, waited),
      ),
    ];
  });
}

function rebootFigures(all: Record<Kind, Reboot[]>, kind: Kind): Figure[] {
  const p50 = (of: Kind, value: (reboot: Reboot) => number) => percentile(all[of].map(value), 0.5);
  const sum = (value: (reboot: Reboot) => number) => all[kind].reduce((total, reboot) => total + value(reboot), 0);
  const last = ({ pods }: Reboot) => Math.max(...pods.map(({ app }) => app));
  const rules = ({ pods }: Reboot) => pods.map(({ rules = Number.NaN }) => rules);
  const first = (reboot: Reboot) => Math.min(...rules(reboot));
  const started = ({ controller = Number.NaN }: Reboot) => controller;
  const figure = (id: string, label: string, value: number, unit: string): Figure => ({
    id: `reboot/${kind}/${id}`,
    label: `a reboot, ${NAMES[kind]}: ${label}`,
    value,
    unit,
  });
  const node = 'from the start of the node';
  const end = figure('last-app', `${node} to the start of the last application`, p50(kind, last), 'ms');
  if (kind === 'without') return [end];
  return [
    end,
    figure(
      'last-app-ratio',
      `${node} to the start of the last application, compared with pods without ipnc`,
      p50(kind, last) / p50('without', last),
      'x',
    ),
    figure('controller', `${node} to the start of the controller`, p50(kind, started), 'ms'),
    figure(
      'served',
      'from the start of the controller to the first pod with verified rules',
      p50(kind, (reboot) => first(reboot) - started(reboot)),
      'ms',
    ),
    figure('first', `${node} to the first pod with verified rules`, p50(kind, first), 'ms'),
    figure(
      'last',
      `${node} to the last pod with verified rules`,
      p50(kind, (reboot) => Math.max(...rules(reboot))),
      'ms',
    ),
    figure(
      'restarts',
      'gates that ended without rules and were started again, each pod',
      sum(({ gateRestarts }) => gateRestarts) / sum(({ pods }) => pods.length),
      '',
    ),
    figure(
      'repairs',
      'needless repairs',
      sum(({ repairs }) => repairs),
      '',
    ),
  ];
}

async function pulls(bench: Bench, node: ColdNode): Promise<Measured> {
  const { pods, rounds } = PULLS[bench.quick ? 'quick' : 'full'];
  await node.startController();
  await using images = await Pulls.start(node);
  // The first of each do not count: images are unpacked, and pages are read.
  await images.pulled();
  await images.present();
  const pulled: Pulled[][] = [];
  const present: number[][] = [];
  const times = async <T>(run: () => Promise<T>) => {
    const values: T[] = [];
    while (values.length < pods) values.push(await run());
    return values;
  };
  for (let round = 0; round < rounds; round++) {
    await bench.atRest(SETTLE_MS);
    for (const way of bench.random.shuffled(['pulled', 'present'] as const)) {
      if (way === 'pulled') pulled.push(await times(() => images.pulled()));
      else present.push(await times(() => images.present()));
    }
    bench.progress((0.2 * (round + 1)) / rounds);
  }
  await node.stopController();
  const named = (
    id: string,
    name: string,
    ours: boolean,
    group = 'the first pod of a node: from created to app started',
  ) => ({ id: `pull/${id}`, name, group, ours, unit: 'ms' }) as const;
  const apps = pulled.map((round) => round.map(({ app }) => app));
  const baseline = { id: 'pull/present', rounds: present };
  const alone = pulled.map((round) => round.map(({ pull }) => pull));
  const p50 = (values: number[][]) => percentile(values.flat(), 0.5);
  return {
    series: [
      seriesOf(bench.random, named('present', "the node has the gate's image", false), present),
      seriesOf(bench.random, named('pulled', 'it has to pull it', true), apps, { baseline }),
      seriesOf(bench.random, named('image', 'PullImage', true, "the pull of the gate's image alone"), alone),
    ],
    figures: [
      {
        id: 'pull/difference',
        label: "a pod whose gate's image is pulled, beyond one whose image is there, p50",
        value: p50(apps) - p50(present),
        unit: 'ms',
      },
      { id: 'pull/size', label: "the gate's image, compressed", value: images.compressed / 1024, unit: 'KiB' },
    ],
    charts: [],
  };
}
