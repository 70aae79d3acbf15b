/** Objects as an API server sends them in protobuf, made by the schema of lib/kube/messages.ts. For stand-ins. */
import protobuf from 'protobufjs/light.js';
import { bytesOf, MAGIC, messageType } from '../../lib/kube/messages.ts';

export const PROTOBUF = 'application/vnd.kubernetes.protobuf';

/** What the message does not have is left out. */
export function encode(name: string, value: object): Buffer {
  const type = messageType(name);
  return Buffer.from(type.encode(type.fromObject(lateAsBytes(name, value))).finish());
}

/** A message has bytes of what is late in it. */
function lateAsBytes(name: string, value: { items?: object[]; spec?: object; status?: object }): object {
  if (name === 'PodList') return { ...value, items: value.items?.map((pod) => lateAsBytes('Pod', pod)) };
  if (name !== 'Pod') return value;
  const { spec, status, ...rest } = value;
  return {
    ...rest,
    ...(spec && { [bytesOf('spec')]: encode('PodSpec', spec) }),
    ...(status && { [bytesOf('status')]: encode('PodStatus', status) }),
  };
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
