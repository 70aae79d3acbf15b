/**
 * Creates pods like Istio's injector in CNI mode, with the toolbox as istio-proxy and app, and tests their connections.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import type { CoreV1Api, V1Container, V1Pod } from '@kubernetes/client-node';
import { NETNS, RULES, STATUS } from '../../lib/istio/names.ts';
import type { ApiClient } from '../../lib/kube/client.ts';
import { READY } from '../../lib/kube/status.ts';
import { type Identity, native } from '../../lib/native/addon.ts';
import { kubeOf } from '../support/kubeconfig.ts';
import { type ControlPlane, coreApi, startControlPlane } from './control-plane.ts';
import { createAccount } from './controller-process.ts';
import { type ImageName, imageName } from './images/images.ts';
import { type ClusterNode, type NodeOptions, startNode } from './node.ts';
import { pod, runPod, toolbox, until } from './pods.ts';
import { programs } from './programs.ts';
import { output } from './sandbox/sandbox.ts';

export const INITIALIZE = 'istio-pod-network-controller/initialize';
/** Of the pods; what is in it may not have any privilege. */
export const NAMESPACE = 'shop';

export interface PodOptions {
  annotations?: Record<string, string>;
  hostUsers?: boolean;
  /** Types of conditions. */
  readinessGates?: string[];
}

export interface MeshPodOptions extends PodOptions {
  /** With TPROXY the proxy has a privilege of its own, and the namespace must not be a restricted one. */
  mode?: 'REDIRECT' | 'TPROXY';
  dnsCapture?: boolean;
}

/** As `restricted` demands it. */
const container = (uid: number, made: V1Container): V1Container => ({
  ...made,
  securityContext: {
    allowPrivilegeEscalation: false,
    capabilities: { drop: ['ALL'] },
    readOnlyRootFilesystem: true,
    runAsUser: uid,
    runAsGroup: uid,
  },
});
const common = ({ hostUsers, readinessGates = [] }: PodOptions) => ({
  securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
  automountServiceAccountToken: false,
  readinessGates: readinessGates.map((conditionType) => ({ conditionType })),
  ...(hostUsers !== undefined && { hostUsers }),
});

/** The toolbox listens on both families. */
const DUAL_STACK = { name: 'ISTIO_DUAL_STACK', value: 'true' };

/** What the injector makes of its default flags. */
const ARGUMENTS = (mode: string) =>
  `istio-iptables -p 15001 -z 15006 -u 1337 -m ${mode} -i * -x  -b * -d 15090,15021,15020 --log_output_level=default:info`;

/** A transparent socket takes CAP_NET_ADMIN, which among uids only root keeps. */
const TRANSPARENT = {
  allowPrivilegeEscalation: false,
  capabilities: { drop: ['ALL'], add: ['NET_ADMIN'] },
  readOnlyRootFilesystem: true,
  runAsNonRoot: false,
  runAsUser: 0,
  runAsGroup: 1337,
};

/** The app answers on 8080. */
export function meshPod(
  name: string,
  { annotations = {}, mode = 'REDIRECT', dnsCapture = false, ...options }: MeshPodOptions = {},
): V1Pod {
  const validation = {
    ...toolbox('istio-validation', ...ARGUMENTS(mode).split(' '), '--run-validation', '--skip-rule-apply'),
    command: ['/toolbox', 'help'],
  };
  const serves = ['--tcp', '15001,15006,15053', '--udp', '15053', ...(mode === 'TPROXY' ? ['--transparent'] : [])];
  const proxy = container(1337, toolbox('istio-proxy', 'serve', '--name', 'istio-proxy', ...serves));
  proxy.env = [
    { name: 'ISTIO_META_INTERCEPTION_MODE', value: mode },
    DUAL_STACK,
    ...(dnsCapture ? [{ name: 'ISTIO_META_DNS_CAPTURE', value: 'true' }] : []),
  ];
  if (mode === 'TPROXY') proxy.securityContext = TRANSPARENT;
  const made = pod(name, {
    ...common(options),
    initContainers: [container(1337, validation), { ...proxy, restartPolicy: 'Always' }],
    containers: [container(1000, toolbox('app', 'serve', '--name', name, '--tcp', '8080'))],
  });
  made.metadata = {
    ...made.metadata,
    annotations: {
      'sidecar.istio.io/status': '{"initContainers":["istio-validation","istio-proxy"],"revision":"default"}',
      'sidecar.istio.io/interceptionMode': mode,
      'traffic.sidecar.istio.io/includeInboundPorts': '*',
      'traffic.sidecar.istio.io/excludeInboundPorts': '15020',
      'traffic.sidecar.istio.io/includeOutboundIPRanges': '*',
      ...annotations,
    },
  };
  return made;
}

export interface GatedPodOptions extends PodOptions {
  /** Flags of the gate's own. */
  gate?: string[];
  image?: ImageName;
  /** Instead of the image's entry point. */
  command?: string[];
  /** Whether its annotations are where the gate looks for them. */
  annotationsMounted?: boolean;
}

/** As `meshPod`, with the gate in istio-validation's place. */
export function gatedPod(name: string, given: GatedPodOptions = {}): V1Pod {
  const { gate = [], image = 'pod-network-gate', command, annotationsMounted = false, ...options } = given;
  const made = meshPod(name, options);
  const [, ...others] = made.spec?.initContainers ?? [];
  const annotations = { path: 'pod_annotations', fieldRef: { fieldPath: 'metadata.annotations' } };
  const first: V1Container = {
    name: 'pod-network-gate',
    image: imageName(image),
    imagePullPolicy: 'Never',
    ...(command && { command }),
    args: [...gate, ...ARGUMENTS('REDIRECT').split(' ')],
    env: [DUAL_STACK],
    ...(annotationsMounted && { volumeMounts: [{ name: 'podinfo', mountPath: '/etc/podinfo' }] }),
  };
  if (made.spec) {
    made.spec.initContainers = [container(1337, first), ...others];
    if (annotationsMounted) made.spec.volumes = [{ name: 'podinfo', downwardAPI: { items: [annotations] } }];
  }
  return made;
}

const MOUNT = '/opt/pod-network-gate';

/** Where the gate is in the pod of `sidecarPod`. */
export const MOUNTED_GATE = `${MOUNT}/pod-network-gate`;

interface SidecarPodOptions {
  /** Arguments of the toolbox in the application's container, which runs them once. */
  app: string[];
  /** False: the first process is the proxy, and a hook alone waits for the rules. */
  guarded?: boolean;
}

/**
 * As istiod's injection template makes it: the gate in front of the proxy, from an image volume. The toolbox answers
 * `--await-ready` with what looks like a 200.
 */
export function sidecarPod(name: string, { app, guarded = true }: SidecarPodOptions): V1Pod {
  const words = 'istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x  -b * -d 15090,15021'.split(' ');
  // A gate that runs as the hook refuses to start if somebody listens on the proxy's ports already.
  const ports = guarded ? '15001,15006,15021' : '15021';
  const hook = guarded ? ['--await-ready', '15021'] : ['--timeout', '60s', ...words];
  const proxy: V1Container = {
    ...toolbox('istio-proxy', 'serve', '--name', 'HTTP/1.1 200 OK', '--tcp', ports),
    restartPolicy: 'Always',
    env: [DUAL_STACK],
    command: [...(guarded ? [MOUNTED_GATE, ...words, '--'] : []), '/toolbox'],
    lifecycle: { postStart: { exec: { command: [MOUNTED_GATE, ...hook] } } },
    volumeMounts: [{ name: 'pod-network-gate', mountPath: MOUNT, readOnly: true }],
  };
  const made = pod(name, {
    ...common({}),
    restartPolicy: 'OnFailure',
    initContainers: [container(1337, proxy)],
    containers: [container(1000, toolbox('app', ...app))],
    volumes: [{ name: 'pod-network-gate', image: { reference: imageName('pod-network-gate'), pullPolicy: 'Never' } }],
  });
  made.metadata = { ...made.metadata, annotations: { 'sidecar.istio.io/status': '{}' } };
  return made;
}

/** Not enrolled unless annotated. */
export function plainPod(name: string, { annotations = {}, ...options }: PodOptions = {}): V1Pod {
  const made = pod(name, {
    ...common(options),
    containers: [container(1000, toolbox('app', 'serve', '--name', name, '--tcp', '8080'))],
  });
  made.metadata = { ...made.metadata, annotations };
  return made;
}

/** What the controller told of a pod. */
export interface Marks {
  status?: string;
  netns?: string;
  rules?: string;
  condition?: string;
}

export const isInitialized = ({ status, condition }: Marks) =>
  status === 'initialized' && condition === 'True Initialized';

/** What an app's connection came to: who answered it, on which port, for what; or an errno name. */
export interface Call {
  /** Name of the pod. */
  from: string;
  address: string;
  answer: string;
  expected: string;
}

/** A cluster of one node, with a restricted namespace and an account for the controller. */
export class Mesh {
  readonly controlPlane: ControlPlane;
  readonly node: ClusterNode;
  readonly core: CoreV1Api;
  readonly admin: ApiClient;
  /** The controller's. */
  kubeconfig = '';

  private constructor(controlPlane: ControlPlane, node: ClusterNode) {
    this.controlPlane = controlPlane;
    this.node = node;
    this.core = coreApi(controlPlane.kubeconfig);
    this.admin = kubeOf(controlPlane.kubeconfig);
  }

  static async start(
    images: ImageName[],
    { progress, ...options }: Omit<NodeOptions, 'images' | 'name'> = {},
  ): Promise<Mesh> {
    const reported = progress && { progress };
    const controlPlane = await startControlPlane({ controllers: true, ...reported });
    try {
      const mesh = new Mesh(controlPlane, await startNode(controlPlane, { images, ...options, ...reported }));
      mesh.kubeconfig = await createAccount(controlPlane, mesh.admin, mesh.node);
      const labels = { 'pod-security.kubernetes.io/enforce': 'restricted' };
      await mesh.admin.post('/api/v1/namespaces', { metadata: { name: NAMESPACE, labels } });
      await until(
        'made: the account of the namespace',
        () => mesh.core.listNamespacedServiceAccount({ namespace: NAMESPACE }),
        ({ items }) => items.length > 0,
      );
      return mesh;
    } catch (error) {
      await controlPlane.stop();
      throw error;
    }
  }

  async stop(): Promise<void> {
    this.admin.close();
    await this.controlPlane.stop();
  }

  run(body: V1Pod): Promise<V1Pod> {
    return runPod(this.core, body, NAMESPACE);
  }

  async runInitialized(body: V1Pod): Promise<V1Pod> {
    const running = await this.run(body);
    await this.marked(running, isInitialized);
    return this.now(running);
  }

  now({ metadata: { namespace = '', name = '' } = {} }: V1Pod): Promise<V1Pod> {
    return this.core.readNamespacedPod({ namespace, name });
  }

  annotate({ metadata }: V1Pod, annotations: Record<string, string | null>): Promise<unknown> {
    const path = `/api/v1/namespaces/${metadata?.namespace}/pods/${metadata?.name}`;
    return this.admin.patch(path, 'merge', { metadata: { annotations } });
  }

  annotateNamespace(annotations: Record<string, string | null>): Promise<unknown> {
    return this.admin.patch(`/api/v1/namespaces/${NAMESPACE}`, 'merge', { metadata: { annotations } });
  }

  async marks(of: V1Pod): Promise<Marks> {
    const { metadata, status } = await this.now(of);
    const { [STATUS]: word, [NETNS]: netns, [RULES]: rules } = metadata?.annotations ?? {};
    const condition = status?.conditions?.find(({ type }) => type === READY);
    return {
      ...(word !== undefined && { status: word }),
      ...(netns !== undefined && { netns }),
      ...(rules !== undefined && { rules }),
      ...(condition && { condition: `${condition.status} ${condition.reason}` }),
    };
  }

  marked(of: V1Pod, right: (marks: Marks) => boolean): Promise<Marks> {
    return until(`marked: ${of.metadata?.name}`, () => this.marks(of), right, 15_000);
  }

  /** The controller's: `Normal Initialized note`. */
  async events({ metadata }: V1Pod): Promise<string[]> {
    const { items } = await this.core.listNamespacedEvent({ namespace: NAMESPACE });
    return items
      .filter(({ involvedObject, reportingComponent }) => {
        return involvedObject.uid === metadata?.uid && reportingComponent === 'pod-network-controller.istio.io';
      })
      .map(({ type, reason, message }) => `${type} ${reason} ${message}`);
  }

  told(of: V1Pod, event: RegExp): Promise<string[]> {
    return until(
      `told: ${event}`,
      () => this.events(of),
      (events) => events.some((each) => event.test(each)),
      5_000,
    );
  }

  /** The netns on the node that holds the pod's addresses. */
  async netns(of: V1Pod): Promise<Identity> {
    for (const name of (await this.node.exec(['ls', '/run/netns'])).trim().split('\n')) {
      const path = this.node.path(`/run/netns/${name}`);
      const found = await native()
        .identify(path)
        .catch(() => undefined);
      if (found && addressesOf(of).some((address) => found.addresses.includes(address))) return found;
    }
    throw new Error(`no netns holds ${addressesOf(of)}`);
  }

  async rules(of: V1Pod): Promise<string> {
    return rulesIn(await this.netns(of));
  }

  /** Outbound, from the pod to `other`, and inbound, in each family: the proxy sees them. */
  async expectCaptured(pod: V1Pod, other: V1Pod): Promise<void> {
    await this.#expect(pod, other, true);
  }

  async expectDirect(pod: V1Pod, other: V1Pod): Promise<void> {
    await this.#expect(pod, other, false);
  }

  async #expect(pod: V1Pod, other: V1Pod, captured: boolean): Promise<void> {
    const calls = await this.calls(pod, other, captured);
    assert.ok(calls.length === 4, 'an address of each family');
    for (const { from, address, answer, expected } of calls) assert.equal(answer, expected, `${from} -> ${address}`);
  }

  /** Between the apps of two pods, out of the first and into it. */
  calls(pod: V1Pod, other: V1Pod, captured: boolean): Promise<Call[]> {
    const call = async (from: V1Pod, to: V1Pod, address: string, port: number): Promise<Call> => {
      const original = address.includes(':') ? `[${address}]:8080` : `${address}:8080`;
      const expected = captured ? `istio-proxy ${port} ${original}` : `${to.metadata?.name} 8080 ${original}`;
      return {
        from: from.metadata?.name ?? '',
        address: original,
        expected,
        answer: await this.dial(from, 'tcp', address, 8080),
      };
    };
    const outbound = addressesOf(other).map((address) => call(pod, other, address, 15001));
    const inbound = addressesOf(pod).map((address) => call(other, pod, address, 15006));
    return Promise.all([...outbound, ...inbound]);
  }

  /** `web 8080 10.0.0.1:8080`: who answers a process of the pod's app, on which port, for what; or an errno name. */
  async dial(from: V1Pod, protocol: 'tcp' | 'udp', address: string, port: number): Promise<string> {
    const app = from.status?.containerStatuses?.find(({ name }) => name === 'app');
    const id = app?.containerID?.replace(/^.*:\/\//, '') ?? '';
    const ctr = (await programs(['ctr'])).path('ctr');
    const dial = ['/toolbox', 'dial', '--timeout', '3000', protocol, address, String(port), 'token'];
    const exec = () => [ctr, '--namespace', 'k8s.io', 'task', 'exec', '--exec-id', randomUUID(), id, ...dial];
    // ctr may end before it has copied what a process printed that was quicker than it.
    let text = '';
    for (let attempt = 0; text === '' && attempt < 3; attempt++) text = await this.node.exec(exec());
    const said = JSON.parse(text) as { reply?: string; error?: string };
    return said.reply?.replace(/ token$/, '') ?? said.error ?? '';
  }
}

export function addressesOf({ status }: V1Pod): string[] {
  return (status?.podIPs ?? []).map(({ ip }) => ip ?? '');
}

/** As the operators' own tools see it, without counters. */
export async function rulesIn(netns: Pick<Identity, 'path'>): Promise<string> {
  const tools = ['iptables-legacy-save', 'ip6tables-legacy-save', 'nft --stateless list ruleset'];
  const text = await output(['nsenter', `--net=${netns.path}`, 'sh', '-ec', tools.join('; ')]);
  return text.replace(/^#.*\n/gm, '').replace(/ \[\d+:\d+\]$/gm, '');
}
