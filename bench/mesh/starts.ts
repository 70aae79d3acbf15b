/** How a pod of a real mesh starts, stage by stage, for each way in which it gets its redirect rules. */
import type { V1Pod } from '@kubernetes/client-node';
import type { ControllerProcess } from '../../test/cluster/controller-process.ts';
import type { ClusterNode } from '../../test/cluster/node.ts';
import { pod, runPod, toolbox, until } from '../../test/cluster/pods.ts';
import { type Mesh, OUTSIDE } from '../../test/mesh/mesh.ts';
import { containerLines, containerSaid, LOGS, now, STATE, sandboxesOf } from '../end-to-end/instants.ts';
import { Watcher } from '../end-to-end/watcher.ts';

/** A way of joining the mesh, or of staying outside. Another way is another object of this type. */
export interface Way {
  /** Part of the pods' names and of the series' ids. */
  id: string;
  name: string;
  ours: boolean;
  namespace: string;
  node: ClusterNode;
  labels?: Record<string, string>;
  /** The init container that waits for the rules or writes them. */
  waiter?: string;
  /** Whether the pod has an istio-proxy; `gated`: the gate is in front of it, in its container. */
  proxy: boolean | 'gated';
  /** Returns the controller whose log says when the rules were verified. */
  controller?: () => ControllerProcess;
  /** This project is not installed: the node has no controller, and the API server has none of its policies. */
  away?: boolean;
}

/** Milliseconds since the pod was requested. */
export interface Start {
  bound: number;
  sandbox: number;
  /** The runtime has reported the sandbox to the kubelet. */
  returned: number;
  /** Ours: the rules are read back. */
  rules?: number;
  /** The init container has ended, or the gate in the proxy's container has opened. */
  waited?: number;
  /** The first line of the proxy's container. */
  proxy?: number;
  proxyReady?: number;
  app: number;
  ready: number;
}

/** In the order in which they mostly end. */
export const STAGES: readonly [keyof Start, string][] = [
  ['bound', 'bound to the node'],
  ['sandbox', "sandbox's process starts"],
  ['rules', 'rules are installed'],
  ['returned', 'RunPodSandbox returns'],
  ['waited', 'init container ends, or gate opens'],
  ['proxy', 'proxy container starts'],
  ['proxyReady', 'proxy is ready'],
  ['app', 'app starts'],
  ['ready', 'pod is ready'],
];

const LIMIT_MS = 120_000;
/** All measured pods have it. */
const LABEL = { app: 'start' };
/** Resident pods are created so many at a time. */
const BATCH = 10;

export class Starts implements AsyncDisposable {
  readonly #mesh: Mesh;
  readonly #watchers = new Map<string, Promise<Watcher>>();
  #made = 0;

  constructor(mesh: Mesh) {
    this.#mesh = mesh;
  }

  /** Starts one pod and deletes it; see `gone` for its end. Rejects if it is not ready within two minutes. */
  async one(way: Way): Promise<Start> {
    const { core } = this.#mesh.cluster;
    const { namespace, node } = way;
    const name = `${way.id}-${this.#made++}`;
    const watcher = await this.#watcher(namespace);
    const seen = watcher.ready(name, LIMIT_MS);
    const created = now();
    await core.createNamespacedPod({ namespace, body: podOf(way, name) });
    const {
      uid,
      bound = 0,
      ready = 0,
    } = await seen.catch(async (error: Error) => {
      const { status } = await core.readNamespacedPod({ namespace, name });
      throw new Error(`${error.message}: ${JSON.stringify(status)}`);
    });
    const logs = node.path(LOGS);
    const which = { namespace, name, uid };
    const proxied = way.proxy !== false;
    const [waited, proxy, proxyReady, app] = await Promise.all([
      waitedAt(logs, which, way),
      proxied ? containerLines(logs, which, 'istio-proxy') : undefined,
      proxied ? containerSaid(logs, which, 'istio-proxy', /Envoy proxy is ready/) : undefined,
      containerLines(logs, which, 'app'),
    ]);
    const sandbox = sandboxesOf(node.services.get('containerd')?.log ?? '', node.path(STATE)).get(name);
    if (sandbox === undefined) throw new Error(`containerd's log does not mention the sandbox of ${name}`);
    const rules = way.controller && rulesAt(way.controller(), `${namespace}/${name}`);
    await core.deleteNamespacedPod({ namespace, name, gracePeriodSeconds: 1 });
    const since = (at: number) => at - created;
    return {
      bound: since(bound),
      sandbox: since(sandbox.made),
      returned: since(sandbox.returned),
      ...(rules !== undefined && { rules: since(rules) }),
      ...(waited !== undefined && { waited: since(waited) }),
      ...(proxy && { proxy: since(proxy.first) }),
      ...(proxyReady !== undefined && { proxyReady: since(proxyReady) }),
      app: since(app.first),
      ready: since(ready),
    };
  }

  /** Resolves when no measured pod is left, so that the end of one is no part of the start of the next. */
  async gone(): Promise<void> {
    const labelSelector = Object.entries(LABEL)
      .map(([key, value]) => `${key}=${value}`)
      .join();
    const left = async () => (await this.#mesh.cluster.core.listPodForAllNamespaces({ labelSelector })).items.length;
    await until('gone: the measured pods', left, (count) => count === 0, LIMIT_MS);
  }

  /** Pods without a mesh that run on these nodes until the end, so many on each. */
  async fill(nodes: readonly ClusterNode[], count: number): Promise<void> {
    const { core } = this.#mesh.cluster;
    const app = toolbox('app', 'serve', '--name', 'app', '--tcp', '8080');
    const all = nodes.flatMap((node) =>
      Array.from({ length: count }, (_, at) =>
        pod(`resident-${node.name}-${at}`, { ...placed(node), containers: [app] }),
      ),
    );
    for (let at = 0; at < all.length; at += BATCH)
      await Promise.all(all.slice(at, at + BATCH).map((body) => runPod(core, body, OUTSIDE)));
  }

  #watcher(namespace: string): Promise<Watcher> {
    const started = this.#watchers.get(namespace) ?? Watcher.start(this.#mesh.cluster.admin, namespace);
    this.#watchers.set(namespace, started);
    return started;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const watcher of this.#watchers.values()) await (await watcher)[Symbol.asyncDispose]();
  }
}

async function waitedAt(logs: string, which: Parameters<typeof containerLines>[1], { waiter, proxy }: Way) {
  if (proxy === 'gated') return containerSaid(logs, which, 'istio-proxy', / open after /);
  return waiter === undefined ? undefined : (await containerLines(logs, which, waiter)).last;
}

/** The controller writes the line after the status annotation and the release. */
function rulesAt(controller: ControllerProcess, name: string): number | undefined {
  const [done] = controller.told(name, 'initialized');
  const { mark = 0, release = 0 } = done?.us ?? {};
  return done && Date.parse(done.time) - (mark + release) / 1000;
}

const placed = (node: ClusterNode) => ({ nodeSelector: { 'kubernetes.io/hostname': node.name } });

/** The same app for each way; Pod Security `restricted` admits it. */
function podOf({ namespace, node, labels = {} }: Way, name: string): V1Pod {
  const app = toolbox('app', 'serve', '--name', 'app', '--tcp', '8080');
  app.securityContext = { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] }, runAsUser: 1000 };
  const made = pod(name, {
    ...placed(node),
    securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
    containers: [app],
  });
  made.metadata = { ...made.metadata, namespace, labels: { ...LABEL, ...labels } };
  return made;
}
