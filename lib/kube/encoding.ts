/** Decodes the answers of the API server: protobuf if the server supports it, and otherwise JSON. */
import { decodeEvent, decodeList, decodeObject, type ListMeta, MAX_OBJECT, type Step } from './messages.ts';

export interface WatchEvent {
  type: string;
  object: unknown;
}

/**
 * An object from a decoder may refer to received bytes, so callers must keep only the values that they read from it.
 */
export interface Encoding {
  /** Throws SyntaxError where it is none. */
  object(body: Buffer): unknown;
  /** The items of a list as they arrive, and at the end the metadata of the list. */
  list(): StreamReader<unknown, ListMeta>;
  /** The events of a watch. */
  watch(): StreamReader<WatchEvent, void>;
}

/**
 * Decodes a stream of bytes. It buffers at most one object, of at most 16 MiB, and copies nothing of an object that
 * arrives in one chunk. Throws SyntaxError if the bytes are invalid.
 */
export interface StreamReader<T, E> {
  /** The objects that this chunk completes. The caller must iterate to the end. */
  push(chunk: Buffer): Generator<T, void>;
  /** Throws if an object is incomplete. */
  end(): E;
}

const PROTOBUF_TYPE = 'application/vnd.kubernetes.protobuf';
export const JSON_TYPE = 'application/json';
const METADATA = 'as=PartialObjectMetadata;g=meta.k8s.io;v=v1';

/** The accepted types, in order of preference. */
export const ACCEPT = {
  object: `${PROTOBUF_TYPE}, ${JSON_TYPE}`,
  watch: `${PROTOBUF_TYPE};stream=watch, ${JSON_TYPE}`,
  /** For the answer to a write, only the metadata of the object: half of a small pod, and less of any other. */
  metadata: `${PROTOBUF_TYPE};${METADATA}, ${JSON_TYPE};${METADATA}, ${JSON_TYPE}`,
};

const LENGTH_BYTES = 4;
const NOTHING = Buffer.alloc(0);

const JSON_ENCODING: Encoding = {
  object: (body) => JSON.parse(body.toString()),
  list: () => new JsonList(),
  watch: () => new Lines(),
};

const PROTOBUF: Encoding = {
  object: decodeObject,
  list: () => new Stepwise('a list', decodeList()),
  watch: () => new Stepwise('a frame', frames()),
};

export function encodingOf(contentType: string | undefined): Encoding {
  return contentType?.split(';')[0]?.trim().toLowerCase() === PROTOBUF_TYPE ? PROTOBUF : JSON_ENCODING;
}

/** The elements of a list: an array for JSON, and an iterable that decodes one after the other for protobuf. */
export function elementsOf(value: unknown): Iterable<unknown> {
  return typeof value === 'object' && value !== null && Symbol.iterator in value ? (value as Iterable<unknown>) : [];
}

/** The entries of a map: an object for JSON, and an iterable that decodes one pair after the other for protobuf. */
export function entriesOf(value: unknown): Iterable<[string, unknown]> {
  const isMapping = typeof value === 'object' && value !== null && !(Symbol.iterator in value);
  return isMapping ? Object.entries(value) : (elementsOf(value) as Iterable<[string, unknown]>);
}

/** Four bytes with its length come before each event. */
function* frames(): Generator<Step<WatchEvent>, void, Buffer> {
  for (;;) {
    const head = yield { need: LENGTH_BYTES, mayEnd: true };
    if (head.length === 0) return;
    const length = head.readUInt32BE();
    if (length > MAX_OBJECT) throw new SyntaxError(`a frame of a watch of ${length} bytes`);
    yield { item: decodeEvent(yield { need: length }) };
  }
}

/** Gives `steps` the bytes that they ask for, or no bytes at an end that they allow. */
class Stepwise<T, E> implements StreamReader<T, E> {
  readonly #what: string;
  readonly #steps: Generator<Step<T>, E, Buffer>;
  #step: IteratorResult<Step<T>, E>;
  /** As large as what is asked for, so that no chunk has to stay until the last one came. */
  #held: Buffer | undefined;
  #filled = 0;

  constructor(what: string, steps: Generator<Step<T>, E, Buffer>) {
    this.#what = what;
    this.#steps = steps;
    this.#step = steps.next();
  }

  *push(chunk: Buffer): Generator<T, void> {
    let at = 0;
    while (!this.#step.done && 'need' in this.#step.value) {
      const { need } = this.#step.value;
      let piece = chunk.subarray(at, at + need - this.#filled);
      at += piece.length;
      if (this.#filled + piece.length < need || this.#held !== undefined) {
        if (piece.length === 0) return;
        this.#held ??= Buffer.allocUnsafeSlow(need);
        this.#filled += piece.copy(this.#held, this.#filled);
        if (this.#filled < need) return;
        piece = this.#held;
        this.#held = undefined;
        this.#filled = 0;
      }
      this.#step = this.#steps.next(piece);
      while (!this.#step.done && 'item' in this.#step.value) {
        yield this.#step.value.item;
        this.#step = this.#steps.next(NOTHING);
      }
    }
  }

  end(): E {
    const { value, done } = this.#step;
    const mayEnd = !done && 'need' in value && value.mayEnd === true && this.#held === undefined;
    const last = mayEnd ? this.#steps.next(NOTHING) : undefined;
    if (!last?.done) throw new Error(`the answer ended in the middle of ${this.#what}`);
    return last.value;
  }
}

const LINE_FEED = 0x0a;

/** Cuts bytes, not characters: no character of more than one byte contains a line feed. */
class Lines implements StreamReader<WatchEvent, void> {
  readonly #held = new Pieces('a line of a watch');

  *push(chunk: Buffer): Generator<WatchEvent, void> {
    let start = 0;
    for (let end = chunk.indexOf(LINE_FEED); end !== -1; end = chunk.indexOf(LINE_FEED, start)) {
      this.#held.add(chunk.subarray(start, end));
      start = end + 1;
      yield this.#held.parse() as WatchEvent;
    }
    this.#held.add(chunk.subarray(start));
  }

  end(): void {
    if (this.#held.length > 0) throw new Error('the answer ended in the middle of a line');
  }
}

const CHAR = {
  quote: 0x22,
  comma: 0x2c,
  colon: 0x3a,
  bracket: 0x5b,
  backslash: 0x5c,
  endBracket: 0x5d,
  brace: 0x7b,
  endBrace: 0x7d,
};
/** The highest of the white space. */
const SPACE = 0x20;
const ITEMS = '"items"';

/** Takes the elements of `items` out of a List, and reads the rest at its end. */
class JsonList implements StreamReader<unknown, ListMeta> {
  readonly #item = new Pieces('an item of a list');
  readonly #rest = new Pieces('a list without its items');
  #depth = 0;
  #inString = false;
  #escaped = false;
  /** Inside of `items`, which is at depth 2. */
  #inItems = false;
  /** At depth 1 the last string, as far as it came, and as long as nothing but a colon came after it. */
  #key = '';

  *push(chunk: Buffer): Generator<unknown, void> {
    /** What comes from here on belongs together. */
    let start = 0;
    for (let at = 0; at < chunk.length; at++) {
      const byte = chunk[at] as number;
      if (this.#inString || byte === CHAR.quote) {
        this.#string(byte);
      } else if (byte === CHAR.brace || byte === CHAR.bracket) {
        this.#depth++;
        if (this.#inItems) {
          if (this.#depth === 3) start = at;
        } else if (this.#depth === 2 && byte === CHAR.bracket && this.#key === ITEMS) {
          this.#inItems = true;
          this.#rest.add(chunk.subarray(start, at + 1));
        }
      } else if (byte === CHAR.endBrace || byte === CHAR.endBracket) {
        this.#depth--;
        if (!this.#inItems) continue;
        if (this.#depth === 2) {
          this.#item.add(chunk.subarray(start, at + 1));
          yield this.#item.parse();
        } else if (this.#depth === 1) {
          this.#inItems = false;
          this.#key = '';
          start = at;
        }
      } else if (byte > SPACE) {
        if (this.#inItems && this.#depth === 2 && byte !== CHAR.comma)
          throw new SyntaxError('an item of a list is not an object');
        if (this.#depth === 1 && byte !== CHAR.colon) this.#key = '';
      }
    }
    if (!this.#inItems) this.#rest.add(chunk.subarray(start));
    else if (this.#depth > 2) this.#item.add(chunk.subarray(start));
  }

  #string(byte: number): void {
    if (!this.#inString) {
      if (this.#inItems && this.#depth === 2) throw new SyntaxError('an item of a list is not an object');
      this.#inString = true;
      this.#key = '';
    } else if (this.#escaped) this.#escaped = false;
    else if (byte === CHAR.backslash) this.#escaped = true;
    else if (byte === CHAR.quote) this.#inString = false;
    if (this.#depth === 1 && this.#key.length <= ITEMS.length) this.#key += String.fromCharCode(byte);
  }

  end(): ListMeta {
    if (this.#depth !== 0 || this.#rest.length === 0) throw new Error('the answer ended in the middle of a list');
    return (this.#rest.parse() as { metadata?: ListMeta } | null)?.metadata ?? {};
  }
}

/** Bytes that become one JSON text, of at most 16 MiB. */
class Pieces {
  readonly #what: string;
  #pieces: Buffer[] = [];
  #length = 0;

  constructor(what: string) {
    this.#what = what;
  }

  get length(): number {
    return this.#length;
  }

  add(piece: Buffer): void {
    if (piece.length === 0) return;
    this.#length += piece.length;
    if (this.#length > MAX_OBJECT) throw new SyntaxError(`${this.#what} of more than ${MAX_OBJECT} bytes`);
    this.#pieces.push(piece);
  }

  /** And forgets them. */
  parse(): unknown {
    const pieces = this.#pieces;
    this.#pieces = [];
    this.#length = 0;
    return JSON.parse((pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces)).toString());
  }
}
