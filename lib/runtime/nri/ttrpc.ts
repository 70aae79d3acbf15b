/**
 * Unary calls of ttrpc. A message is `u32 length, u32 stream, u8 type, u8 flags, payload`, big-endian.
 *
 * https://github.com/containerd/ttrpc/blob/main/PROTOCOL.md
 */
import { ByteQueue } from './bytes.ts';
import { type Response, request, response } from './messages.ts';

const HEADER_BYTES = 10;
const MAX_BYTES = 4 * 1024 * 1024;
/** How many calls may wait for their answers. A runtime makes one call at a time. */
const MOST_CALLS = 256;
/** How many characters of an error's message are sent. */
const MOST_TEXT = 1024;
const REQUEST = 1;
const RESPONSE = 2;
/** google.rpc.Code. */
const UNKNOWN = 2;
const UNIMPLEMENTED = 12;

type Send = (data: Buffer) => void;
type Handler = (payload: Uint8Array) => Promise<Buffer> | Buffer;

/** Answers calls. Returns what takes the received bytes; it throws Error if they are not ttrpc's. */
export function ttrpcServer(send: Send, handlers: ReadonlyMap<string, Handler>): (data: Buffer) => void {
  const answer = async (payload: Buffer): Promise<Response> => {
    const { service, method, payload: argument } = request.decode(payload);
    const handler = handlers.get(method);
    if (handler === undefined)
      return { status: { code: UNIMPLEMENTED, message: `no method ${service}/${method}`.slice(0, MOST_TEXT) } };
    return { payload: await handler(argument) };
  };
  let calls = 0;
  return messages((stream, type, payload) => {
    if (type !== REQUEST) return;
    if (++calls > MOST_CALLS) throw new Error(`more than ${MOST_CALLS} calls at the same time`);
    void answer(payload)
      .catch((error: Error): Response => ({ status: { code: UNKNOWN, message: error.message } }))
      .then((answered) => {
        calls--;
        send(message(stream, RESPONSE, response.encode(answered)));
      });
  });
}

/** Makes calls of one service. */
export class TtrpcClient {
  readonly #service: string;
  readonly #send: Send;
  readonly #waiting = new Map<number, (answer: Response) => void>();
  /** Those of a client are odd. */
  #stream = -1;
  /** Takes the received bytes. Throws Error if they are not ttrpc's. */
  readonly receive: (data: Buffer) => void;

  constructor(service: string, send: Send) {
    this.#service = service;
    this.#send = send;
    this.receive = messages((stream, type, payload) => {
      if (type !== RESPONSE) return;
      this.#waiting.get(stream)?.(response.decode(payload));
      this.#waiting.delete(stream);
    });
  }

  /** Resolves with the answer's payload. Rejects with Error if the peer reports one; never if it does not answer. */
  async call(method: string, payload: Buffer): Promise<Uint8Array> {
    this.#stream += 2;
    const stream = this.#stream;
    const answered = new Promise<Response>((resolve) => this.#waiting.set(stream, resolve));
    this.#send(message(stream, REQUEST, request.encode({ service: this.#service, method, payload })));
    const { status, payload: result } = await answered;
    if (status && status.code !== 0) throw new Error(`${method}: ${status.message} (code ${status.code})`);
    return result ?? Buffer.alloc(0);
  }
}

function message(stream: number, type: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32BE(payload.length);
  header.writeUInt32BE(stream, 4);
  header.writeUInt8(type, 8);
  return Buffer.concat([header, payload]);
}

function messages(onMessage: (stream: number, type: number, payload: Buffer) => void): (data: Buffer) => void {
  const received = new ByteQueue();
  return (data) => {
    received.push(data);
    for (;;) {
      const header = received.peek(HEADER_BYTES);
      if (header === undefined) return;
      const length = header.readUInt32BE();
      const stream = header.readUInt32BE(4);
      const type = header.readUInt8(8);
      if (length > MAX_BYTES) throw new Error(`a message of ${length} bytes, expected ${MAX_BYTES} at most`);
      const whole = received.take(HEADER_BYTES + length);
      if (whole === undefined) return;
      onMessage(stream, type, whole.subarray(HEADER_BYTES));
    }
  };
}
