/**
 * What is read of Kubernetes' objects in protobuf: a field of toPodRecord or toNamespaceRecord that is not here is absent there, and
 * whatever else an object has is skipped by its length.
 *
 * k8s.io/api/core/v1/generated.proto, k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto and
 * pkg/runtime/generated.proto; https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding
 */
import type protobuf from 'protobufjs/light.js';
import { compileSchema, type Fields, type Rule } from '../protobuf.ts';

/** late: bytes until it is asked for, and decoded each time, since of most events it never is. */
type LazyFields = Record<string, readonly [id: number, type: string, rule?: Rule | 'late']>;

const MESSAGES: Record<string, LazyFields> = {
  // What is around each object, and around each of a watch.
  Unknown: { typeMeta: [1, 'TypeMeta'], raw: [2, 'bytes'] },
  TypeMeta: { kind: [2, 'string'] },
  WatchEvent: { type: [1, 'string'], object: [2, 'RawExtension'] },
  RawExtension: { raw: [1, 'bytes'] },

  Status: {
    message: [3, 'string'],
    reason: [4, 'string'],
    details: [5, 'StatusDetails'],
    code: [6, 'int32'],
  },
  StatusDetails: { retryAfterSeconds: [5, 'int32'] },
  ObjectMeta: {
    name: [1, 'string'],
    namespace: [3, 'string'],
    uid: [5, 'string'],
    resourceVersion: [6, 'string'],
    deletionTimestamp: [9, 'Time'],
    labels: [11, 'string', 'map'],
    annotations: [12, 'string', 'map'],
  },
  Time: { seconds: [1, 'int64'] },
  PartialObjectMetadata: { metadata: [1, 'ObjectMeta'] },
  ListMeta: { resourceVersion: [2, 'string'], continue: [3, 'string'] },
  NamespaceList: { metadata: [1, 'ListMeta'], items: [2, 'Namespace', 'repeated'] },
  Namespace: { metadata: [1, 'ObjectMeta'] },

  PodList: { metadata: [1, 'ListMeta'], items: [2, 'Pod', 'repeated'] },
  Pod: { metadata: [1, 'ObjectMeta'], spec: [2, 'PodSpec', 'late'], status: [3, 'PodStatus', 'late'] },
  PodSpec: {
    containers: [2, 'Container', 'repeated'],
    nodeName: [10, 'string'],
    hostNetwork: [11, 'bool'],
    securityContext: [14, 'PodSecurityContext'],
    initContainers: [20, 'Container', 'repeated'],
    readinessGates: [28, 'PodReadinessGate', 'repeated'],
    hostUsers: [37, 'bool'],
  },
  PodSecurityContext: { runAsUser: [2, 'int64'], runAsGroup: [6, 'int64'] },
  PodReadinessGate: { conditionType: [1, 'string'] },
  Container: {
    name: [1, 'string'],
    command: [3, 'string', 'repeated'],
    args: [4, 'string', 'repeated'],
    ports: [6, 'ContainerPort', 'repeated'],
    env: [7, 'EnvVar', 'repeated'],
    securityContext: [15, 'SecurityContext'],
    restartPolicy: [24, 'string'],
  },
  ContainerPort: { containerPort: [3, 'int32'], protocol: [4, 'string'] },
  EnvVar: { name: [1, 'string'], value: [2, 'string'], valueFrom: [3, 'EnvVarSource'] },
  EnvVarSource: {},
  SecurityContext: { runAsUser: [4, 'int64'], runAsGroup: [8, 'int64'] },
  PodStatus: {
    phase: [1, 'string'],
    conditions: [2, 'PodCondition', 'repeated'],
    podIPs: [12, 'PodIP', 'repeated'],
  },
  PodCondition: {
    type: [1, 'string'],
    status: [2, 'string'],
    reason: [5, 'string'],
    message: [6, 'string'],
  },
  PodIP: { ip: [1, 'string'] },
};

/** Before each object. */
export const MAGIC = Buffer.from('k8s\0');
const SCHEMA = schema();
const KINDS = new Map(
  ['Pod', 'PodList', 'Namespace', 'NamespaceList', 'PartialObjectMetadata', 'Status'].map((kind) => [
    kind,
    messageType(kind),
  ]),
);
const UNKNOWN = messageType('Unknown');
const WATCH_EVENT = messageType('WatchEvent');

export function messageType(name: string): protobuf.Type {
  return SCHEMA.lookupType(name);
}

/** Of a message what is absent is undefined, since no `hostUsers` is not false; a list or a map is empty. */
function schema(): protobuf.Root {
  const eager = Object.entries(MESSAGES).map(([name, list]) => {
    const fields = Object.entries(list).map(([field, [id, type, rule]]): [string, Fields[string]] =>
      rule === 'late' ? [bytesOf(field), [id, 'bytes']] : [field, rule === undefined ? [id, type] : [id, type, rule]],
    );
    return [name, Object.fromEntries(fields)];
  });
  const root = compileSchema(Object.fromEntries(eager));
  for (const [name, list] of Object.entries(MESSAGES)) {
    const prototype = root.lookupType(name).ctor.prototype as Record<string, unknown>;
    for (const [field, [, type, rule]] of Object.entries(list)) {
      prototype[rule === 'late' ? bytesOf(field) : field] = undefined;
      if (rule === 'late') defineLate(prototype, field, root.lookupType(type));
    }
  }
  return root;
}

function defineLate(prototype: object, field: string, type: protobuf.Type): void {
  Object.defineProperty(prototype, field, {
    get(this: Record<string, Buffer | undefined>) {
      const bytes = this[bytesOf(field)];
      return bytes && decode(type, bytes);
    },
  });
}

/** The name of a late field's bytes. */
export function bytesOf(field: string): string {
  return `${field}Bytes`;
}

/**
 * In the shape of its JSON, but for times and numbers of 64 bits (Long); what is absent is undefined, or an empty list or map. Throws
 * SyntaxError where `bytes` are no object of a kind that is read here; of a pod its spec and status do when they are asked
 * for.
 */
export function decodeObject(bytes: Buffer): unknown {
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) throw new SyntaxError('not an object of Kubernetes in protobuf');
  const { typeMeta, raw } = decode(UNKNOWN, bytes.subarray(MAGIC.length)) as {
    typeMeta?: { kind?: string };
    raw?: Buffer;
  };
  const kind = typeMeta?.kind ?? '';
  const type = KINDS.get(kind);
  if (type === undefined) throw new SyntaxError(`an object of an unknown kind: "${kind}"`);
  if (raw === undefined) throw new SyntaxError(`nothing of a ${kind} but its kind`);
  return decode(type, raw);
}

/** Throws SyntaxError where `frame` is no event of a watch. */
export function decodeEvent(frame: Buffer): { type: string; object: unknown } {
  const { type = '', object } = decode(WATCH_EVENT, frame) as { type?: string; object?: { raw?: Buffer } };
  if (object?.raw === undefined) throw new SyntaxError(`an event of a watch without an object: type "${type}"`);
  return { type, object: decodeObject(object.raw) };
}

function decode(type: protobuf.Type, bytes: Buffer): unknown {
  try {
    return type.decode(bytes);
  } catch (cause) {
    throw new SyntaxError(`no ${type.name} in protobuf: ${(cause as Error).message}`, { cause });
  }
}
