/** Objects as an API server sends them in protobuf, made by the schema of lib/kube/messages.ts. For stand-ins. */
import protobuf from 'protobufjs/light.js';
import { elementsOf, entriesOf } from '../../lib/kube/encoding.ts';
import { MAGIC, MESSAGES } from '../../lib/kube/messages.ts';
import { compileSchema } from '../../lib/protobuf.ts';

export const PROTOBUF = 'application/vnd.kubernetes.protobuf';

const SCHEMA = compileSchema(MESSAGES);

/** What the message does not have is left out. */
export function encode(name: string, value: object): Buffer {
  const type = SCHEMA.lookupType(name);
  return Buffer.from(type.encode(type.fromObject(value)).finish());
}

/** All of a message that was read, in the shape of its JSON; what is absent is undefined, or an empty list or map. */
export function plain(name: string, message: unknown): Record<string, unknown> {
  const value = (type: string, given: unknown) =>
    type in MESSAGES && given !== undefined ? plain(type, given) : given;
  return Object.fromEntries(
    Object.entries(MESSAGES[name] ?? {}).map(([field, [, type, rule]]) => {
      const given = (message as Record<string, unknown>)[field];
      if (rule === 'map') return [field, Object.fromEntries(entriesOf(given))];
      return [
        field,
        rule === 'repeated' ? Array.from(elementsOf(given), (one) => value(type, one)) : value(type, given),
      ];
    }),
  );
}

/** A message in pieces: its fields, one after the other, so that a large one is copied once. */
export type Pieces = readonly Uint8Array[];

/** A field of this number that has its length before it. */
export function field(id: number, content: Pieces): Pieces {
  const DELIMITED = 2;
  const length = content.reduce((sum, piece) => sum + piece.length, 0);
  const head = protobuf.Writer.create().uint32(id * 8 + DELIMITED);
  return [head.uint32(length).finish(), ...content];
}

export function delimited(id: number, content: Uint8Array): Buffer {
  return Buffer.concat(field(id, [content]));
}

/** `object` with its kind before it: the body of an answer. */
export function envelope(kind: string, object: object): Buffer {
  return Buffer.concat(enveloped(kind, [Buffer.isBuffer(object) ? object : encode(kind, object)]));
}

export function enveloped(kind: string, object: Pieces): Pieces {
  return [MAGIC, ...field(1, [encode('TypeMeta', { kind })]), ...field(2, object)];
}

/** One event of a watch; `object` as `enveloped` makes it. */
export function eventFrame(type: string, ...object: Uint8Array[]): Buffer {
  return framed(encode('WatchEvent', { type }), ...field(2, field(1, object)));
}

export function framed(...content: Uint8Array[]): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(content.reduce((sum, piece) => sum + piece.length, 0));
  return Buffer.concat([length, ...content]);
}
