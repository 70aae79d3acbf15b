/** A real Istio on the cluster of the tests: istiod, its injector, Envoy and, if wanted, istio-cni. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { V1Pod } from '@kubernetes/client-node';
import { parseAllDocuments } from 'yaml';
import { INITIALIZE } from '../../lib/istio/names.ts';
import type { Image } from '../cluster/images/archive.ts';
import { Mesh as Cluster, NAMESPACE } from '../cluster/mesh-pod.ts';
import { DNS_ADDRESS } from '../cluster/network.ts';
import { type ClusterNode, type NodeOptions, startNode } from '../cluster/node.ts';
import { until } from '../cluster/pods.ts';
import { programs } from '../cluster/programs.ts';
import { output } from '../cluster/sandbox/sandbox.ts';
import { stopwatch } from '../cluster/stopwatch.ts';
import { patience } from '../support/patience.ts';
import { type Ended, runToEnd } from '../support/process.ts';
import { DNS, meshImages } from './images.ts';
import { istioFiles } from './programs.ts';

export const SYSTEM = 'istio-system';
/** Its pods are injected, and Pod Security `restricted` is enforced. */
export const RESTRICTED = NAMESPACE;
/** Its pods are injected and may have privileges: what Istio's own istio-init and TPROXY need. */
export const PRIVILEGED = 'free';
/** Its pods are not injected. */
export const OUTSIDE = 'outside';

/** `images`: what the node can run beside Istio's own. */
export interface MeshOptions extends Omit<NodeOptions, 'name'> {
  /** istiod leaves the rules to the node (`pilot.cni.enabled`) and injects istio-validation in istio-init's place. */
  cni?: boolean;
  /** Runs the real istio-cni, which then writes the rules; implies `cni`. */
  istioCni?: boolean;
  /** For istiod's chart; they win over those that the test cluster needs. */
  values?: Values;
}

export type Values = Record<string, unknown>;

/** What a machine of the tests needs. */
const BASE_VALUES: Values = {
  global: {
    hub: 'localhost',
    tag: 'test',
    imagePullPolicy: 'Never',
    // Pod Security `restricted` asks for it, and our gate has it too.
    proxy: { seccompProfile: { type: 'RuntimeDefault' }, resources: { requests: { cpu: '10m', memory: '64Mi' } } },
    defaultPodDisruptionBudget: { enabled: false },
  },
  autoscaleEnabled: false,
  resources: { requests: { cpu: '10m', memory: '128Mi' } },
  meshConfig: { accessLogFile: '/dev/stdout' },
  // Envoy's release lacks three filters of Istio's build.
  env: { PILOT_ENABLE_METADATA_EXCHANGE: 'false', PILOT_ENABLE_ALPN_FILTER: 'false' },
  telemetry: { enabled: false },
};

/** What a pod has of the values with which it was injected: from the injector's, and from those of the mesh. */
const GENERATION = 'test.istio.io/generation';
const GENERATION_VARIABLE = 'TEST_GENERATION';

/** The templates of istiod's chart that `configure()` applies: what istiod and the API server watch. */
const INJECTION = ['configmap', 'istiod-injector-configmap', 'mutatingwebhook'];

const releaseOf = (revision?: string) => (revision === undefined ? 'istiod' : `istiod-${revision}`);

const LIMIT_MS = 60_000;

const { pilot, proxyv2, 'install-cni': installCni, echo, dns } = meshImages;
/** What pods of the mesh are made of. */
const POD_IMAGES = [proxyv2, echo];

export function startMesh(options?: MeshOptions): Promise<Mesh> {
  return Mesh.start(options);
}

export class Mesh {
  readonly cluster: Cluster;
  readonly #files: string;
  /** Of every istiod, beside those of one configure() or revision. */
  readonly #values: Values;
  #generation = 0;

  private constructor(cluster: Cluster, values: Values) {
    this.cluster = cluster;
    this.#values = values;
    this.#files = join(cluster.controlPlane.sandbox.folder, 'istio');
    mkdirSync(this.#files);
  }

  static async start(options: MeshOptions = {}): Promise<Mesh> {
    const { cni = false, istioCni = false, values = {}, images = [], ...node } = options;
    const timed = stopwatch(node.progress);
    const cluster = await Cluster.start(images, node);
    try {
      const mesh = new Mesh(cluster, merged(BASE_VALUES, { pilot: { cni: { enabled: cni || istioCni } } }, values));
      await Promise.all([
        timed('images of the mesh', loadInTurn(cluster.node, [pilot, dns, ...POD_IMAGES])),
        timed('charts', mesh.#install()),
      ]);
      if (istioCni) await timed('istio-cni', mesh.installIstioCni(cluster.node));
      await timed('istiod and DNS', mesh.#ready());
      return mesh;
    } catch (error) {
      await cluster.stop();
      throw error;
    }
  }

  stop(): Promise<void> {
    return this.cluster.stop();
  }

  /** Another node, for pods of the mesh. */
  async addNode(options: NodeOptions = {}): Promise<ClusterNode> {
    const node = await startNode(this.cluster.controlPlane, options);
    await loadInTurn(node, POD_IMAGES);
    return node;
  }

  /** The real istio-cni on this node alone: it writes the rules of pods whose istiod is in CNI mode. */
  async installIstioCni(node: ClusterNode): Promise<void> {
    await loadInTurn(node, [installCni]);
    const expressions = [{ key: 'kubernetes.io/hostname', operator: 'In', values: [node.name] }];
    const terms = { nodeSelectorTerms: [{ matchExpressions: expressions }] };
    const values = {
      global: { hub: 'localhost', tag: 'test', imagePullPolicy: 'Never' },
      cniBinDir: node.cni.plugins,
      cniConfDir: node.cni.config,
      resources: { requests: { cpu: '10m', memory: '32Mi' } },
      affinity: { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: terms } },
    };
    await this.helm('install', 'istio-cni', this.chart('istio-cni'), '--values', this.#write('istio-cni', values));
    await this.rolledOut(SYSTEM, 'daemonset/istio-cni-node');
  }

  /** A second istiod, for pods that are labelled `istio.io/rev` or are in a namespace that is. */
  async installRevision(revision: string, values: Values): Promise<void> {
    const all = merged(this.#values, values, { revision });
    const name = releaseOf(revision);
    await this.helm('install', name, this.istiodChart, '--values', this.#write(name, all));
    await this.rolledOut(SYSTEM, `deployment/${name}`);
  }

  /**
   * Changes istiod's values, beside those of the start, and waits until the injector uses them. istiod watches its
   * ConfigMaps, so it need not start again. Values that become its own environment or flags need `installRevision`.
   */
  async configure(values: Values, revision?: string): Promise<void> {
    const all = this.#next(values, revision !== undefined ? { revision } : {});
    const [name, chart] = [releaseOf(revision), this.istiodChart];
    const only = INJECTION.flatMap((template) => ['--show-only', `templates/${template}.yaml`]);
    const text = await this.helm('template', name, chart, '--values', this.#write(name, all), ...only);
    await this.apply(parseAllDocuments(text).map((document) => document.toJS() as object));
    await this.#injecting(revision);
  }

  rolledOut(namespace: string, what: string): Promise<string> {
    return this.kubectl('rollout', 'status', '--namespace', namespace, what, `--timeout=${LIMIT_MS * patience()}ms`);
  }

  chart(name: 'base' | 'istio-cni' | 'gateway'): string {
    return join(istioFiles().charts, name);
  }

  get istiodChart(): string {
    return join(istioFiles().charts, 'istio-control/istio-discovery');
  }

  /** In istio-system, unless `--namespace` is among the words. */
  async helm(...words: string[]): Promise<string> {
    const helm = (await programs(['helm'])).path('helm');
    const namespace = words.includes('--namespace') ? [] : ['--namespace', SYSTEM];
    return output([helm, '--kubeconfig', this.cluster.controlPlane.kubeconfig, ...namespace, ...words]);
  }

  async kubectl(...words: string[]): Promise<string> {
    const kubectl = (await programs(['kubectl'])).path('kubectl');
    return output([kubectl, '--kubeconfig', this.cluster.controlPlane.kubeconfig, ...words]);
  }

  async apply(objects: readonly object[]): Promise<void> {
    const kubectl = (await programs(['kubectl'])).path('kubectl');
    const input = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
    // Of two who write the same field, helm and this, the later one wins.
    const words = ['apply', '--server-side', '--force-conflicts', '--filename', '-'];
    await output([kubectl, '--kubeconfig', this.cluster.controlPlane.kubeconfig, ...words], { input });
  }

  logs({ metadata }: V1Pod, container: string, ...words: string[]): Promise<string> {
    const { name = '', namespace = '' } = metadata ?? {};
    return this.kubectl('logs', '--namespace', namespace, name, '--container', container, ...words);
  }

  /** Runs a command in a running container of the pod. */
  async exec({ metadata }: V1Pod, container: string, command: string[]): Promise<Ended> {
    const { name = '', namespace = '' } = metadata ?? {};
    const kubectl = (await programs(['kubectl'])).path('kubectl');
    const which = ['exec', '--namespace', namespace, name, '--container', container];
    return runToEnd(kubectl, ['--kubeconfig', this.cluster.controlPlane.kubeconfig, ...which, '--', ...command]);
  }

  async #install(): Promise<void> {
    const { admin } = this.cluster;
    const injected = { 'istio-injection': 'enabled' };
    await admin.patch(`/api/v1/namespaces/${RESTRICTED}`, 'merge', { metadata: { labels: injected } });
    await admin.post('/api/v1/namespaces', { metadata: { name: SYSTEM } });
    await admin.post('/api/v1/namespaces', { metadata: { name: PRIVILEGED, labels: injected } });
    await admin.post('/api/v1/namespaces', { metadata: { name: OUTSIDE } });
    await this.apply(dnsObjects());
    await this.helm('install', 'istio-base', this.chart('base'));
    const values = this.#write('istiod', this.#next());
    await this.helm('install', 'istiod', this.istiodChart, '--values', values);
  }

  async #ready(): Promise<void> {
    await this.rolledOut('kube-system', 'deployment/dns');
    await this.rolledOut(SYSTEM, 'deployment/istiod');
    await this.#injecting();
  }

  /** Waits until a new pod is injected with the latest values: those of the injector and those of the mesh. */
  async #injecting(revision?: string): Promise<void> {
    const labels = { 'sidecar.istio.io/inject': 'true', ...(revision !== undefined && { 'istio.io/rev': revision }) };
    // The controller's policy may refuse what istiod makes of a pod with these values; it leaves a pod alone that opts out.
    const annotations = { [INITIALIZE]: 'false' };
    const spec = { containers: [{ name: 'app', image: 'none' }] };
    const probe = async () => {
      const body = { metadata: { name: 'probe', labels, annotations }, spec };
      const dryRun = { namespace: OUTSIDE, body, dryRun: 'All' };
      // The webhook is there before its server is.
      const made = await this.cluster.core.createNamespacedPod(dryRun).catch(() => undefined);
      const all = [...(made?.spec?.initContainers ?? []), ...(made?.spec?.containers ?? [])];
      const variables = all.find(({ name }) => name === 'istio-proxy')?.env ?? [];
      const ofMesh = variables.find(({ name }) => name === GENERATION_VARIABLE)?.value;
      return [made?.metadata?.annotations?.[GENERATION], ofMesh];
    };
    const latest = (found: unknown[]) => found.every((each) => each === `${this.#generation}`);
    await until('injected with the new values: a pod', probe, latest, LIMIT_MS);
  }

  /** Values of the next generation. */
  #next(...values: Values[]): Values {
    const generation = `${++this.#generation}`;
    return merged(this.#values, ...values, {
      sidecarInjectorWebhook: { injectedAnnotations: { [GENERATION]: generation } },
      meshConfig: { defaultConfig: { proxyMetadata: { [GENERATION_VARIABLE]: generation } } },
    });
  }

  #write(name: string, values: Values): string {
    const file = join(this.#files, `${name}.json`);
    writeFileSync(file, JSON.stringify(values));
    return file;
  }
}

/** Later values win; mappings are joined, everything else is replaced. */
function merged(...all: Values[]): Values {
  const result: Values = {};
  for (const values of all) {
    for (const [key, value] of Object.entries(values)) {
      const before = result[key];
      result[key] = isMapping(before) && isMapping(value) ? merged(before, value) : value;
    }
  }
  return result;
}

function isMapping(value: unknown): value is Values {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

async function loadInTurn(node: ClusterNode, images: readonly (() => Promise<Image>)[]): Promise<void> {
  for (const make of images) await node.load(await make());
}

/** The DNS server where every pod looks for one. */
function dnsObjects(): object[] {
  const namespace = 'kube-system';
  const labels = { app: 'dns' };
  const subjects = [{ kind: 'ServiceAccount', name: 'dns', namespace }];
  const roleRef = { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'dns' };
  const rbac = { apiVersion: 'rbac.authorization.k8s.io/v1', metadata: { name: 'dns' } };
  const container = {
    name: 'dns',
    image: DNS,
    imagePullPolicy: 'Never',
    readinessProbe: { tcpSocket: { port: 53 }, periodSeconds: 1 },
  };
  return [
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'dns', namespace } },
    { ...rbac, kind: 'ClusterRole', rules: [{ apiGroups: [''], resources: ['services'], verbs: ['list', 'watch'] }] },
    { ...rbac, kind: 'ClusterRoleBinding', subjects, roleRef },
    {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name: 'dns', namespace },
      spec: {
        selector: { matchLabels: labels },
        template: { metadata: { labels }, spec: { serviceAccountName: 'dns', containers: [container] } },
      },
    },
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'dns', namespace },
      spec: {
        selector: labels,
        clusterIP: DNS_ADDRESS,
        ports: [
          { name: 'dns', protocol: 'UDP', port: 53 },
          { name: 'dns-tcp', protocol: 'TCP', port: 53 },
        ],
      },
    },
  ];
}
