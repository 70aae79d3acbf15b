/**
 * The controller (lib/controller/assemble.ts) for the benchmark. All parts are real except the locator, which finds the
 * netns of a pod by the pod's name. The parent process requests sweeps.
 */
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { readConfig } from '../../lib/config/read.ts';
import { assemble } from '../../lib/controller/assemble.ts';
import { native } from '../../lib/native/addon.ts';
import { type Located, Locator, type NotLocated, type RuntimePod } from '../../lib/netns/locate.ts';
import { observedRoutes, startHttp } from '../../lib/observe/http.ts';
import { createLogger } from '../../lib/observe/log.ts';
import { Cri } from '../../lib/runtime/cri/client.ts';
import { RuntimeEvents } from '../../lib/runtime/events.ts';
import { kubeOf } from '../../test/support/kubeconfig.ts';

export type Order = 'sweep' | 'state' | 'collect' | 'installed' | 'examined';

/** What the log says of a pod: its name, the outcome, and the milliseconds since 1970 at which its rules were read back. */
export type Installed = [name: string, outcome: 'initialized' | 'repaired', at: number];

/** Milliseconds. */
export interface Sweep {
  pods: number;
  took: number;
  /** The longest delay of the event loop meanwhile, and in a time as long without a sweep. */
  delay: number;
  idle: number;
}

export interface State {
  /** Bytes. */
  heapUsed: number;
  /** Milliseconds, since it was asked last. */
  loopP99: number;
  /** How many watches started again with a list, because the API server no longer had their version. */
  expired: number;
}

const RESOLUTION_MS = 1;
const [, , kubeconfig = '', folder = '', nodeName = '', follow = ''] = process.argv;

class KnownPlaces extends Locator {
  override async locate({ name }: RuntimePod): Promise<Located | NotLocated> {
    const path = join(folder, name);
    try {
      return { path, source: 'cri', netns: await native().identify(path) };
    } catch (error) {
      return { path: undefined, reason: 'no-sandbox', detail: String(error) };
    }
  }
}

const stop = new AbortController();
const config = readConfig({
  flags: new Map(),
  // The parent requests sweeps, so the timer is off.
  environment: { ...process.env, NODE_NAME: nodeName, KUBECONFIG: kubeconfig, IPNC_RESYNC: '24h' },
});
let installed: Installed[] = [];

/** Takes from a line of the log when the rules of the pod were read back, which was before the mark. */
function note(line: string): void {
  const { msg, pod = '', us } = JSON.parse(line) as { msg: string; pod?: string; us?: { mark?: number } };
  if (msg !== 'initialized' && msg !== 'repaired') return;
  const now = performance.timeOrigin + performance.now();
  installed.push([pod.slice(pod.indexOf('/') + 1), msg, now - (us?.mark ?? 0) / 1000]);
}

const log = createLogger({ level: config.logLevel, ...(follow === 'follow' && { pretty: false, write: note }) });
const kube = kubeOf(kubeconfig);
// Nothing answers there: what is loaded and tried is what a node's controller loads and tries.
const cri = new Cri(join(folder, 'no.sock'));
const runtime = new RuntimeEvents({ cri, hostRoot: '', signal: stop.signal });
const { controller, metrics } = assemble({
  config,
  kube,
  locator: new KnownPlaces({}),
  probe: await native().probe(),
  runtime,
  log,
  version: 'bench',
});
await startHttp({
  listen: { host: '127.0.0.1', port: 0 },
  routes: observedRoutes({ metrics, pods: () => controller.views() }),
  onError: () => {},
});

const loop = monitorEventLoopDelay({ resolution: 10 });
loop.enable();

async function delayDuring(work: () => Promise<unknown>): Promise<{ took: number; delay: number }> {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  delay.enable();
  await sleep(10);
  delay.reset();
  const start = performance.now();
  await work();
  const took = performance.now() - start;
  await sleep(5);
  delay.disable();
  return { took, delay: delay.max / 1e6 - RESOLUTION_MS };
}

async function sweep(): Promise<Sweep> {
  let pods = 0;
  const { took, delay } = await delayDuring(async () => {
    pods = await controller.sweep();
  });
  const { delay: idle } = await delayDuring(() => sleep(took));
  return { pods, took, delay, idle };
}

function state(): State {
  const { heapUsed } = process.memoryUsage();
  const loopP99 = loop.percentile(99) / 1e6 - 10;
  loop.reset();
  const expired = controller.watches().reduce((sum, { restarts }) => sum + restarts.expired, 0);
  return { heapUsed, loopP99, expired };
}

/** Resolves with the milliseconds since 1970 at which every pod has been examined once, as /readyz has it. */
async function examined(): Promise<number> {
  while (controller.missing().length > 0) await sleep(2);
  return performance.timeOrigin + performance.now();
}

process.on('message', (order: Order) => {
  if (order === 'collect') globalThis.gc?.();
  if (order === 'installed') {
    process.send?.(installed);
    installed = [];
  } else if (order === 'examined') void examined().then((answer) => process.send?.(answer));
  else if (order === 'sweep') void sweep().then((answer) => process.send?.(answer));
  else process.send?.(state());
});
process.once('disconnect', () => stop.abort('disconnect'));
process.once('SIGTERM', () => stop.abort('SIGTERM'));
await controller.run(stop.signal, AbortSignal.timeout(3_600_000));
process.exit();
