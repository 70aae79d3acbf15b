/** Assembles the controller of a node from its parts, and runs it until a signal. */
import { KubeConfig } from '@kubernetes/client-node';
import manifest from '../../package.json' with { type: 'json' };
import type { RunConfig } from '../config/read.ts';
import { Failure } from '../errors.ts';
import { ApiClient } from '../kube/client.ts';
import { native, type Probe } from '../native/addon.ts';
import { Locator } from '../netns/locate.ts';
import { essentials } from '../observe/doctor.ts';
import { type HttpServer, healthRoutes, observedRoutes, type Routes, startHttp } from '../observe/http.ts';
import { allowInspection } from '../observe/inspect.ts';
import { threadProblems } from '../observe/liveness.ts';
import { createLogger } from '../observe/log.ts';
import { Cri } from '../runtime/cri/client.ts';
import { criSockets } from '../runtime/cri/sockets.ts';
import { RuntimeEvents, type RuntimeEventsOptions } from '../runtime/events.ts';
import { onNode } from '../runtime/node-paths.ts';
import { sourcesFor } from '../runtime/sources.ts';
import { assemble } from './assemble.ts';

/**
 * How long attempts in progress may take after SIGTERM. The last Events take at most 10 s, and the kubelet kills after
 * 30 s.
 */
const DRAIN_MS = 15_000;

/** Probes the kernel. Rejects with a Failure that lists everything essential that is missing. */
async function requireNode(): Promise<Probe> {
  const { checks, probe } = await essentials();
  const missing = checks.filter(({ status }) => status === 'missing');
  if (missing.length === 0 && probe !== undefined) return probe;
  const lines = missing.map(({ name, detail }) => `${name}: ${detail}`);
  const remedies = missing.flatMap(({ remedy }) => (remedy === undefined ? [] : [remedy]));
  throw new Failure('ERR_NODE', { detail: lines.join('\n'), remedy: remedies.join('; ') });
}

/** Resolves with the exit code. Rejects with Failure if this node lacks something essential. */
export async function runNode(config: RunConfig): Promise<number> {
  const probe = await requireNode();
  const log = createLogger({ level: config.logLevel });
  using _inspection = allowInspection({ log });
  const stop = new AbortController();
  const { signal } = stop;
  for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => stop.abort(name));

  const { hostRoot } = config;
  const kube = new ApiClient(() => kubeConfig(config.kubeconfig));
  // If no runtime is found yet, one may still come. The most common one is containerd.
  const criSocket = config.criSocket ?? criSockets(hostRoot)[0] ?? '/run/containerd/containerd.sock';
  const cri = new Cri(onNode(hostRoot, criSocket));
  const runtime = eventsOf(config, { cri, criSocket, hostRoot, signal });
  // Closed even if the start fails below, because each of these would keep the process alive.
  using _closed = {
    [Symbol.dispose]: () => {
      stop.abort();
      cri.close();
      kube.close();
    },
  };
  const locator = new Locator({ hostRoot, cri, criSocket });
  const { version } = manifest;
  const { controller, metrics } = assemble({ config, kube, locator, probe, runtime, log, version });
  const serve = async (listen: RunConfig['metricsAddress'], routes: Routes): Promise<HttpServer | undefined> => {
    if (listen === 'off') return undefined;
    const onError = (err: unknown) => log.error({ err }, 'an HTTP request to the controller failed');
    return startHttp({ listen, routes, hosts: config.httpHosts, onError });
  };
  // There are two ports, so that clients of the metrics cannot keep the kubelet's probes out.
  const livez = () => [...controller.stuck(), ...threadProblems(native().health())];
  const probes = healthRoutes({ livez, readyz: () => controller.missing() });
  await using health = await serve(config.healthAddress, probes);
  await using http = await serve(
    config.metricsAddress,
    observedRoutes({ metrics, pods: () => controller.views(), rules: (uid) => controller.rules(uid) }),
  );
  await runtime?.chosen;
  log.info(
    {
      version,
      node: config.nodeName,
      criSocket,
      events: runtime?.source ?? 'none',
      why: runtime?.reason ?? '--runtime-events is off',
      http: http?.address,
      health: health?.address,
    },
    'started',
  );
  await controller.run(signal, drainAfter(signal));
  log.info({ signal: String(signal.reason) }, 'ended');
  return 0;
}

function kubeConfig(file: string | undefined): KubeConfig {
  const config = new KubeConfig();
  if (file === undefined) config.loadFromCluster();
  else config.loadFromFile(file);
  return config;
}

function eventsOf(config: RunConfig, options: RuntimeEventsOptions): RuntimeEvents | undefined {
  const { runtimeEvents: wanted, nriFailClosed: failClosed } = config;
  if (wanted === 'off') return undefined;
  return new RuntimeEvents({ ...options, failClosed, sources: sourcesFor(wanted) });
}

/** Returns a signal that aborts DRAIN_MS after `signal`. */
function drainAfter(signal: AbortSignal): AbortSignal {
  const late = new AbortController();
  signal.addEventListener('abort', () => setTimeout(() => late.abort(), DRAIN_MS).unref(), { once: true });
  return late.signal;
}
