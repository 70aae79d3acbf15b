/** What a stand-in for kube-apiserver writes, in either form. */
import { encode, envelope, eventFrame, framed, PROTOBUF } from './protobuf.ts';

export interface Wire {
  /** Content-Type of an object, and of a watch. */
  objectType: string;
  watchType: string;
  list(list: { metadata: object; items: object[] }): Buffer;
  status(status: object): Buffer;
  /** Of a watch. Without `object` it is none. */
  event(type: string, object?: object): Buffer;
  /** What can be cut from a stream, and is no event. */
  garbage: Buffer;
}

const json = (value: object) => Buffer.from(JSON.stringify(value));

export const WIRES = {
  JSON: {
    objectType: 'application/json',
    watchType: 'application/json',
    list: json,
    status: json,
    event: (type, object) => Buffer.from(line(type, object)),
    garbage: Buffer.from('no json\n'),
  },
  protobuf: {
    objectType: PROTOBUF,
    watchType: `${PROTOBUF};stream=watch`,
    list: (list) => envelope('PodList', list),
    status: (status) => envelope('Status', status),
    event: (type, object) =>
      object === undefined
        ? framed(encode('WatchEvent', { type }))
        : eventFrame(type, envelope(type === 'ERROR' ? 'Status' : 'Pod', object)),
    garbage: framed(Buffer.from('no protobuf')),
  },
} satisfies Record<string, Wire>;

/** One event of a watch in JSON. */
export function line(type: string, object: unknown): string {
  return `${JSON.stringify({ type, object })}\n`;
}
