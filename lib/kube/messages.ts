/**
 * What is read of Kubernetes' objects in protobuf: a field of toPodRecord or toNamespaceRecord that is not here is absent there, and
 * whatever else an object has is skipped by its length.
 *
 * Nothing is decoded before it is asked for, and of a list or a map one element at a time: an object of 1.5 MB, which
 * whoever may create pods can have, would take ten times as much once all of it was decoded.
 *
 * k8s.io/api/core/v1/generated.proto, k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto and
 * pkg/runtime/generated.proto; https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding
 */
import protobuf from 'protobufjs/minimal.js';
import type { Fields } from '../protobuf.ts';

/** By name, the fields of each message: a type is another message, or one of SCALARS. */
export const MESSAGES: Readonly<Record<string, Fields>> = {
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
  Pod: { metadata: [1, 'ObjectMeta'], spec: [2, 'PodSpec'], status: [3, 'PodStatus'] },
  PodSpec: {
    containers: [2, 'Container', 'repeated'],
    hostNetwork: [11, 'bool'],
    securityContext: [14, 'PodSecurityContext'],
    initContainers: [20, 'Container', 'repeated'],
    readinessGates: [28, 'PodReadinessGate', 'repeated'],
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
    initContainerStatuses: [10, 'ContainerStatus', 'repeated'],
    podIPs: [12, 'PodIP', 'repeated'],
  },
  ContainerStatus: {
    name: [1, 'string'],
    state: [2, 'ContainerState'],
    lastState: [3, 'ContainerState'],
    restartCount: [5, 'int32'],
    containerID: [8, 'string'],
  },
  ContainerState: { terminated: [3, 'ContainerStateTerminated'] },
  ContainerStateTerminated: { exitCode: [1, 'int32'], message: [4, 'string'], finishedAt: [6, 'Time'] },
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
const OBJECTS = new Set(['Pod', 'Namespace', 'PartialObjectMetadata', 'Status']);
/** Of each kind of list: what its items are. */
const ITEMS = new Map([
  ['PodList', 'Pod'],
  ['NamespaceList', 'Namespace'],
]);
const VARINT = 0;
const LENGTH_DELIMITED = 2;
/** Of a kind, and of whatever else there is around a list. */
const MAX_ENVELOPE = 65_536;
/** As client-go's of a frame: apimachinery/pkg/runtime/serializer/streaming. */
export const MAX_OBJECT = 16 * 1024 * 1024;

type Reader = protobuf.Reader;

/** By the names that protobuf has for them. */
const SCALARS: Readonly<Record<string, { wireType: number; read: (reader: Reader) => unknown }>> = {
  string: { wireType: LENGTH_DELIMITED, read: (reader) => reader.string() },
  bytes: { wireType: LENGTH_DELIMITED, read: (reader) => reader.bytes() },
  bool: { wireType: VARINT, read: (reader) => reader.bool() },
  int32: { wireType: VARINT, read: (reader) => reader.int32() },
  int64: { wireType: VARINT, read: (reader) => toNumber(reader.int64()) },
};

/** A Long has two numbers of 32 bits; its way to one number by its text, which Number() takes, is a long one. */
function toNumber(value: ReturnType<Reader['int64']> | number): number {
  return typeof value === 'number' ? value : value.high * 2 ** 32 + value.low + (value.low < 0 ? 2 ** 32 : 0);
}

/**
 * Where the fields of a message are in the bytes of its reader. Of each field that is read, by its place in MESSAGES: where
 * the first is, with its tag, and where the last is, without; 0 where there is none.
 */
type Positions = number[];

interface MessageType {
  name: string;
  /** By a field's number. */
  fields: readonly ({ place: number; wireType: number } | undefined)[];
  /** How many places there are. */
  size: number;
  make: new (reader: Reader, positions: Positions) => Record<string, unknown>;
}

const TYPES = new Map(
  Object.entries(MESSAGES).map(([name, given]) => [name, messageType(name, Object.entries(given))]),
);

function messageType(name: string, given: [string, Fields[string]][]): MessageType {
  class Message {
    readonly reader: Reader;
    readonly positions: Positions;
    /** By place, the messages in it that were asked for. */
    readonly nested: unknown[] = [];
    constructor(reader: Reader, positions: Positions) {
      this.reader = reader;
      this.positions = positions;
    }
  }
  const fields: MessageType['fields'][number][] = [];
  for (const [place, [field, [id, type, rule]]] of given.entries()) {
    const scalar = SCALARS[type];
    fields[id] = { place, wireType: scalar?.wireType ?? LENGTH_DELIMITED };
    const read = rule === 'map' ? entry : (scalar?.read ?? ((reader: Reader) => decode(type, reader)));
    Object.defineProperty(Message.prototype, field, {
      get(this: Message) {
        const { reader, positions } = this;
        const lastAt = positions[2 * place + 1] as number;
        if (rule !== undefined) return new Elements(name, reader, positions[2 * place] as number, lastAt, id, read);
        if (lastAt === 0) return undefined;
        if (scalar === undefined && this.nested[place] !== undefined) return this.nested[place];
        reader.pos = lastAt;
        const value = read(reader);
        if (scalar === undefined) this.nested[place] = value;
        return value;
      },
    });
  }
  return { name, fields, size: given.length, make: Message as unknown as MessageType['make'] };
}

/** Reads the message that is next, with its length before it, as far as where its fields are. */
function decode(name: string, reader: Reader): Record<string, unknown> {
  const length = reader.uint32();
  return locate(TYPES.get(name) as MessageType, reader, reader.pos + length);
}

/** The same of all of `bytes`. */
function decodeAll(name: string, bytes: Buffer): Record<string, unknown> {
  return locate(TYPES.get(name) as MessageType, protobuf.Reader.create(bytes), bytes.length);
}

/** Every field is gone past by its length, so that what is inside `end` is known to be there. */
function locate({ name, fields, size, make: Message }: MessageType, reader: Reader, end: number) {
  const positions: Positions = new Array(2 * size).fill(0);
  try {
    while (reader.pos < end) {
      const at = reader.pos;
      const tag = reader.uint32();
      const field = fields[tag >>> 3];
      if (field !== undefined && field.wireType === (tag & 7)) {
        if (positions[2 * field.place + 1] === 0) positions[2 * field.place] = at;
        positions[2 * field.place + 1] = reader.pos;
      }
      reader.skipType(tag & 7);
    }
  } catch (error) {
    throw damaged(name, error);
  }
  if (reader.pos !== end) throw damaged(name, new RangeError('it ends after what it is in'));
  return new Message(reader, positions);
}

/** What a message has of one field, read anew each time that it is gone through. Throws SyntaxError on the way. */
class Elements implements Iterable<unknown> {
  readonly #name: string;
  readonly #reader: Reader;
  readonly #first: number;
  readonly #last: number;
  readonly #id: number;
  readonly #read: (reader: Reader) => unknown;

  constructor(
    name: string,
    reader: Reader,
    first: number,
    last: number,
    id: number,
    read: (reader: Reader) => unknown,
  ) {
    this.#name = name;
    this.#reader = reader;
    this.#first = first;
    this.#last = last;
    this.#id = id;
    this.#read = read;
  }

  *[Symbol.iterator](): Generator<unknown, void> {
    const reader = this.#reader;
    let at = this.#first;
    for (let valueAt = 0; valueAt < this.#last; ) {
      reader.pos = at;
      const tag = reader.uint32();
      valueAt = reader.pos;
      reader.skipType(tag & 7);
      at = reader.pos;
      if (tag >>> 3 !== this.#id || (tag & 7) !== LENGTH_DELIMITED) continue;
      reader.pos = valueAt;
      let element: unknown;
      try {
        element = this.#read(reader);
      } catch (error) {
        throw damaged(this.#name, error);
      }
      yield element;
    }
  }
}

/** Of a map of strings, `[key, value]`. */
function entry(reader: Reader): [string, string] {
  const end = reader.uint32() + reader.pos;
  let [key, value] = ['', ''];
  while (reader.pos < end) {
    const tag = reader.uint32();
    if (tag >>> 3 === 1) key = reader.string();
    else if (tag >>> 3 === 2) value = reader.string();
    else reader.skipType(tag & 7);
  }
  return [key, value];
}

function damaged(name: string, cause: unknown): SyntaxError {
  if (cause instanceof SyntaxError) return cause;
  return new SyntaxError(`no ${name} in protobuf: ${(cause as Error).message}`, { cause });
}

/**
 * In the shape of its JSON, but for times; what is absent is undefined, lists and maps are iterables, of a map of
 * `[key, value]`. Throws SyntaxError where `bytes` are no object of a kind that is read here; of what is inside the
 * object, when that is asked for. It reads from `bytes` as long as it is used.
 */
export function decodeObject(bytes: Buffer): unknown {
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) throw new SyntaxError('not an object of Kubernetes in protobuf');
  const { typeMeta, raw } = decodeAll('Unknown', bytes.subarray(MAGIC.length)) as {
    typeMeta?: { kind?: string };
    raw?: Buffer;
  };
  const kind = typeMeta?.kind ?? '';
  if (!OBJECTS.has(kind)) throw new SyntaxError(`an object of an unknown kind: "${kind}"`);
  if (raw === undefined) throw new SyntaxError(`nothing of a ${kind} but its kind`);
  return decodeAll(kind, raw);
}

/** Throws SyntaxError where `frame` is no event of a watch. */
export function decodeEvent(frame: Buffer): { type: string; object: unknown } {
  const { type = '', object } = decodeAll('WatchEvent', frame) as { type?: string; object?: { raw?: Buffer } };
  const raw = object?.raw;
  if (raw === undefined) throw new SyntaxError(`an event of a watch without an object: type "${type}"`);
  return { type, object: decodeObject(raw) };
}

/** How many bytes are wanted next, and whether none may come; or what was read. */
export type Step<T> = { need: number; mayEnd?: boolean } | { item: T };

export interface ListMeta {
  resourceVersion?: string;
  continue?: string;
}

/** Reads a list as it comes, one item at a time. Throws SyntaxError where it is none. */
export function* decodeList(): Generator<Step<unknown>, ListMeta, Buffer> {
  if (!(yield { need: MAGIC.length }).equals(MAGIC)) throw new SyntaxError('not a list of Kubernetes in protobuf');
  let itemType: string | undefined;
  let meta: ListMeta | undefined;
  for (;;) {
    const first = yield { need: 1, mayEnd: meta !== undefined };
    // All that was asked for has come, and no more.
    if (first.length === 0) return meta as ListMeta;
    const { value: tag } = yield* varint(first);
    if ((tag & 7) !== LENGTH_DELIMITED) throw new SyntaxError(`field ${tag >>> 3} around a list, of type ${tag & 7}`);
    const { value: length } = yield* varint();
    if (tag >>> 3 === 2 && itemType !== undefined) meta = yield* decodeItems(itemType, length);
    else if (length > MAX_ENVELOPE) throw new SyntaxError(`field ${tag >>> 3} around a list, of ${length} bytes`);
    else {
      const bytes = yield { need: length };
      if (tag >>> 3 !== 1) continue;
      const { kind = '' } = decodeAll('TypeMeta', bytes) as { kind?: string };
      itemType = ITEMS.get(kind);
      if (itemType === undefined) throw new SyntaxError(`a list of an unknown kind: "${kind}"`);
    }
  }
}

function* decodeItems(type: string, length: number): Generator<Step<unknown>, ListMeta, Buffer> {
  let meta: ListMeta = {};
  for (let left = length; left > 0; ) {
    const tag = yield* varint();
    const size = yield* varint();
    if ((tag.value & 7) !== LENGTH_DELIMITED) throw new SyntaxError(`a field of a list of type ${tag.value & 7}`);
    left -= tag.bytes + size.bytes + size.value;
    if (left < 0 || size.value > MAX_OBJECT) throw new SyntaxError(`an item of a list of ${size.value} bytes`);
    const bytes = yield { need: size.value };
    if (tag.value >>> 3 === 2) yield { item: decodeAll(type, bytes) };
    else if (tag.value >>> 3 === 1) meta = metaOf(decodeAll('ListMeta', bytes));
  }
  return meta;
}

/** A message of its own would go with the bytes that it reads from. */
function metaOf({ resourceVersion, continue: next }: ListMeta): ListMeta {
  return { ...(resourceVersion !== undefined && { resourceVersion }), ...(next !== undefined && { continue: next }) };
}

/** Of at most 32 bits. `first`: its first byte, where that has been read. */
function* varint(first?: Buffer): Generator<Step<never>, { value: number; bytes: number }, Buffer> {
  let value = 0;
  for (let bytes = 1; bytes <= 5; bytes++) {
    const [byte = 0] = bytes === 1 && first !== undefined ? first : yield { need: 1 };
    value += (byte & 0x7f) * 2 ** (7 * (bytes - 1));
    if (byte < 0x80) return { value, bytes };
  }
  throw new SyntaxError('a number of more than 32 bits in a list');
}
