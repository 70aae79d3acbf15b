/**
 * Trims the Pods and Namespaces that the controller watches to the fields that it reads. They keep the shape that
 * Kubernetes gives them (k8s.io/api/core/v1).
 */
import {
  END_OF_GATE,
  GATE,
  initBeforeGate,
  isGate,
  isInit,
  mayWait,
  OWN_INIT,
  PROXY,
  programWords,
  type Words,
} from '../istio/containers.ts';
import { BUILD, DEPLOYER, DISABLE_ENVOY, INITIALIZE, INJECT, INJECTED, NETNS, RULES, STATUS } from '../istio/names.ts';
import { annotationNames, isUnknownOption, optionList, UNKNOWN } from '../istio/options.ts';
import { type Condition, type Container, MOST_KEPT, type NamespaceRecord, type PodRecord } from '../istio/pod.ts';
import { PROXY_VARIABLES } from '../istio/pod-sources.ts';
import { MAX_LIST } from '../options/values.ts';
import { elementsOf, entriesOf } from './encoding.ts';
import { cut, READY } from './status.ts';

/** Annotations of the kubelet on the mirror of a static pod: that it is a mirror, and the pod's uid in the runtime. */
const MIRROR = 'kubernetes.io/config.mirror';
const CONFIG_HASH = 'kubernetes.io/config.hash';
/** Annotations with short values. A longer value is invalid in any case, so it is not kept. */
const SHORT = new Set([INITIALIZE, INJECT, DEPLOYER, BUILD]);
const STATIC = new Set([MIRROR, CONFIG_HASH]);
const MARKS = new Set([STATUS, NETNS, RULES]);
const OPTIONS = new Set(annotationNames);
const LABELS = new Set([INJECT, DEPLOYER, BUILD]);
const PROXY_NAMES = new Set([...PROXY_VARIABLES, DISABLE_ENVOY]);
const INIT_NAMES = new Set(optionList.flatMap(([, { env = [] }]) => env));
const GATED_PROXY_NAMES = new Set([...PROXY_NAMES, ...INIT_NAMES]);
/** Enough for `proxy sidecar` and the words of a wrapper before it. The other arguments are for Envoy. */
const PROXY_WORDS = 4;
/** A pod has one address of each family. */
const MOST_ADDRESSES = 16;

/** Uids and gids of containers that are kept: a pod has a handful. */
const MOST_USERS = 16;

/** Counted beside the characters of each, since an object has room of its own. */
const OVERHEAD = 32;

/** The room that is left for the redirect options of a part of a pod. */
class Room {
  #left = MOST_KEPT;
  /** The first entry for which no room was left. */
  tooLarge: string | undefined;

  /** Takes the room for `text`, and returns whether there was enough. `place` is its name in messages. */
  take(text: string, place: string): boolean {
    this.#left -= text.length + OVERHEAD;
    if (this.#left < 0) this.tooLarge ??= place;
    return this.#left >= 0;
  }
}

/**
 * `object` is a Pod as the API server sends it, and `held` is what was kept of the same pod before. Kubernetes permits
 * no change of the fields of a spec that are read here, so they are not read again. The fields that decide about
 * enrolment are always kept. If there is no room for the redirect options, they are dropped, and `tooLarge` names the
 * reason. Throws TypeError if `object` is not a Pod.
 */
export function toPodRecord(object: unknown, held?: PodRecord): PodRecord {
  const pod = mapping(object);
  // Of protobuf it is decoded when it is asked for.
  const spec = held?.spec ?? trimSpec(mapping(pod.spec));
  return {
    metadata: trimMetadata(mapping(pod.metadata)),
    spec,
    status: trimStatus(mapping(pod.status), spec.captureAfter),
  };
}

function trimMetadata(metadata: Record<string, unknown>): PodRecord['metadata'] {
  mustHave(metadata, 'Pod', ['name', 'uid']);
  const { deletionTimestamp } = metadata;
  const room = new Room();
  const annotations: Record<string, string> = {};
  const marks: Record<string, string> = {};
  const ofStatic: Record<string, string> = {};
  let unknown = 0;
  for (const [name, value] of entriesOf(metadata.annotations)) {
    if (name === INJECTED) annotations[name] = '';
    else if (SHORT.has(name)) annotations[name] = short(value);
    else if (STATIC.has(name)) ofStatic[name] = short(value);
    else if (MARKS.has(name)) marks[name] = short(value);
    else if (OPTIONS.has(name) && room.take(text(value), `annotation ${name}`)) annotations[name] = text(value);
    else if (isUnknownOption(name) && unknown++ < UNKNOWN.most) annotations[name] = '';
  }
  const uid = text(metadata.uid);
  return {
    uid,
    runtimeUid: runtimeUid(uid, ofStatic),
    namespace: text(metadata.namespace),
    name: text(metadata.name),
    resourceVersion: text(metadata.resourceVersion),
    ...(deletionTimestamp !== undefined && { deletionTimestamp: time(deletionTimestamp) }),
    labels: pick(metadata.labels, LABELS),
    annotations,
    marks,
    ...(room.tooLarge !== undefined && { tooLarge: room.tooLarge }),
  };
}

function trimSpec(spec: Record<string, unknown>): PodRecord['spec'] {
  const room = new Room();
  const ports = new Set<number>();
  const initContainers: Container[] = [];
  const containers: Container[] = [];
  for (const each of elementsOf(spec.initContainers)) {
    const container = mapping(each);
    initContainers.push(...trimProxy(container, room), ...trimInit(container, room));
    if (container.restartPolicy === 'Always') addPorts(ports, container);
  }
  const users = new Map<string, Container>();
  for (const each of elementsOf(spec.containers)) {
    const container = mapping(each);
    containers.push(...trimProxy(container, room));
    addPorts(ports, container);
    addUser(users, container);
  }
  const captureAfter = initBeforeGate(named(spec.initContainers));
  // The pod's own ids count where a container names none.
  const { securityContext: ofPod } = securityContext(spec);
  containers.push(...[...users.values()].filter(({ securityContext }) => (securityContext ?? ofPod) !== undefined));
  // Whose they are does not matter.
  if (ports.size > 0) containers.push({ ports: Array.from(ports, (containerPort) => ({ containerPort })) });
  return {
    hostNetwork: spec.hostNetwork === true,
    ...securityContext(spec),
    ...readinessGates(spec),
    initContainers,
    containers,
    ...(captureAfter !== undefined && { captureAfter }),
    ...(room.tooLarge !== undefined && { tooLarge: room.tooLarge }),
  };
}

/** What says which container each is. */
function* named(containers: unknown) {
  for (const each of elementsOf(containers)) {
    const { name, command, args, restartPolicy } = mapping(each);
    yield { name: short(name), command: wordsOf(command), args: wordsOf(args), restartPolicy };
  }
}

function trimStatus(status: Record<string, unknown>, captureAfter: string | undefined): PodRecord['status'] {
  const conditions: Condition[] = [];
  for (const each of elementsOf(status.conditions)) {
    const condition = mapping(each);
    if (condition.type !== READY) continue;
    const { status: state, reason, message } = condition;
    conditions.push({ type: READY, status: short(state), reason: short(reason), message: short(message) });
    break;
  }
  const addresses = first(elementsOf(status.podIPs), MOST_ADDRESSES);
  return {
    phase: text(status.phase),
    podIPs: addresses.map((address) => short(mapping(address).ip)),
    conditions,
    ...gateEnd(status.initContainerStatuses),
    ...(captureAfter !== undefined && initBefore(status.initContainerStatuses, captureAfter)),
  };
}

function initBefore(statuses: unknown, captureAfter: string): Pick<PodRecord['status'], 'initBefore'> {
  for (const each of elementsOf(statuses)) {
    const { name, state, containerID } = mapping(each);
    if (name !== captureAfter) continue;
    const { terminated } = mapping(state);
    const ended = terminated !== undefined && Number(mapping(terminated).exitCode ?? 0) === 0;
    const id = short(containerID);
    return id === '' ? {} : { initBefore: { id, ended } };
  }
  return {};
}

/** Of the first container that may wait and that has ended once. */
function gateEnd(statuses: unknown): Pick<PodRecord['status'], 'gateEnd'> {
  for (const each of elementsOf(statuses)) {
    const { name, lastState, restartCount } = mapping(each);
    if (!mayWait(text(name))) continue;
    const { terminated } = mapping(lastState);
    if (terminated === undefined) continue;
    const { exitCode, message, finishedAt } = mapping(terminated);
    return {
      gateEnd: {
        exitCode: Number(exitCode ?? 0),
        message: text(message) !== '',
        restarts: Number(restartCount ?? 0),
        at: Date.parse(time(finishedAt)),
      },
    };
  }
  return {};
}

/** `object` is a Namespace as the API server sends it. Throws TypeError if it is none. */
export function toNamespaceRecord(object: unknown): NamespaceRecord {
  const metadata = mapping(mapping(object).metadata);
  mustHave(metadata, 'Namespace', ['name']);
  return {
    metadata: {
      name: text(metadata.name),
      resourceVersion: text(metadata.resourceVersion),
      annotations: pick(metadata.annotations, new Set([INITIALIZE])),
    },
  };
}

/**
 * The runtime knows a static pod by a hash, which the pod's mirror in the API has as an annotation.
 * https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/config/common.go (applyDefaults)
 */
function runtimeUid(uid: string, annotations: Record<string, string>): string {
  const hash = annotations[MIRROR] === undefined ? undefined : annotations[CONFIG_HASH];
  // A pod's creator can write both annotations, so the uid of another pod in them must not lead to that pod's netns.
  return hash !== undefined && /^[0-9a-f]{32}$/.test(hash) ? hash : uid;
}

function readinessGates(spec: Record<string, unknown>): Pick<PodRecord['spec'], 'readinessGates'> {
  for (const gate of elementsOf(spec.readinessGates)) {
    if (mapping(gate).conditionType === READY) return { readinessGates: [{ conditionType: READY }] };
  }
  return {};
}

/** The first container of each uid and gid that containers run as, up to MOST_USERS. */
function addUser(users: Map<string, Container>, container: Record<string, unknown>): void {
  if (container.name === PROXY) return;
  const ids = securityContext(container);
  const key = JSON.stringify(ids);
  if (!users.has(key) && users.size < MOST_USERS) users.set(key, { name: short(container.name), ...ids });
}

function trimProxy(container: Record<string, unknown>, room: Room): Container[] {
  if (container.name !== PROXY) return [];
  const command = wordsOf(container.command);
  const ids = securityContext(container);
  // The gate in front of the proxy has the redirect flags in its command.
  const gated = isInit({ name: PROXY, command });
  if (gated) {
    const kept = {
      command: takeWords(room, PROXY, command),
      args: first(wordsOf(container.args), PROXY_WORDS).map(short),
    };
    const env = takeVariables(room, PROXY, container.env, GATED_PROXY_NAMES);
    if (room.tooLarge === undefined) return [{ name: PROXY, ...kept, env, ...ids }];
  }
  const program = gated ? programWords({ command, args: wordsOf(container.args) }) : command;
  return [
    {
      name: PROXY,
      command: [...(gated ? [GATE, END_OF_GATE] : []), ...first(program, PROXY_WORDS).map(short)],
      args: first(wordsOf(container.args), PROXY_WORDS).map(short),
      env: variables(container.env, PROXY_NAMES, short),
      ...ids,
    },
  ];
}

/** A container that waits for the rules, or that has redirect settings. */
function trimInit(container: Record<string, unknown>, room: Room): Container[] {
  const name = text(container.name);
  const whole = { name, command: wordsOf(container.command), args: wordsOf(container.args) };
  if (name === PROXY || !isInit(whole)) return [];
  const kept = { command: takeWords(room, name, whole.command), args: takeWords(room, name, whole.args) };
  const env = takeVariables(room, name, container.env, INIT_NAMES);
  if (room.tooLarge === undefined) return [{ name, ...kept, env }];
  // Whether the pod writes its rules by itself is known all the same.
  return name === OWN_INIT ? [{ name, args: isGate(whole) ? [GATE] : [] }] : [];
}

/** The entries for which there is room. */
function takeWords(room: Room, container: string, words: Words): string[] {
  const kept: string[] = [];
  for (const word of words) {
    if (!room.take(word, `container ${container}`)) break;
    kept.push(word);
  }
  return kept;
}

function takeVariables(room: Room, container: string, list: unknown, names: ReadonlySet<string>) {
  const kept = variables(list, names, text);
  return kept.filter(({ value = '' }) => room.take(value, `container ${container}`));
}

/** The TCP ports that a container declares, at most one more than a list may have, which leads to its refusal. */
function addPorts(found: Set<number>, { name, ports }: Record<string, unknown>): void {
  if (name === PROXY) return;
  for (const each of elementsOf(ports)) {
    if (found.size > MAX_LIST) return;
    const { containerPort, protocol } = mapping(each);
    if (!protocol || protocol === 'TCP') found.add(Number(containerPort));
  }
}

/** If a name occurs twice, the last one counts, as in the container. */
function variables(
  list: unknown,
  names: ReadonlySet<string>,
  keep: (value: unknown) => string,
): NonNullable<Container['env']> {
  const found = new Map<string, NonNullable<Container['env']>[number]>();
  for (const each of elementsOf(list)) {
    const variable = mapping(each);
    const name = text(variable.name);
    if (!names.has(name)) continue;
    const value = keep(variable.value);
    found.set(name, variable.valueFrom === undefined ? { name, value } : { name, value, valueFrom: true });
  }
  return [...found.values()];
}

function securityContext(holder: Record<string, unknown>): Pick<Container, 'securityContext'> {
  const { runAsUser, runAsGroup } = mapping(holder.securityContext);
  if (runAsUser === undefined && runAsGroup === undefined) return {};
  return {
    securityContext: {
      ...(runAsUser !== undefined && { runAsUser: Number(runAsUser) }),
      ...(runAsGroup !== undefined && { runAsGroup: Number(runAsGroup) }),
    },
  };
}

function mustHave(metadata: Record<string, unknown>, kind: string, names: string[]): void {
  const missing = names.find((name) => typeof metadata[name] !== 'string');
  if (missing !== undefined) throw new TypeError(`not a ${kind}: it has no metadata.${missing}`);
}

function pick(value: unknown, wanted: ReadonlySet<string>): Record<string, string> {
  const picked: Record<string, string> = {};
  for (const [name, item] of entriesOf(value)) if (wanted.has(name)) picked[name] = short(item);
  return picked;
}

function mapping(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

function wordsOf(value: unknown): Words {
  return elementsOf(value) as Words;
}

function first(items: Iterable<unknown>, most: number): unknown[] {
  const found: unknown[] = [];
  for (const item of items) if (found.push(item) === most) break;
  return found;
}

/** The text if it is short; a longer text has no meaning. */
function short(value: unknown): string {
  return cut(text(value));
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/** Of JSON it is RFC 3339 already; of protobuf it is seconds since 1970. */
function time(value: unknown): string {
  const { seconds } = mapping(value);
  return seconds !== undefined ? new Date(Number(seconds) * 1000).toISOString().replace('.000Z', 'Z') : text(value);
}
