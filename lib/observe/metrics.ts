/**
 * The controller's metrics for Prometheus. The values of each label are few or bounded here, and never a pod's name.
 *
 * https://prometheus.io/docs/practices/naming/
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Code } from '../errors.ts';
import type { Backend } from '../ruleset/form.ts';

const STAGES = ['decide', 'plan', 'locate', 'install', 'verify', 'mark', 'release', 'total'] as const;
export type Stage = (typeof STAGES)[number];

/** The duration of each stage in microseconds. A stage that was not reached is absent. */
export type Stages = Partial<Record<Stage, number>>;

/**
 * Why the gate of a pod ended without opening. The names are labels of a metric, so they must not change.
 * docs/operate.md has this table.
 */
export const GATE_REASONS = {
  'controller-away': 'the gate ended before this controller started',
  'rules-late': 'the controller runs, but had not installed the rules when the gate ended',
  'rules-failed': 'the controller cannot install the rules of this pod; the Events of the pod say why',
  'left-alone': 'the controller installs no rules for this pod; `skips_total` and `/pods` say why',
  refused: 'the gate refused its configuration; its log says which setting',
};
export type GateReason = keyof typeof GATE_REASONS;

export type PodState = 'pending' | 'initialized' | 'failed' | 'skipped';

/** The state of the work queue. */
export interface QueueStats {
  waiting: Record<'new' | 'resync' | 'costly', number>;
  running: number;
  backingOff: number;
  /** The longest current wait of a key for a worker, in milliseconds; 0 if no key waits. */
  oldestMs: number;
  /** The longest time that a worker has worked on its current attempt, in milliseconds; 0 if none works. */
  longestRunMs: number;
}

/** Functions that each scrape calls. They are cheap and do not throw. */
export interface Observed {
  queue(): QueueStats;
  pods(): Record<PodState, number>;
  /** The number of pods in which rules of other programs let traffic bypass the proxy. */
  preempted(): number;
  /** The addon's threads, by state. */
  threads(): Record<'busy' | 'stuck' | 'lost', number>;
  /** The restarts of watches, as the informers count them. */
  watches(): { resource: string; restarts: Readonly<Record<string, number>> }[];
  /** The results of Events, as their recorder counts them. */
  events(): Readonly<Record<string, number>>;
  /**
   * The source that reports new sandboxes before the API server does (`containerd`, `none`), how often its connection
   * ended, and how many of its reports were dropped because too many waited.
   */
  runtimeEvents(): { source: string; losses: number; dropped: number };
}

export interface Metrics {
  installed(backend: Backend, stages: Stages): void;
  skipped(reason: string): void;
  failed(code: Code): void;
  driftRepaired(backend: Backend): void;
  gateFailed(reason: GateReason): void;
  /** Records how long the runtime waited for an answer. */
  runtimeWaited(ms: number): void;
  contentType: string;
  /** The metrics in Prometheus' text format. */
  text(): Promise<string>;
}

/** Upper bounds in seconds, from 50 us to 30 s. */
const BUCKETS = [
  50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
];

/** How many values a label may have if others choose them. Further values are counted as `other`. */
const DISTINCT = 32;

/**
 * The sampling interval of the event loop's delay. Node's default of 10 ms costs an idle process half a percent of a
 * CPU.
 */
const LOOP_SAMPLE_MS = 50;
const HOUR_MS = 3_600_000;

const PREFIX = 'istio_pod_network_controller_';

export function createMetrics(version: string, observed: Observed): Metrics {
  const registry = new Registry();
  const registers = [registry];
  registerProcess(registry);

  const duration = new Histogram({
    name: `${PREFIX}init_duration_seconds`,
    help: 'Duration of each stage of an install, from the event to the mark',
    labelNames: ['stage', 'backend'],
    buckets: BUCKETS,
    registers,
  });
  const wait = new Histogram({
    name: `${PREFIX}runtime_wait_seconds`,
    help: 'Time that the runtime waited for the controller before it continued with a sandbox; only with NRI',
    buckets: BUCKETS,
    registers,
  });
  const counter = (name: string, help: string, label: string) =>
    new Counter({ name: PREFIX + name, help, labelNames: [label], registers });
  const installs = counter(
    'installs_total',
    'Installs that succeeded, and checks that found the rules already installed, by backend',
    'backend',
  );
  const skips = counter('skips_total', 'Pods for which the controller installs no rules, by reason', 'reason');
  const failures = counter('failures_total', 'Attempts that failed, by error code', 'reason');
  const drift = counter(
    'drift_repaired_total',
    'Repairs of rules that another program had changed, by backend',
    'backend',
  );
  const gates = counter(
    'gate_failures_total',
    'Gates that ended without opening, by reason; the kubelet starts them again',
    'reason',
  );
  // A counter that first appears with its first increment would hide that increment from rate().
  for (const reason of Object.keys(GATE_REASONS)) gates.inc({ reason }, 0);
  const skipReason = bounded();
  registerObserved(registers, observed);
  new Gauge({
    name: `${PREFIX}build_info`,
    help: 'Always 1; the labels have the versions of this program and of Node.js',
    labelNames: ['version', 'node_version'],
    registers,
  }).set({ version, node_version: process.version }, 1);

  return {
    installed: (backend, stages) => {
      installs.inc({ backend });
      for (const stage of STAGES) {
        const microseconds = stages[stage];
        if (microseconds !== undefined) duration.observe({ stage, backend }, microseconds / 1e6);
      }
    },
    skipped: (reason) => skips.inc({ reason: skipReason(reason) }),
    failed: (code) => failures.inc({ reason: code }),
    driftRepaired: (backend) => drift.inc({ backend }),
    gateFailed: (reason) => gates.inc({ reason }),
    runtimeWaited: (ms) => wait.observe(ms / 1000),
    contentType: registry.contentType,
    text: () => registry.metrics(),
  };
}

/**
 * prom-client's default metrics, except the event loop's delay, which in an idle process shows the sampling interval.
 */
function registerProcess(registry: Registry): void {
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: HOUR_MS });
  for (const kind of ['min', 'max', 'mean', 'stddev', 'p50', 'p90', 'p99']) {
    registry.removeSingleMetric(`nodejs_eventloop_lag_${kind}_seconds`);
  }
  const delay = monitorEventLoopDelay({ resolution: LOOP_SAMPLE_MS });
  delay.enable();
  new Gauge({
    name: `${PREFIX}event_loop_lag_seconds`,
    help: 'Delay of the event loop since the last scrape; quantile 1 is the longest delay',
    labelNames: ['quantile'],
    registers: [registry],
    collect() {
      for (const quantile of [0.5, 0.99, 1]) {
        const seconds = delay.percentile(100 * quantile) / 1e9;
        this.set({ quantile }, Math.max(0, seconds - LOOP_SAMPLE_MS / 1000));
      }
      delay.reset();
    },
  });
}

/** Registers metrics whose values other parts already count. Each scrape reads them. */
function registerObserved(registers: Registry[], observed: Observed): void {
  const read = (
    Metric: typeof Gauge | typeof Counter,
    name: string,
    help: string,
    labelNames: string[],
    values: () => [labels: Record<string, string>, value: number][],
  ) =>
    new Metric({
      name: PREFIX + name,
      help,
      labelNames,
      registers,
      collect() {
        this.reset();
        for (const [labels, value] of values()) this.inc(labels, value);
      },
    });
  const by = (label: string, counts: Readonly<Record<string, number>>) =>
    Object.entries(counts).map(([key, value]): [Record<string, string>, number] => [{ [label]: key }, value]);

  read(Gauge, 'queue_depth', 'Pods that wait for a worker, by priority', ['priority'], () =>
    by('priority', observed.queue().waiting),
  );
  read(Gauge, 'queue_running', 'Pods that a worker works on', [], () => [[{}, observed.queue().running]]);
  read(Gauge, 'queue_backing_off', 'Pods that wait for another attempt', [], () => [[{}, observed.queue().backingOff]]);
  read(Gauge, 'queue_oldest_age_seconds', 'Longest current wait of a pod for a worker', [], () => [
    [{}, observed.queue().oldestMs / 1000],
  ]);
  read(
    Gauge,
    'queue_longest_run_seconds',
    'Longest time that a worker has worked on its current pod; /livez fails after three minutes',
    [],
    () => [[{}, observed.queue().longestRunMs / 1000]],
  );
  read(Gauge, 'pods', 'Pods of this node, by state: pending, initialized, failed or skipped', ['state'], () =>
    by('state', observed.pods()),
  );
  read(Gauge, 'pods_preempted', 'Pods in which rules of other programs let traffic bypass the proxy', [], () => [
    [{}, observed.preempted()],
  ]);
  read(
    Gauge,
    'threads',
    'Threads of the addon, by state: busy with a job, stuck in a job that the kernel blocks, or lost since the start',
    ['state'],
    () => by('state', observed.threads()),
  );
  read(
    Gauge,
    'runtime_event_source',
    'Always 1; the label has the source that reports new sandboxes: containerd, nri, cri, inotify or none',
    ['source'],
    () => [[{ source: observed.runtimeEvents().source }, 1]],
  );
  read(Counter, 'runtime_event_losses_total', 'Losses of the connection to the source of runtime events', [], () => [
    [{}, observed.runtimeEvents().losses],
  ]);
  read(
    Counter,
    'runtime_hints_dropped_total',
    'Reports of new sandboxes that were dropped because too many waited; the API server reports the same pods later',
    [],
    () => [[{}, observed.runtimeEvents().dropped]],
  );
  read(
    Counter,
    'watch_restarts_total',
    'Restarts of watches of the API server, by resource and reason',
    ['resource', 'reason'],
    () =>
      observed
        .watches()
        .flatMap(({ resource, restarts }) =>
          by('reason', restarts).map(([labels, value]): [Record<string, string>, number] => [
            { resource, ...labels },
            value,
          ]),
        ),
  );
  read(
    Counter,
    'events_total',
    'Events, by result: sent, repeated (only counted), dropped (over the rate limit) or failed',
    ['result'],
    () => by('result', observed.events()),
  );
}

function bounded(): (value: string) => string {
  const seen = new Set<string>();
  return (value) => {
    if (!seen.has(value) && seen.size === DISTINCT) return 'other';
    seen.add(value);
    return value;
  };
}
