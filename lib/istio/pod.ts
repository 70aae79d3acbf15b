/** The types of a Pod, and a reader of Pods from files. */
import { parseAllDocuments } from 'yaml';
import { ConfigError, printable } from '../errors.ts';

/** The fields of a Pod that are used here (k8s.io/api/core/v1). */
export interface Pod {
  metadata?: { annotations?: Record<string, string> };
  spec?: {
    securityContext?: Ids;
    initContainers?: Container[];
    containers?: Container[];
  };
}

interface Ids {
  runAsUser?: number;
  runAsGroup?: number;
}

export interface Container {
  name?: string;
  /** `Always` makes a native sidecar of an init container. */
  restartPolicy?: string;
  command?: string[];
  args?: string[];
  env?: { name?: string; value?: string; valueFrom?: unknown }[];
  ports?: { containerPort?: number; protocol?: string }[];
  securityContext?: Ids;
}

/**
 * What the controller keeps of a pod. The informer makes it from what the API server sends; each later stage reads only
 * this.
 */
export interface PodRecord extends Pod {
  metadata: {
    uid: string;
    /** The uid that the container runtime knows the pod by: a static pod has another one there than in the API. */
    runtimeUid: string;
    namespace: string;
    name: string;
    resourceVersion: string;
    deletionTimestamp?: string;
    labels: Record<string, string>;
    annotations: Record<string, string>;
    /** The annotations that the controller itself writes; `annotations` does not have them. */
    marks: Record<string, string>;
    /** The name of an annotation that is too large to keep, so that the pod's configuration is unknown. */
    tooLarge?: string;
  };
  spec: NonNullable<Pod['spec']> & {
    hostNetwork: boolean;
    /** Only this project's gate; absent if the pod does not have it. */
    readinessGates?: { conditionType: string }[];
    /**
     * Those that are read: the proxy, those that say what is to be redirected, the first of each uid and gid, and a last
     * one with the ports of all others.
     */
    initContainers: Container[];
    containers: Container[];
    /** The init container after which capture begins, see initBeforeGate(); absent if it begins at once. */
    captureAfter?: string;
    /** The container that is too large to be kept. */
    tooLarge?: string;
  };
  status: {
    phase: string;
    podIPs: string[];
    /** Only this project's condition. */
    conditions: Condition[];
    /** How the container that waits for the rules ended before its latest start. */
    gateEnd?: GateEnd;
    /** The container `captureAfter`, once it has been started. */
    initBefore?: InitBefore;
  };
}

export interface InitBefore {
  /** Of the container's latest instance. */
  id: string;
  /** It has ended well, so the gate is the next container to start. */
  ended: boolean;
}

/**
 * Characters of redirect options that are kept of a pod's annotations, and as many of its spec. Whoever may create pods
 * chooses how long they are, and a node has hundreds of pods. A pod with longer options is refused.
 */
export const MOST_KEPT = 32_768;

/** Throws ConfigError if the record lacks some of the pod's redirect options, because they are too long. */
export function mustBeWhole({ metadata, spec }: PodRecord): void {
  const place = metadata.tooLarge ?? spec.tooLarge;
  if (place === undefined) return;
  const part = place === metadata.tooLarge ? 'annotations' : 'containers';
  const wrong = `the redirect options of the pod's ${part} are too long`;
  throw new ConfigError(place, undefined, wrong, `at most ${MOST_KEPT} characters in all`);
}

export interface GateEnd {
  exitCode: number;
  /** Whether the container left a message. The gate leaves one, and the proxy that it becomes does not. */
  message: boolean;
  /** How often the kubelet has restarted the container. */
  restarts: number;
  /** Milliseconds since 1970, with the resolution of a second. */
  at: number;
}

export interface Condition {
  type: string;
  status: string;
  reason: string;
  message: string;
}

export interface NamespaceRecord {
  metadata: { name: string; resourceVersion: string; annotations: Record<string, string> };
}

/** The largest object that etcd stores (etcd: --max-request-bytes). */
const MAX_POD_BYTES = 1_572_864;

/** Reads one Pod from YAML or JSON. `field` names the file in messages. */
export function readPod(text: string, field: string): Pod {
  if (Buffer.byteLength(text) > MAX_POD_BYTES) {
    throw new ConfigError(field, undefined, 'larger than the API server accepts', `at most ${MAX_POD_BYTES} bytes`);
  }
  let documents: unknown[];
  try {
    documents = parseAllDocuments(text, { logLevel: 'silent' }).map((document) => {
      const [error] = document.errors;
      if (error !== undefined) throw error;
      return document.toJS() as unknown;
    });
  } catch (error) {
    const [first = ''] = (error instanceof Error ? error.message : String(error)).split('\n');
    throw new ConfigError(field, undefined, `neither YAML nor JSON: ${printable(first).slice(0, 120)}`, 'one Pod');
  }
  const [pod, ...more] = documents;
  if (documents.length === 0 || pod === null) throw new ConfigError(field, undefined, 'empty', 'one Pod');
  if (more.length > 0) {
    throw new ConfigError(field, undefined, `${documents.length} documents`, 'one Pod');
  }
  if (!isObject(pod)) throw new ConfigError(field, undefined, 'not a mapping', 'a Pod');
  if (pod.kind !== 'Pod') {
    const kind = pod.kind === undefined ? undefined : String(pod.kind);
    throw new ConfigError(`${field} kind`, kind, kind === undefined ? 'missing' : 'another kind', 'Pod');
  }
  check(pod, field);
  return pod as Pod;
}

/** The API server has checked a Pod that comes from it; a file may hold anything. */
function check(pod: Record<string, unknown>, field: string): void {
  const metadata = object(pod.metadata, `${field} metadata`);
  const annotations = object(metadata?.annotations, `${field} metadata.annotations`);
  for (const [key, value] of Object.entries(annotations ?? {})) {
    if (typeof value !== 'string') {
      throw new ConfigError(
        `${field} annotation ${printable(key)}`,
        JSON.stringify(value),
        'not a string',
        'a string in quotes',
      );
    }
  }
  const spec = object(pod.spec, `${field} spec`);
  ids(spec?.securityContext, `${field} spec.securityContext`);
  for (const kind of ['initContainers', 'containers']) {
    for (const [at, entry] of list(spec?.[kind], `${field} spec.${kind}`).entries()) {
      const path = `${field} spec.${kind}[${at}]`;
      const container = object(entry, path) ?? {};
      ids(container.securityContext, `${path}.securityContext`);
      for (const words of ['command', 'args']) {
        for (const word of list(container[words], `${path}.${words}`)) {
          if (typeof word !== 'string') {
            throw new ConfigError(`${path}.${words}`, JSON.stringify(word), 'not a string', 'a string in quotes');
          }
        }
      }
      for (const [index, entry] of list(container.env, `${path}.env`).entries()) {
        const variable = object(entry, `${path}.env[${index}]`);
        if (variable?.value !== undefined && typeof variable.value !== 'string') {
          throw new ConfigError(
            `${path}.env[${index}].value`,
            JSON.stringify(variable.value),
            'not a string',
            'a string in quotes',
          );
        }
      }
    }
  }
}

function ids(value: unknown, path: string): void {
  const context = object(value, path);
  for (const name of ['runAsUser', 'runAsGroup']) {
    const id = context?.[name];
    if (id !== undefined && id !== null && !(Number.isInteger(id) && Number(id) >= 0)) {
      throw new ConfigError(`${path}.${name}`, JSON.stringify(id), 'not a numeric id', 'a number from 0');
    }
  }
}

function object(value: unknown, path: string): Record<string, unknown> | undefined {
  if (value === undefined || value === null) return undefined;
  if (!isObject(value)) throw new ConfigError(path, JSON.stringify(value), 'has the wrong type', 'a mapping');
  return value;
}

function list(value: unknown, path: string): unknown[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw new ConfigError(path, JSON.stringify(value), 'has the wrong type', 'a list');
  return value;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
