/** Objects as an API server sends them in protobuf, made by the schema of lib/sources/messages.ts. For stand-ins. */
import protobuf from 'protobufjs/light.js';
import { MAGIC, messageType } from '../../lib/sources/messages.ts';

export const PROTOBUF = 'application/vnd.kubernetes.protobuf';

/** What the message does not have is left out. */
export function encode(name: string, value: object): Buffer {
  const type = messageType(name);
  return Buffer.from(type.encode(type.fromObject(value)).finish());
}

/** A field of this number that has its length before it: a message may be made of its fields, one after the other. */
export function delimited(id: number, content: Uint8Array): Buffer {
  const DELIMITED = 2;
  const head = protobuf.Writer.create().uint32(id * 8 + DELIMITED);
  return Buffer.from(head.bytes(content).finish());
}

/** `object`, or its bytes, with its kind before it: the body of an answer. */
export function envelope(kind: string, object: object): Buffer {
  const raw = Buffer.isBuffer(object) ? object : encode(kind, object);
  return Buffer.concat([MAGIC, encode('Unknown', { typeMeta: { kind }, raw })]);
}

/** One event of a watch; `object` as `envelope` makes it. */
export function eventFrame(type: string, object: Buffer): Buffer {
  return framed(encode('WatchEvent', { type, object: { raw: object } }));
}

export function framed(content: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(content.length);
  return Buffer.concat([length, content]);
}
