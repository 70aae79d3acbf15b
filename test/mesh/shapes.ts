/**
 * Pods as people write them, for Istio's real injector: the one table of the injection matrix (injection.test.ts). Another
 * shape is an entry here; its expected outcome is a line for each cell in injection.golden.
 */
import type { V1Container, V1ObjectMeta, V1PodSpec } from '@kubernetes/client-node';
import type { Values } from './mesh.ts';

/** The values that istiod has while it injects a shape, with and without `pilot.cni.enabled`. */
export const ISTIOD = {
  'the defaults': {},
  'JSON logs': { global: { logAsJson: true } },
  'forced rules, verbose logs': {
    global: { logging: { level: 'all:debug' }, proxy_init: { forceApplyIptables: true } },
  },
  'native nftables': { global: { nativeNftables: true } },
  'narrow defaults': {
    global: {
      proxy: {
        includeIPRanges: '10.96.0.0/16,fd00:10:96::/112',
        excludeIPRanges: '10.96.7.0/24',
        includeInboundPorts: '8080,9090',
        excludeInboundPorts: '9999',
        includeOutboundPorts: '5432',
        excludeOutboundPorts: '6379,3306',
      },
    },
  },
  'other ports': { meshConfig: { proxyListenPort: 16001, proxyInboundListenPort: 16006 } },
  'TPROXY in the mesh': { meshConfig: { defaultConfig: { interceptionMode: 'TPROXY' } } },
  'NONE in the mesh': { meshConfig: { defaultConfig: { interceptionMode: 'NONE' } } },
  'metadata in the mesh': {
    meshConfig: {
      defaultConfig: {
        holdApplicationUntilProxyStarts: true,
        proxyMetadata: { ISTIO_META_DNS_CAPTURE: 'true', ISTIO_DUAL_STACK: 'true', INVALID_DROP: 'true' },
      },
    },
  },
  'no seccomp profile, another pull policy': {
    global: { imagePullPolicy: 'IfNotPresent', proxy: { seccompProfile: null } },
  },
  'a custom template': {
    sidecarInjectorWebhook: {
      defaultTemplates: ['sidecar', 'extra'],
      templates: {
        extra: `spec:
  initContainers:
  - name: fetch
    image: example.com/fetch
    securityContext:
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL]}
      runAsNonRoot: true
      runAsUser: 1000
`,
      },
    },
  },
  'injected again': { sidecarInjectorWebhook: { reinvocationPolicy: 'IfNeeded' } },
} satisfies Record<string, Values>;

export type Istiod = keyof typeof ISTIOD;

/** A second istiod: the platform is a variable of its environment, with which it must have started. */
export const REVISION = { name: 'openshift', values: { global: { platform: 'openshift' } } };
const OF_REVISION = { 'istio-injection': '', 'istio.io/rev': REVISION.name };

export interface Shape {
  name: string;
  /** The defaults if absent. */
  istiod?: Istiod;
  /** The second istiod injects it, with the defaults. */
  revision?: true;
  annotations?: Record<string, string>;
  labels?: Record<string, string>;
  /** Of its namespace, beside what the matrix sets. */
  namespace?: { annotations?: Record<string, string>; labels?: Record<string, string> };
  change?(spec: V1PodSpec, metadata: V1ObjectMeta): void;
  /** Istio's own gateway chart makes the pod. */
  gateway?: true;
  /** Whether `sidecar.istio.io/nativeSidecar` makes a difference; true if absent. */
  natives?: false;
}

const traffic = (annotations: Record<string, string>) =>
  Object.fromEntries(Object.entries(annotations).map(([key, value]) => [`traffic.sidecar.istio.io/${key}`, value]));

/** One pod's own ProxyConfig. */
const config = (value: object) => ({ 'proxy.istio.io/config': JSON.stringify(value) });

/** As `restricted` demands it. */
export function application(name: string, more: Partial<V1Container> = {}): V1Container {
  return {
    name,
    image: `example.com/${name}`,
    securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] }, runAsUser: 1000 },
    ...more,
  };
}

/** The part of a proxy's container that a user may write; `auto` is Istio's word for its own image. */
const proxy = (more: Partial<V1Container>): V1Container => ({ name: 'istio-proxy', image: 'auto', ...more });

const probe = { httpGet: { path: '/healthz', port: 8080 } };

export const shapes: readonly Shape[] = [
  { name: 'plain' },
  { name: 'several containers', change: (spec) => spec.containers.push(application('helper')) },
  {
    name: 'init containers of its own',
    change: (spec) => Object.assign(spec, { initContainers: [application('migrate'), application('warm-up')] }),
  },
  {
    name: 'a native sidecar of its own',
    change: (spec) => Object.assign(spec, { initContainers: [application('cache', { restartPolicy: 'Always' })] }),
  },
  {
    name: 'probes of all kinds',
    change: ({ containers: [app] }) => {
      Object.assign(app ?? {}, { ports: [{ containerPort: 8080 }] });
      Object.assign(app ?? {}, { startupProbe: probe, livenessProbe: { grpc: { port: 8080 } } });
      Object.assign(app ?? {}, { readinessProbe: { tcpSocket: { port: 8080 } } });
    },
  },
  { name: 'a user namespace', change: (spec) => Object.assign(spec, { hostUsers: false }) },
  {
    name: 'a Job',
    change: (spec, metadata) => {
      spec.restartPolicy = 'Never';
      metadata.labels = { ...metadata.labels, 'batch.kubernetes.io/job-name': 'work' };
      metadata.ownerReferences = [{ apiVersion: 'batch/v1', kind: 'Job', name: 'work', uid: '0b0c', controller: true }];
    },
  },
  { name: 'TPROXY', annotations: { 'sidecar.istio.io/interceptionMode': 'TPROXY' } },
  { name: 'NONE', annotations: { 'sidecar.istio.io/interceptionMode': 'NONE' } },
  { name: 'DNS capture', annotations: config({ proxyMetadata: { ISTIO_META_DNS_CAPTURE: 'true' } }) },
  { name: 'dual stack', annotations: config({ proxyMetadata: { ISTIO_DUAL_STACK: 'true' } }) },
  { name: 'INVALID_DROP', annotations: config({ proxyMetadata: { INVALID_DROP: 'true' } }) },
  { name: 'hold', annotations: config({ holdApplicationUntilProxyStarts: true }) },
  { name: 'ranges', annotations: traffic({ includeOutboundIPRanges: '10.0.0.0/8,fd00::/8' }) },
  { name: 'excluded ranges', annotations: traffic({ excludeOutboundIPRanges: '10.1.0.0/16,fd00:1::/32' }) },
  { name: 'no outbound ranges', annotations: traffic({ includeOutboundIPRanges: '' }) },
  { name: 'inbound ports', annotations: traffic({ includeInboundPorts: '8080' }) },
  { name: 'no inbound ports', annotations: traffic({ includeInboundPorts: '' }) },
  { name: 'excluded inbound ports', annotations: traffic({ excludeInboundPorts: '9000,9001' }) },
  { name: 'outbound ports', annotations: traffic({ includeOutboundIPRanges: '', includeOutboundPorts: '80,443' }) },
  { name: 'excluded outbound ports', annotations: traffic({ excludeOutboundPorts: '5432' }) },
  { name: 'excluded interfaces', annotations: traffic({ excludeInterfaces: 'net1,net2' }) },
  { name: 'virtual interfaces', annotations: { 'istio.io/reroute-virtual-interfaces': 'vm0' } },
  { name: 'another status port', annotations: { 'status.sidecar.istio.io/port': '15999' } },
  { name: 'a low port for the proxy', annotations: { 'sidecar.istio.io/capNetBindService': 'true' } },
  {
    name: 'a proxy of another user',
    change: (spec) => spec.containers.push(proxy({ securityContext: { runAsUser: 2102, runAsGroup: 2102 } })),
  },
  {
    name: 'a proxy with environment and mounts of its own',
    change: (spec) =>
      spec.containers.push(
        proxy({ env: [{ name: 'TZ', value: 'UTC' }], volumeMounts: [{ name: 'extra', mountPath: '/extra' }] }),
      ) && Object.assign(spec, { volumes: [{ name: 'extra', emptyDir: {} }] }),
  },
  { name: 'not injected by label', labels: { 'sidecar.istio.io/inject': 'false' } },
  { name: 'gRPC without a proxy', natives: false, annotations: { 'inject.istio.io/templates': 'grpc-agent' } },
  { name: 'gRPC alone', natives: false, annotations: { 'inject.istio.io/templates': 'grpc-simple' } },
  { name: "Istio's gateway chart", natives: false, gateway: true },
  {
    name: "Istio's gateway chart in an enrolled namespace",
    natives: false,
    gateway: true,
    namespace: { annotations: { 'istio-pod-network-controller/initialize': 'true' } },
  },
  {
    name: 'enrolled by its namespace',
    namespace: { annotations: { 'istio-pod-network-controller/initialize': 'true' } },
  },
  { name: 'enrolled by itself', annotations: { 'istio-pod-network-controller/initialize': 'true' } },
  {
    name: 'enrolled by itself, NONE',
    annotations: {
      'istio-pod-network-controller/initialize': 'true',
      'sidecar.istio.io/interceptionMode': 'NONE',
    },
  },
  { name: 'opted out', annotations: { 'istio-pod-network-controller/initialize': 'false' } },
  { name: 'logs as JSON', istiod: 'JSON logs' },
  { name: 'forced rules', istiod: 'forced rules, verbose logs' },
  { name: 'native nftables', istiod: 'native nftables' },
  { name: 'narrow defaults', istiod: 'narrow defaults' },
  {
    name: 'narrow defaults, widened again',
    istiod: 'narrow defaults',
    annotations: traffic({ includeOutboundIPRanges: '*', includeInboundPorts: '*', excludeOutboundPorts: '' }),
  },
  { name: 'other listener ports', istiod: 'other ports' },
  { name: 'TPROXY for all', istiod: 'TPROXY in the mesh' },
  {
    name: 'TPROXY for all, REDIRECT for one',
    istiod: 'TPROXY in the mesh',
    annotations: { 'sidecar.istio.io/interceptionMode': 'REDIRECT' },
  },
  { name: 'NONE for all', istiod: 'NONE in the mesh' },
  { name: 'DNS capture, dual stack, INVALID_DROP, hold for all', istiod: 'metadata in the mesh' },
  { name: 'no seccomp profile', istiod: 'no seccomp profile, another pull policy' },
  {
    name: "OpenShift's range of users",
    revision: true,
    namespace: {
      labels: OF_REVISION,
      annotations: {
        'openshift.io/sa.scc.uid-range': '1000670000/10000',
        'openshift.io/sa.scc.supplemental-groups': '1000670000/10000',
      },
    },
    change: ({ containers: [app] }) =>
      Object.assign(app?.securityContext ?? {}, { runAsUser: 1000670000, runAsNonRoot: true }),
  },
  { name: 'a custom template', istiod: 'a custom template' },
  { name: 'injected again', istiod: 'injected again' },
  {
    name: 'a revision of its namespace',
    revision: true,
    namespace: { labels: OF_REVISION },
  },
];
