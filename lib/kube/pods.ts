/**
 * What the controller keeps of the Pods and Namespaces it watches: of their fields those that are read, in the shape
 * that Kubernetes gives them (k8s.io/api/core/v1).
 */
import { isInit, PROXY } from '../istio/containers.ts';
import { BUILD, DEPLOYER, DISABLE_ENVOY, INITIALIZE, INJECT, INJECTED, isOwn } from '../istio/names.ts';
import { optionList } from '../istio/options.ts';
import type { Container, NamespaceRecord, PodRecord } from '../istio/pod.ts';
import { PROXY_VARIABLES } from '../istio/pod-sources.ts';

/** The kubelet's, on the mirror of a static pod: that it is one, and the pod's uid in the runtime. */
const MIRROR = 'kubernetes.io/config.mirror';
const CONFIG_HASH = 'kubernetes.io/config.hash';
const ANNOTATIONS = new Set([
  INITIALIZE,
  INJECT,
  DEPLOYER,
  BUILD,
  MIRROR,
  CONFIG_HASH,
  ...optionList.flatMap(([, { annotations = [] }]) => annotations),
]);
const LABELS = new Set([INJECT, DEPLOYER, BUILD]);
const PROXY_NAMES = new Set([...PROXY_VARIABLES, DISABLE_ENVOY]);
const INIT_NAMES = new Set(optionList.flatMap(([, { env = [] }]) => env));
const GATED_PROXY_NAMES = new Set([...PROXY_NAMES, ...INIT_NAMES]);
/** `proxy sidecar`, and what a wrapper may put before it; the rest of its arguments is Envoy's. */
const PROXY_WORDS = 4;

/**
 * `object` is a Pod as the API server sends it, `held` the same pod as it was kept before: Kubernetes lets nothing of a
 * spec change that is read here, so it is not read again. Throws TypeError if `object` is none.
 */
export function toPodRecord(object: unknown, held?: PodRecord): PodRecord {
  const pod = mapping(object);
  return {
    metadata: trimMetadata(mapping(pod.metadata)),
    // Of protobuf it is decoded when it is asked for.
    spec: held?.spec ?? trimSpec(mapping(pod.spec)),
    status: trimStatus(mapping(pod.status)),
  };
}

function trimMetadata(metadata: Record<string, unknown>): PodRecord['metadata'] {
  mustHave(metadata, 'Pod', ['name', 'uid']);
  const { deletionTimestamp } = metadata;
  const annotations = pick(metadata.annotations, (name) => ANNOTATIONS.has(name) || isOwn(name));
  if (mapping(metadata.annotations)[INJECTED] !== undefined) annotations[INJECTED] = '';
  return {
    uid: text(metadata.uid),
    namespace: text(metadata.namespace),
    name: text(metadata.name),
    resourceVersion: text(metadata.resourceVersion),
    ...(deletionTimestamp !== undefined && { deletionTimestamp: time(deletionTimestamp) }),
    labels: pick(metadata.labels, (name) => LABELS.has(name)),
    annotations,
  };
}

function trimSpec(spec: Record<string, unknown>): PodRecord['spec'] {
  return {
    nodeName: text(spec.nodeName),
    hostNetwork: spec.hostNetwork === true,
    hostUsers: spec.hostUsers !== false,
    ...securityContext(spec),
    ...readinessGates(spec),
    initContainers: sequence(spec.initContainers).map(trimContainer),
    containers: sequence(spec.containers).map(trimContainer),
  };
}

function trimStatus(status: Record<string, unknown>): PodRecord['status'] {
  return {
    phase: text(status.phase),
    podIPs: sequence(status.podIPs).map(({ ip }) => text(ip)),
    conditions: sequence(status.conditions)
      .filter(({ type }) => isOwn(text(type)))
      .map(({ type, status, reason, message }) => {
        return { type: text(type), status: text(status), reason: text(reason), message: text(message) };
      }),
  };
}

/** `object` is a Namespace as the API server sends it. Throws TypeError if it is none. */
export function toNamespaceRecord(object: unknown): NamespaceRecord {
  const metadata = mapping(mapping(object).metadata);
  mustHave(metadata, 'Namespace', ['name']);
  return {
    metadata: {
      name: text(metadata.name),
      resourceVersion: text(metadata.resourceVersion),
      annotations: pick(metadata.annotations, (name) => name === INITIALIZE),
    },
  };
}

/**
 * What a pod's sandbox has for a uid: a static pod's has a hash, which its mirror in the API has as an annotation.
 * https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/config/common.go (applyDefaults)
 */
export function runtimeUid({ uid, annotations }: { uid: string; annotations?: Record<string, string> }): string {
  const hash = annotations?.[MIRROR] === undefined ? undefined : annotations[CONFIG_HASH];
  // Whoever may make pods can write both: what has another pod's uid there would be taken for that pod.
  return hash !== undefined && /^[0-9a-f]{32}$/.test(hash) ? hash : uid;
}

function readinessGates(spec: Record<string, unknown>): Pick<PodRecord['spec'], 'readinessGates'> {
  const ours = sequence(spec.readinessGates)
    .map(({ conditionType }) => ({ conditionType: text(conditionType) }))
    .filter(({ conditionType }) => isOwn(conditionType));
  return ours.length === 0 ? {} : { readinessGates: ours };
}

function trimContainer(container: Record<string, unknown>): Container {
  const name = text(container.name);
  const ports = sequence(container.ports)
    .filter(({ protocol }) => !protocol || protocol === 'TCP')
    .map(({ containerPort }) => ({ containerPort: Number(containerPort) }));
  const command = words(container.command);
  const args = words(container.args);
  const isProxy = name === PROXY;
  // The gate in front of the proxy has the redirect flags in its command.
  const gated = isProxy && isInit({ name, command });
  return {
    name,
    ...(container.restartPolicy !== undefined && { restartPolicy: text(container.restartPolicy) }),
    ...(ports.length > 0 && { ports }),
    ...(isProxy && {
      command: gated ? command : command.slice(0, PROXY_WORDS),
      args: args.slice(0, PROXY_WORDS),
      env: variables(container.env, gated ? GATED_PROXY_NAMES : PROXY_NAMES),
      ...securityContext(container),
    }),
    ...(!isProxy && isInit({ name, command, args }) && { command, args, env: variables(container.env, INIT_NAMES) }),
  };
}

function variables(value: unknown, names: ReadonlySet<string>): NonNullable<Container['env']> {
  return sequence(value)
    .filter(({ name }) => names.has(text(name)))
    .map(({ name, value, valueFrom }) => ({
      name: text(name),
      value: text(value),
      ...(valueFrom !== undefined && { valueFrom: true }),
    }));
}

function securityContext(holder: Record<string, unknown>): Pick<Container, 'securityContext'> {
  const { runAsUser, runAsGroup } = mapping(holder.securityContext);
  if (runAsUser === undefined && runAsGroup === undefined) return {};
  return {
    securityContext: {
      ...(runAsUser !== undefined && { runAsUser: integer(runAsUser) }),
      ...(runAsGroup !== undefined && { runAsGroup: integer(runAsGroup) }),
    },
  };
}

function mustHave(metadata: Record<string, unknown>, kind: string, names: string[]): void {
  const missing = names.find((name) => typeof metadata[name] !== 'string');
  if (missing !== undefined) throw new TypeError(`not a ${kind}: it has no metadata.${missing}`);
}

function pick(value: unknown, wanted: (name: string) => boolean): Record<string, string> {
  const picked: Record<string, string> = {};
  for (const [name, item] of Object.entries(mapping(value))) if (wanted(name)) picked[name] = text(item);
  return picked;
}

function mapping(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

function sequence(value: unknown): Record<string, unknown>[] {
  return Array.isArray(value) ? value.map(mapping) : [];
}

function words(value: unknown): string[] {
  return Array.isArray(value) ? value.map(text) : [];
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/** Of protobuf it is a Long, whose way to a number by its text is a long one. */
function integer(value: unknown): number {
  return typeof value === 'object' && value !== null ? (value as { toNumber(): number }).toNumber() : Number(value);
}

/** Of JSON it is RFC 3339 already; of protobuf it is seconds since 1970. */
function time(value: unknown): string {
  const { seconds } = mapping(value);
  return seconds !== undefined ? new Date(integer(seconds) * 1000).toISOString().replace('.000Z', 'Z') : text(value);
}
