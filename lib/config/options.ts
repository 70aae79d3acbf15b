/**
 * The one table of the controller's own options. Flags, environment variables, keys of the configuration file (the
 * flags without dashes), defaults and help are all made from it. The redirect options, which the controller takes as
 * defaults for the whole cluster, are in `redirect/options.ts`.
 */
import type { RedirectOption } from '../options/option.ts';
import { boolean, choice } from '../options/values.ts';
import { SOURCES } from '../runtime/sources.ts';
import { count, duration, file, hostNames, listen, namespace, namespaces, objectName, path, socket } from './values.ts';

export interface RunOption<T = unknown> extends RedirectOption<T> {
  env: readonly [string];
}

const SOURCE_NAMES = SOURCES.map(({ name }) => name);

const CLUSTER = 'Cluster:';
const SCOPE = 'Which pods, and how:';
const NODE = 'Node:';
const SERVICE = 'Service:';

const option = <T>(given: RunOption<T>): RunOption<T> => given;

export const runOptions = {
  nodeName: option({
    flag: 'node-name',
    env: ['NODE_NAME'],
    placeholder: 'name',
    initialText: 'none, it must be given',
    group: CLUSTER,
    help: 'the node whose pods are served',
    parse: objectName,
  }),
  kubeconfig: option({
    flag: 'kubeconfig',
    env: ['KUBECONFIG'],
    placeholder: 'file',
    initialText: "the pod's own service account",
    group: CLUSTER,
    help: 'how to reach the API server',
    parse: file,
  }),
  podNamespace: option({
    flag: 'pod-namespace',
    env: ['POD_NAMESPACE'],
    placeholder: 'name',
    initialText: 'none',
    group: CLUSTER,
    help: "the controller's own pod, which it leaves alone",
    parse: namespace,
  }),
  podName: option({
    flag: 'pod-name',
    env: ['POD_NAME'],
    placeholder: 'name',
    initialText: 'none',
    group: CLUSTER,
    help: 'its name',
    parse: objectName,
  }),
  enroll: option({
    flag: 'enroll',
    env: ['IPNC_ENROLL'],
    placeholder: 'what',
    initial: 'both',
    group: SCOPE,
    help: 'annotation (istio-pod-network-controller/initialize), istio (injected, without an istio-init), or both',
    parse: choice('annotation', 'istio', 'both'),
  }),
  excludeNamespaces: option({
    flag: 'exclude-namespaces',
    env: ['IPNC_EXCLUDE_NAMESPACES'],
    placeholder: 'names',
    initial: 'kube-system',
    group: SCOPE,
    help: 'namespaces whose pods are left alone whatever they say',
    parse: namespaces,
  }),
  defaultInboundPorts: option({
    flag: 'default-inbound-ports',
    env: ['IPNC_DEFAULT_INBOUND_PORTS'],
    placeholder: 'which',
    initial: '*',
    group: SCOPE,
    help: 'inbound ports where nothing names any: "*", or declared for those that the containers declare',
    parse: choice('*', 'declared'),
  }),
  backend: option({
    flag: 'backend',
    env: ['IPNC_BACKEND'],
    placeholder: 'name',
    initial: 'auto',
    group: SCOPE,
    help: 'auto, iptables-legacy or nftables',
    parse: choice('auto', 'iptables-legacy', 'nftables'),
  }),
  counters: option({
    flag: 'counters',
    env: ['IPNC_COUNTERS'],
    initial: 'false',
    group: SCOPE,
    help: 'whether the rules of the nftables form count packets, which costs a fifth of an install',
    parse: boolean,
  }),
  marks: option({
    flag: 'marks',
    env: ['IPNC_MARKS'],
    placeholder: 'which',
    initial: 'all',
    group: SCOPE,
    help: 'which pods get annotations and a condition: all, or failures: those that failed, or that wait for the mark',
    parse: choice('all', 'failures'),
  }),
  resync: option({
    flag: 'resync',
    env: ['IPNC_RESYNC'],
    placeholder: 'duration',
    initial: '30s',
    group: SCOPE,
    help: 'how often the rules of each pod are compared with what should stand',
    parse: duration('1s', '24h'),
  }),
  concurrency: option({
    flag: 'concurrency',
    env: ['IPNC_CONCURRENCY'],
    placeholder: 'number',
    initial: '8',
    group: SCOPE,
    help: 'how many pods are worked on at once',
    parse: count(1, 256),
  }),
  criSocket: option({
    flag: 'cri-socket',
    env: ['IPNC_CRI_SOCKET'],
    placeholder: 'path',
    initialText: 'the first known one that is there',
    group: NODE,
    help: "the container runtime's socket",
    parse: socket,
  }),
  hostRoot: option({
    flag: 'host-root',
    env: ['IPNC_HOST_ROOT'],
    placeholder: 'path',
    initial: '/',
    group: NODE,
    help: "where the node's /run and /proc are mounted",
    parse: path,
  }),
  runtimeEvents: option({
    flag: 'runtime-events',
    env: ['IPNC_RUNTIME_EVENTS'],
    placeholder: 'source',
    initial: 'auto',
    group: NODE,
    help: `what reports new sandboxes before the API server does: auto, ${SOURCE_NAMES.join(', ')} or off`,
    parse: choice('auto', ...SOURCE_NAMES, 'off'),
  }),
  nriFailClosed: option({
    flag: 'nri-fail-closed',
    env: ['IPNC_NRI_FAIL_CLOSED'],
    initial: 'false',
    group: NODE,
    help: 'whether the runtime is to refuse the sandbox of an enrolled pod whose rules cannot be installed; with NRI only',
    parse: boolean,
  }),
  metricsAddress: option({
    flag: 'metrics-address',
    env: ['IPNC_METRICS_ADDRESS'],
    placeholder: 'address',
    initial: ':9464',
    group: SERVICE,
    help: 'where metrics and the list of pods are served, or off',
    parse: listen,
  }),
  healthAddress: option({
    flag: 'health-address',
    env: ['IPNC_HEALTH_ADDRESS'],
    placeholder: 'address',
    initial: ':9465',
    group: SERVICE,
    help: "where the kubelet's probes are answered, or off",
    parse: listen,
  }),
  httpHosts: option({
    flag: 'http-hosts',
    env: ['IPNC_HTTP_HOSTS'],
    placeholder: 'names',
    initial: '',
    group: SERVICE,
    help: 'names by which both may be asked, beside addresses and localhost',
    parse: hostNames,
  }),
  logLevel: option({
    flag: 'log-level',
    env: ['IPNC_LOG_LEVEL'],
    placeholder: 'level',
    initial: 'info',
    group: SERVICE,
    help: 'fatal, error, warn, info, debug or trace',
    parse: choice('fatal', 'error', 'warn', 'info', 'debug', 'trace'),
  }),
};

type RunKey = keyof typeof runOptions;

/** The table in order, with keys. */
export const runOptionList = Object.entries(runOptions) as [RunKey, RunOption][];

/** What each option holds once read; undefined where it has no default and was not given. */
export type RunValues = {
  [K in RunKey]: (typeof runOptions)[K] extends RunOption<infer T> ? T | Undefined<K> : never;
};
type Undefined<K extends RunKey> = K extends 'kubeconfig' | 'podNamespace' | 'podName' | 'criSocket'
  ? undefined
  : never;
