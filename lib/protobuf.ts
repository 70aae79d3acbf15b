/**
 * Protobuf messages by reflection (protobufjs). A schema is an object in the code: nothing is generated, and a bundle
 * needs no files.
 */
import protobuf from 'protobufjs/light.js';

/** The wire type of texts, bytes and messages. */
const LENGTH_DELIMITED = 2;

/** A map's keys are strings. */
export type Rule = 'repeated' | 'map';

/** Fields by name. `type` is a scalar type of protobuf, or the name of another message or enum of the schema. */
export type Fields = Record<string, readonly [id: number, type: string, rule?: Rule]>;

/** Messages and enums by name. An enum is the list of its names; their numbers count from 0. */
export type Schema = Record<string, Fields | readonly string[]>;

/** Turns a message into bytes and back. */
export interface Codec<Message> {
  /** Omits what is undefined, and what is not in the schema. */
  encode(message: Message): Buffer;
  /**
   * Skips unknown fields. Numbers of 64 bits and enums become strings, and a missing field gets its default value: null
   * for a message. Throws Error if the bytes are not such a message, or have more than MOST_FIELDS known fields.
   */
  decode(bytes: Uint8Array): Message;
}

/**
 * An empty message in a list has two bytes, and takes a hundred times as much memory once it is decoded. The largest
 * message that is expected is a list of a thousand sandboxes with ten fields each.
 */
const MOST_FIELDS = 65_536;

export function compileSchema(schema: Schema): protobuf.Root {
  const nested = Object.entries(schema).map(([name, definition]) => [
    name,
    isEnum(definition)
      ? { values: Object.fromEntries(definition.map((value, number) => [value, number])) }
      : { fields: Object.fromEntries(Object.entries(definition).map(([field, shape]) => [field, fieldOf(shape)])) },
  ]);
  return protobuf.Root.fromJSON({ nested: Object.fromEntries(nested) });
}

/** `name` is that of a message of the schema. */
export function codecOf<Message>(root: protobuf.Root, name: string): Codec<Message> {
  const type = root.lookupType(name);
  return {
    encode: (message) => Buffer.from(type.encode(type.fromObject(message as object)).finish()),
    decode: (bytes) => {
      countFields(type, protobuf.Reader.create(bytes), bytes.length, MOST_FIELDS);
      return type.toObject(type.decode(bytes), { longs: String, enums: String, defaults: true }) as Message;
    },
  };
}

/** Goes through the known fields of a message that ends at `end`. Returns how many of `most` are left. */
function countFields(type: protobuf.Type, reader: protobuf.Reader, end: number, most: number): number {
  let left = most;
  while (reader.pos < end) {
    const tag = reader.uint32();
    const field = type.fieldsById[tag >>> 3];
    if (field !== undefined && --left < 0) throw new Error(`expected at most ${MOST_FIELDS} fields in a message`);
    const nested = field?.resolve().resolvedType;
    if (nested instanceof protobuf.Type && (tag & 7) === LENGTH_DELIMITED) {
      const length = reader.uint32();
      left = countFields(nested, reader, reader.pos + length, left);
    } else reader.skipType(tag & 7);
  }
  return left;
}

function isEnum(definition: Fields | readonly string[]): definition is readonly string[] {
  return Array.isArray(definition);
}

function fieldOf([id, type, rule]: Fields[string]): protobuf.IField | protobuf.IMapField {
  if (rule === 'map') return { id, type, keyType: 'string' };
  return rule === undefined ? { id, type } : { id, type, rule };
}
