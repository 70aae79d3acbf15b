/**
 * The table of the controller's own options. Flags, environment variables, keys of the configuration file (the flags
 * without dashes), defaults and help are all made from it. The redirect options, which the controller uses as defaults
 * for the whole cluster, are in `istio/options.ts`.
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
const SCOPE = 'Pods and rules:';
const NODE = 'Node:';
const SERVICE = 'Service:';

const option = <T>(given: RunOption<T>): RunOption<T> => given;

export const runOptions = {
  nodeName: option({
    flag: 'node-name',
    env: ['NODE_NAME'],
    placeholder: 'name',
    initialText: 'none; required',
    group: CLUSTER,
    help: 'the node whose pods the controller serves',
    parse: objectName,
  }),
  kubeconfig: option({
    flag: 'kubeconfig',
    env: ['KUBECONFIG'],
    placeholder: 'file',
    initialText: "the pod's own service account",
    group: CLUSTER,
    help: 'the kubeconfig file with the address and the credentials of the API server',
    parse: file,
  }),
  podNamespace: option({
    flag: 'pod-namespace',
    env: ['POD_NAMESPACE'],
    placeholder: 'name',
    initialText: 'none',
    group: CLUSTER,
    help: "the namespace of the controller's own pod, for which it installs no rules",
    parse: namespace,
  }),
  podName: option({
    flag: 'pod-name',
    env: ['POD_NAME'],
    placeholder: 'name',
    initialText: 'none',
    group: CLUSTER,
    help: "the name of the controller's own pod",
    parse: objectName,
  }),
  enroll: option({
    flag: 'enroll',
    env: ['IPNC_ENROLL'],
    placeholder: 'what',
    initial: 'both',
    group: SCOPE,
    help: 'which pods get rules: annotation (istio-pod-network-controller/initialize), istio (injected, without an istio-init), or both',
    parse: choice('annotation', 'istio', 'both'),
  }),
  excludeNamespaces: option({
    flag: 'exclude-namespaces',
    env: ['IPNC_EXCLUDE_NAMESPACES'],
    placeholder: 'names',
    initial: 'kube-system',
    group: SCOPE,
    help: 'namespaces whose pods never get rules, whatever their annotations',
    parse: namespaces,
  }),
  defaultInboundPorts: option({
    flag: 'default-inbound-ports',
    env: ['IPNC_DEFAULT_INBOUND_PORTS'],
    placeholder: 'which',
    initial: '*',
    group: SCOPE,
    help: 'inbound ports of a pod that names none: "*", or declared, which means the ports that its containers declare',
    parse: choice('*', 'declared'),
  }),
  backend: option({
    flag: 'backend',
    env: ['IPNC_BACKEND'],
    placeholder: 'name',
    initial: 'auto',
    group: SCOPE,
    help: 'how rules are installed: auto, iptables-legacy or nftables',
    parse: choice('auto', 'iptables-legacy', 'nftables'),
  }),
  counters: option({
    flag: 'counters',
    env: ['IPNC_COUNTERS'],
    initial: 'false',
    group: SCOPE,
    help: 'whether nftables rules count packets; an install with counters takes a fifth longer',
    parse: boolean,
  }),
  marks: option({
    flag: 'marks',
    env: ['IPNC_MARKS'],
    placeholder: 'which',
    initial: 'all',
    group: SCOPE,
    help: 'which pods get annotations and a condition: all, or failures (pods that failed, and pods that wait for the mark)',
    parse: choice('all', 'failures'),
  }),
  resync: option({
    flag: 'resync',
    env: ['IPNC_RESYNC'],
    placeholder: 'duration',
    initial: '30s',
    group: SCOPE,
    help: 'how often the controller compares the rules of each pod with the planned rules',
    parse: duration('1s', '24h'),
  }),
  concurrency: option({
    flag: 'concurrency',
    env: ['IPNC_CONCURRENCY'],
    placeholder: 'number',
    initial: '8',
    group: SCOPE,
    help: 'how many pods the controller works on at the same time',
    parse: count(1, 256),
  }),
  criSocket: option({
    flag: 'cri-socket',
    env: ['IPNC_CRI_SOCKET'],
    placeholder: 'path',
    initialText: 'the first known socket that exists',
    group: NODE,
    help: 'the socket of the container runtime',
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
    help: `the source that reports new sandboxes before the API server does: auto, ${SOURCE_NAMES.join(', ')} or off`,
    parse: choice('auto', ...SOURCE_NAMES, 'off'),
  }),
  nriFailClosed: option({
    flag: 'nri-fail-closed',
    env: ['IPNC_NRI_FAIL_CLOSED'],
    initial: 'false',
    group: NODE,
    help: 'only with NRI: whether the runtime refuses the sandbox of a pod whose rules cannot be installed',
    parse: boolean,
  }),
  metricsAddress: option({
    flag: 'metrics-address',
    env: ['IPNC_METRICS_ADDRESS'],
    placeholder: 'address',
    initial: ':9464',
    group: SERVICE,
    help: 'the address that serves metrics and the list of pods, or off',
    parse: listen,
  }),
  healthAddress: option({
    flag: 'health-address',
    env: ['IPNC_HEALTH_ADDRESS'],
    placeholder: 'address',
    initial: ':9465',
    group: SERVICE,
    help: "the address that answers the kubelet's probes, or off",
    parse: listen,
  }),
  httpHosts: option({
    flag: 'http-hosts',
    env: ['IPNC_HTTP_HOSTS'],
    placeholder: 'names',
    initial: '',
    group: SERVICE,
    help: 'host names that clients may use for both addresses, in addition to IP addresses and localhost',
    parse: hostNames,
  }),
  logLevel: option({
    flag: 'log-level',
    env: ['IPNC_LOG_LEVEL'],
    placeholder: 'level',
    initial: 'info',
    group: SERVICE,
    help: 'the least severe level in the log: fatal, error, warn, info, debug or trace',
    parse: choice('fatal', 'error', 'warn', 'info', 'debug', 'trace'),
  }),
};

type RunKey = keyof typeof runOptions;

/** The keys and options of the table, in its order. */
export const runOptionList = Object.entries(runOptions) as [RunKey, RunOption][];

/** The type of each option's value. A value is undefined if the option has no default and was not given. */
export type RunValues = {
  [K in RunKey]: (typeof runOptions)[K] extends RunOption<infer T> ? T | Undefined<K> : never;
};
type Undefined<K extends RunKey> = K extends 'kubeconfig' | 'podNamespace' | 'podName' | 'criSocket'
  ? undefined
  : never;
