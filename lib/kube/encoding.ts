/** The forms in which the API server's answers come: protobuf where it can, and JSON from whatever else answers. */
import { decodeEvent, decodeObject } from './messages.ts';

export interface WatchEvent {
  type: string;
  object: unknown;
}

export interface Encoding {
  /** Throws SyntaxError where it is none. */
  object(body: Buffer): unknown;
  /** Of one watch. */
  splitter(): Splitter;
  /** Of what a splitter gave. Throws SyntaxError where it is none. */
  event(piece: Buffer): WatchEvent;
}

/** Cuts a stream of bytes. Nothing is copied of what came in one chunk. */
export interface Splitter {
  /** What is complete with this chunk. Throws SyntaxError where it cannot be cut. */
  push(chunk: Buffer): Generator<Buffer, void>;
  /** Throws where something has begun that is not complete. */
  end(): void;
}

const PROTOBUF_TYPE = 'application/vnd.kubernetes.protobuf';
export const JSON_TYPE = 'application/json';
const METADATA = 'as=PartialObjectMetadata;g=meta.k8s.io;v=v1';

/** What to accept, the first the rather. */
export const ACCEPT = {
  object: `${PROTOBUF_TYPE}, ${JSON_TYPE}`,
  watch: `${PROTOBUF_TYPE};stream=watch, ${JSON_TYPE}`,
  /** Of an object that was written its metadata alone: half of what a small pod is, and less of any other. */
  metadata: `${PROTOBUF_TYPE};${METADATA}, ${JSON_TYPE};${METADATA}, ${JSON_TYPE}`,
};

/** As client-go's: apimachinery/pkg/runtime/serializer/streaming. */
const MAX_FRAME = 16 * 1024 * 1024;
const LENGTH_BYTES = 4;
const LINE_FEED = 0x0a;

const JSON_ENCODING: Encoding = {
  object: (body) => JSON.parse(body.toString()),
  splitter: () => new Lines(),
  event: (line) => JSON.parse(line.toString()) as WatchEvent,
};

const PROTOBUF: Encoding = { object: decodeObject, splitter: () => new Frames(), event: decodeEvent };

export function encodingOf(contentType: string | undefined): Encoding {
  return contentType?.split(';')[0]?.trim().toLowerCase() === PROTOBUF_TYPE ? PROTOBUF : JSON_ENCODING;
}

/** Cuts bytes, not characters: no character of more than one byte contains a line feed. */
class Lines implements Splitter {
  readonly #held: Buffer[] = [];

  *push(chunk: Buffer): Generator<Buffer, void> {
    let start = 0;
    for (let end = chunk.indexOf(LINE_FEED); end !== -1; end = chunk.indexOf(LINE_FEED, start)) {
      yield joined(this.#held, chunk.subarray(start, end));
      start = end + 1;
    }
    if (start < chunk.length) this.#held.push(chunk.subarray(start));
  }

  end(): void {
    if (this.#held.length > 0) throw new Error('the answer ended in the middle of a line');
  }
}

/** Each has its length before it, in four bytes. */
class Frames implements Splitter {
  readonly #held: Buffer[] = [];
  /** Bytes in `#held`. */
  #have = 0;
  /** Bytes of the length, or of the frame. */
  #need = LENGTH_BYTES;
  #inFrame = false;

  *push(chunk: Buffer): Generator<Buffer, void> {
    let start = 0;
    while (chunk.length - start >= this.#need - this.#have) {
      const end = start + this.#need - this.#have;
      const piece = joined(this.#held, chunk.subarray(start, end));
      start = end;
      this.#have = 0;
      this.#need = this.#inFrame ? LENGTH_BYTES : frameLength(piece);
      this.#inFrame = !this.#inFrame;
      if (!this.#inFrame) yield piece;
    }
    if (start < chunk.length) this.#held.push(chunk.subarray(start));
    this.#have += chunk.length - start;
  }

  end(): void {
    if (this.#have > 0 || this.#inFrame) throw new Error('the answer ended in the middle of a frame');
  }
}

function frameLength(bytes: Buffer): number {
  const length = bytes.readUInt32BE();
  if (length > MAX_FRAME) throw new SyntaxError(`a frame of a watch of ${length} bytes`);
  return length;
}

/** Leaves nothing in `held`. */
function joined(held: Buffer[], last: Buffer): Buffer {
  return held.length === 0 ? last : Buffer.concat([...held.splice(0), last]);
}
