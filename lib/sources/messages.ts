/**
 * What is read of Kubernetes' objects in protobuf, as protobufjs' JSON: a field of trimPod or trimNamespace that is not
 * here is absent there, and whatever else an object has is skipped by its length.
 *
 * k8s.io/api/core/v1/generated.proto, k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto and
 * pkg/runtime/generated.proto; https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding
 */
import protobuf from 'protobufjs/light.js';

type FieldList = Record<string, [id: number, type: string, rule?: 'repeated' | 'map']>;

function message(list: FieldList) {
  const fields = Object.entries(list).map(([name, [id, type, rule]]) => [
    name,
    rule === 'map' ? { id, type, keyType: 'string' } : { id, type, ...(rule && { rule }) },
  ]);
  return { fields: Object.fromEntries(fields) };
}

const SCHEMA = protobuf.Root.fromJSON({
  nested: {
    // What is around each object, and around each of a watch.
    Unknown: message({ typeMeta: [1, 'TypeMeta'], raw: [2, 'bytes'] }),
    TypeMeta: message({ kind: [2, 'string'] }),
    WatchEvent: message({ type: [1, 'string'], object: [2, 'RawExtension'] }),
    RawExtension: message({ raw: [1, 'bytes'] }),

    Status: message({
      message: [3, 'string'],
      reason: [4, 'string'],
      details: [5, 'StatusDetails'],
      code: [6, 'int32'],
    }),
    StatusDetails: message({ retryAfterSeconds: [5, 'int32'] }),
    ObjectMeta: message({
      name: [1, 'string'],
      namespace: [3, 'string'],
      uid: [5, 'string'],
      resourceVersion: [6, 'string'],
      deletionTimestamp: [9, 'Time'],
      labels: [11, 'string', 'map'],
      annotations: [12, 'string', 'map'],
    }),
    Time: message({ seconds: [1, 'int64'] }),
    PartialObjectMetadata: message({ metadata: [1, 'ObjectMeta'] }),
    ListMeta: message({ resourceVersion: [2, 'string'], continue: [3, 'string'] }),
    NamespaceList: message({ metadata: [1, 'ListMeta'], items: [2, 'Namespace', 'repeated'] }),
    Namespace: message({ metadata: [1, 'ObjectMeta'] }),

    PodList: message({ metadata: [1, 'ListMeta'], items: [2, 'Pod', 'repeated'] }),
    Pod: message({ metadata: [1, 'ObjectMeta'], spec: [2, 'PodSpec'], status: [3, 'PodStatus'] }),
    PodSpec: message({
      containers: [2, 'Container', 'repeated'],
      nodeName: [10, 'string'],
      hostNetwork: [11, 'bool'],
      securityContext: [14, 'PodSecurityContext'],
      initContainers: [20, 'Container', 'repeated'],
      readinessGates: [28, 'PodReadinessGate', 'repeated'],
      hostUsers: [37, 'bool'],
    }),
    PodSecurityContext: message({ runAsUser: [2, 'int64'], runAsGroup: [6, 'int64'] }),
    PodReadinessGate: message({ conditionType: [1, 'string'] }),
    Container: message({
      name: [1, 'string'],
      command: [3, 'string', 'repeated'],
      args: [4, 'string', 'repeated'],
      ports: [6, 'ContainerPort', 'repeated'],
      env: [7, 'EnvVar', 'repeated'],
      securityContext: [15, 'SecurityContext'],
      restartPolicy: [24, 'string'],
    }),
    ContainerPort: message({ containerPort: [3, 'int32'], protocol: [4, 'string'] }),
    EnvVar: message({ name: [1, 'string'], value: [2, 'string'], valueFrom: [3, 'EnvVarSource'] }),
    EnvVarSource: message({}),
    SecurityContext: message({ runAsUser: [4, 'int64'], runAsGroup: [8, 'int64'] }),
    PodStatus: message({
      phase: [1, 'string'],
      conditions: [2, 'PodCondition', 'repeated'],
      podIPs: [12, 'PodIP', 'repeated'],
    }),
    PodCondition: message({
      type: [1, 'string'],
      status: [2, 'string'],
      reason: [5, 'string'],
      message: [6, 'string'],
    }),
    PodIP: message({ ip: [1, 'string'] }),
  },
});

/** Before each object. */
export const MAGIC = Buffer.from('k8s\0');
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

/** In the shape of its JSON, but for times. Throws SyntaxError where `bytes` are no object of a kind that is read here. */
export function decodeObject(bytes: Buffer): Record<string, unknown> {
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

/** What is absent stays undefined: `hostUsers` that is absent is not false. */
function decode(type: protobuf.Type, bytes: Buffer): Record<string, unknown> {
  try {
    return type.toObject(type.decode(bytes), { longs: Number });
  } catch (cause) {
    throw new SyntaxError(`no ${type.name} in protobuf: ${(cause as Error).message}`, { cause });
  }
}
