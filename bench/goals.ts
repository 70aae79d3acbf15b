/**
 * The goals of this project: figures of a run, each with a bound. Most are ratios, which do not depend on the machine.
 * The others depend on it.
 */
import type { GoalResult, WorkloadResult } from './schema.ts';

type Statistic = 'p50' | 'p90' | 'p99';

/** Finds figures of a run. A figure is undefined if it was not measured, or was refused. */
class Finder {
  readonly #workloads: readonly WorkloadResult[];

  constructor(workloads: readonly WorkloadResult[]) {
    this.#workloads = workloads.filter(({ refused }) => refused === undefined);
  }

  series(workload: string, id: string, statistic: Statistic = 'p50'): number {
    const found = this.#of(workload)?.series.find((each) => each.id === id);
    return found?.summary[statistic].value ?? Number.NaN;
  }

  figure(workload: string, id: string): number {
    return this.#of(workload)?.figures.find((each) => each.id === id)?.value ?? Number.NaN;
  }

  /** p50 to p50, of series of one workload. */
  ratio(workload: string, id: string, to: string): number {
    return this.series(workload, id) / this.series(workload, to);
  }

  #of(workload: string): WorkloadResult | undefined {
    return this.#workloads.find(({ name }) => name === workload);
  }
}

export interface Goal {
  name: string;
  bound: 'at most' | 'at least';
  asked: number;
  /** `x` for ratios. */
  unit: string;
  of(run: Finder): number;
}

const most = (asked: number, unit: string, name: string, of: Goal['of']): Goal => ({
  name,
  bound: 'at most',
  asked,
  unit,
  of,
});
const least = (asked: number, unit: string, name: string, of: Goal['of']): Goal => ({
  name,
  bound: 'at least',
  asked,
  unit,
  of,
});

/** What users of a mesh see of us. Of the workload `mesh`, which is a run of its own. */
const START = 'pod start: ';
const SIDECAR = 'template-sidecar';
const start = (asked: number, stage: 'app' | 'ready', to: string, name: string) =>
  most(asked, 'x', `${START}${name}`, (run) => run.ratio('mesh', `${stage}/${SIDECAR}`, `${stage}/${to}`));

/** Whether a goal is of the workload `mesh`. */
export function isOfStarts({ name }: Pick<Goal, 'name'>): boolean {
  return name.includes(START);
}

/** What an app of the mesh sees of the rules. Of the workload `connection`, which is a run of its own, too. */
const CONNECTION = 'connection: ';
const cost = (asked: number, figure: string, name: string) =>
  most(asked, ' us', `${CONNECTION}${name}`, (run) => run.figure('connection', figure));

/** Whether a goal is of the workload `connection`. */
export function isOfConnections({ name }: Pick<Goal, 'name'>): boolean {
  return name.startsWith(CONNECTION);
}

/** What NRI costs, and what it brings. Of the workload `sandbox`, which is a run of its own, too. */
const SANDBOX = 'RunPodSandbox: ';

/** Whether a goal is of the workload `sandbox`. */
export function isOfSandboxes({ name }: Pick<Goal, 'name'>): boolean {
  return name.startsWith(SANDBOX);
}

/** Of the workload `cold`, which is a run of its own, too. */
const COLD = 'a reboot: ';

/** Whether a goal is of the workload `cold`. */
export function isOfColdNodes({ name }: Pick<Goal, 'name'>): boolean {
  return name.startsWith(COLD);
}

const LEGACY = 'iptables-legacy';
const NFT = 'nftables';

export const goals: readonly Goal[] = [
  // A pod's start in a real mesh.
  start(0.45, 'app', 'istio-init', "created to app started, to Istio's istio-init, p50"),
  start(0.45, 'app', 'istio-cni', "created to app started, to Istio's istio-cni, p50"),
  most(550, ' ms', `${START}created to app started, beyond the app without a mesh, p50`, (run) => {
    return run.series('mesh', `app/${SIDECAR}`) - run.series('mesh', 'app/none');
  }),
  start(0.45, 'ready', 'istio-init', "created to Ready, to Istio's istio-init, p50"),
  // What it costs a connection.
  cost(0.5, 'one-rule', 'a new one in or out with the defaults, beyond one redirect rule'),
  cost(0.5, 'ports', "the app's and the proxy's own with 1,000 excluded ports, beyond the defaults"),
  cost(0.5, 'cidrs', "the app's and the proxy's own with 100 excluded CIDRs, beyond the defaults"),
  cost(0.3, 'trip', 'a round trip with the defaults, beyond one redirect rule'),
  cost(0.3, 'trip-dns', 'a round trip with DNS capture, beyond the defaults'),
  // What NRI costs RunPodSandbox.
  least(100, ' %', `${SANDBOX}pods with rules before it returns, with NRI`, (run) =>
    run.figure('sandbox', 'early/nri'),
  ),
  most(1, ' ms', `${SANDBOX}with NRI, beyond no runtime events, p50`, (run) => {
    return run.series('sandbox', 'run/nri') - run.series('sandbox', 'run/off');
  }),
  most(2, ' ms', `${SANDBOX}with NRI, the runtime's wait for the controller's answer, p50`, (run) =>
    run.series('sandbox', 'wait/nri'),
  ),
  // What a reboot brings about.
  most(0, '', `${COLD}needless repairs, and restarts of gates that are init containers`, (run) =>
    ['init/restarts', 'init/repairs', 'sidecar/repairs'].reduce(
      (sum, id) => sum + run.figure('cold', `reboot/${id}`),
      0,
    ),
  ),
  // What it costs a node.
  most(2500, ' us', 'CPU of the controller, each pod', (run) => run.figure('controller', 'stand-in/cpu-a-pod')),
  least(500, '/s', 'pods that a node takes each second', (run) => run.figure('controller', 'stand-in/held')),
  most(
    1,
    '',
    'API writes, each pod',
    (run) => run.figure('controller', 'patches') + run.figure('controller', 'events'),
  ),
  // The data plane.
  least(40, 'x', 'nsenter + iptables-restore to ipnc', (run) =>
    run.ratio('single', `${LEGACY}/restore`, `${LEGACY}/ours`),
  ),
  least(300, 'x', 'one exec a rule to ipnc', (run) => run.ratio('single', `${LEGACY}/exec-per-rule`, `${LEGACY}/ours`)),
  least(15_000, '/s', 'legacy installs on 2 CPUs, 64 at a time', (run) =>
    run.figure('concurrency', `${LEGACY}/64/rate`),
  ),
  most(30, ' us', 'main thread, each legacy install', (run) => run.figure('concurrency', `${LEGACY}/64/main-thread`)),
  most(0, '', 'descriptors, netns and threads left by churn', (run) =>
    ['descriptors', 'mounts', 'strays'].reduce((sum, id) => sum + run.figure('churn', id), 0),
  ),
  // nftables.
  least(8, 'x', 'nsenter + nft -f to ipnc', (run) => run.ratio('single', `${NFT}/nft`, `${NFT}/ours`)),
  least(8, 'x', 'nsenter + iptables-nft-restore to ipnc', (run) =>
    run.ratio('single', `${NFT}/restore`, `${NFT}/ours`),
  ),
  most(0.7, 'x', "the nftables batch to that of Istio's variant", (run) =>
    run.ratio('single', `${NFT}/floor`, `${NFT}/floor-istio-form`),
  ),
  // The controller.
  most(5, ' ms', 'from sandbox to rules verified, p50', (run) => run.series('end-to-end', 'rules/ours')),
  most(25, ' ms', 'from sandbox to rules verified, p99', (run) => run.series('end-to-end', 'rules/ours', 'p99')),
  least(95, ' %', 'pods with rules before RunPodSandbox returns', (run) => run.figure('end-to-end', 'early/ours')),
  most(2, ' ms', 'event to patch at 500 pods/s, beyond a bare patch, p50', (run) =>
    run.figure('controller', 'stand-in/beyond-p50'),
  ),
  most(25, ' ms', 'event to patch at 500 pods/s, beyond a bare patch, p99', (run) =>
    run.figure('controller', 'stand-in/beyond-p99'),
  ),
  most(2, ' ms', 'the same through kube-apiserver, p50', (run) =>
    run.figure('controller', 'kube-apiserver/beyond-p50'),
  ),
  most(25, ' ms', 'the same through kube-apiserver, p99', (run) =>
    run.figure('controller', 'kube-apiserver/beyond-p99'),
  ),
  most(110, ' MiB', "the controller's RSS at 500 pods/s", (run) => run.figure('controller', 'stand-in/rss')),
  most(1024, ' KiB', 'heap kept of pods that came and went', (run) => run.figure('controller', 'stand-in/kept')),
  most(50, ' ms', 'a resync over 250 pods', (run) => run.series('controller', 'sweep')),
  most(5, ' ms', 'a resync delays the event loop by', (run) => run.figure('controller', 'sweep/delay')),
  // The gate.
  most(250, ' us', 'rules active to gate exited, p50', (run) => run.series('gate', 'wake')),
  most(500, ' us', 'start of the gate to its first probe, p50', (run) => run.series('gate', 'start')),
  most(1, ' MiB', 'RSS of the gate', (run) => run.figure('gate', 'rss')),
  most(1, ' MiB', 'size of the gate', (run) => run.figure('gate', 'size')),
  most(50, ' us', 'cost of waking the gate to the controller, p50', (run) => run.series('gate', 'release')),
  // Beyond what was asked at first.
  start(0.35, 'app', 'istio-init', "beyond: created to app started, to Istio's istio-init, p50"),
  least(20_000, '/s', 'beyond: legacy installs on 2 CPUs, 64 at a time', (run) =>
    run.figure('concurrency', `${LEGACY}/64/rate`),
  ),
  most(90, ' MiB', "beyond: the controller's RSS with 250 pods", (run) => run.figure('controller', 'start/rss')),
];

export function checkGoals(workloads: readonly WorkloadResult[]): GoalResult[] {
  const run = new Finder(workloads);
  return goals.map(({ name, bound, asked, unit, of }) => {
    const measured = of(run);
    if (!Number.isFinite(measured)) return { name, bound, asked, unit };
    return { name, bound, asked, unit, measured, met: bound === 'at most' ? measured <= asked : measured >= asked };
  });
}
