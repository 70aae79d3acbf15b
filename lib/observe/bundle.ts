/** Collects what a bug report needs, without secrets and without the names of pods and namespaces. */
import { arch, release } from 'node:os';
import type { RunConfig } from '../config/read.ts';
import type { Check } from './doctor.ts';
import { redacted } from './log.ts';
import type { PodView } from './page.ts';

export interface Bundle {
  versions: { ipnc: string; node: string; kernel: string; arch: string };
  checks: readonly Check[];
  /** The controller of this node; `error` if it does not answer, as outside of its container. */
  controller: { pods: PodView[]; metrics: string[] } | { error: string };
}

/** The limit of each request to the controller. */
const LIMIT_MS = 5000;

/** Reads the list of pods and the project's own metrics from the controller in the same network namespace. */
export async function collect(
  checks: readonly Check[],
  { metricsAddress }: Pick<RunConfig, 'metricsAddress'>,
  version: string,
): Promise<Bundle> {
  const versions = { ipnc: version, node: process.version, kernel: release(), arch: arch() };
  return clean({ versions, checks, controller: await askController(metricsAddress) });
}

async function askController(address: RunConfig['metricsAddress']): Promise<Bundle['controller']> {
  if (address === 'off') return { error: 'the controller serves no metrics (--metrics-address is off)' };
  const { host = '127.0.0.1', port } = address;
  const get = (path: string) =>
    fetch(`http://${host.includes(':') ? `[${host}]` : host}:${port}${path}`, {
      headers: { accept: 'application/json' },
      signal: AbortSignal.timeout(LIMIT_MS),
    });
  try {
    const { pods } = (await (await get('/pods')).json()) as { pods: PodView[] };
    const lines = (await (await get('/metrics')).text()).split('\n');
    return { pods, metrics: lines.filter((line) => line.startsWith('istio_pod_network_controller_')) };
  } catch (error) {
    const { message, cause } = error as Error;
    return { error: `no answer on port ${port}: ${cause instanceof Error ? cause.message : message}` };
  }
}

/** Replaces secrets, and the names of pods and namespaces by numbers, also inside of messages. */
function clean(bundle: Bundle): Bundle {
  const { controller } = bundle;
  if ('error' in controller) return JSON.parse(redacted(JSON.stringify(bundle))) as Bundle;
  const namespaces = numbered(controller.pods.map(({ namespace }) => namespace));
  const pods = controller.pods.map((pod, at) => {
    const [namespace, name] = [namespaces.get(pod.namespace) ?? '', `pod-${at + 1}`];
    const hidden = pod.reason?.replaceAll(pod.name, name).replaceAll(pod.namespace, namespace);
    return { ...pod, namespace, name, ...(hidden !== undefined && { reason: hidden }) };
  });
  return JSON.parse(redacted(JSON.stringify({ ...bundle, controller: { ...controller, pods } }))) as Bundle;
}

function numbered(names: readonly string[]): Map<string, string> {
  return new Map([...new Set(names)].map((name, at) => [name, `namespace-${at + 1}`]));
}
