/**
 * Several connections over one socket. A frame is `u32 connection, u32 length, payload`, big-endian.
 *
 * https://github.com/containerd/nri/blob/main/pkg/net/multiplex
 */
import type { Socket } from 'node:net';
import { ByteQueue } from './bytes.ts';

const HEADER_BYTES = 8;

/** The peer reads a frame into a buffer of this size, and drops the plugin if it is longer. */
const MAX_SENT_BYTES = 4096;

/** How much the peer may leave unread. The answers for all sandboxes of a node have fewer bytes. */
const MAX_UNREAD_BYTES = 1024 * 1024;

/** ttrpc's limit of a message, with its header: the peer may send a message as one frame. */
const MAX_RECEIVED_BYTES = 4 * 1024 * 1024 + 10;

export class Mux {
  readonly #socket: Socket;
  readonly #received = new ByteQueue();
  readonly #connections = new Map<number, (data: Buffer) => void>();

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (data) => {
      try {
        this.#receive(data);
      } catch (error) {
        socket.destroy(error as Error);
      }
    });
  }

  /** What the peer sends on a connection; the pieces are not messages. */
  open(connection: number, onData: (data: Buffer) => void): (data: Buffer) => void {
    this.#connections.set(connection, onData);
    return (data) => this.#send(connection, data);
  }

  #send(connection: number, data: Buffer): void {
    const frames: Buffer[] = [];
    for (let at = 0; at < data.length; at += MAX_SENT_BYTES) {
      const payload = data.subarray(at, at + MAX_SENT_BYTES);
      const header = Buffer.alloc(HEADER_BYTES);
      header.writeUInt32BE(connection);
      header.writeUInt32BE(payload.length, 4);
      frames.push(header, payload);
    }
    const unread = this.#socket.writableLength;
    if (unread > MAX_UNREAD_BYTES) this.#socket.destroy(new Error(`the peer did not read ${unread} bytes`));
    else this.#socket.write(Buffer.concat(frames));
  }

  #receive(data: Buffer): void {
    this.#received.push(data);
    for (;;) {
      const header = this.#received.peek(HEADER_BYTES);
      if (header === undefined) return;
      const connection = header.readUInt32BE();
      const length = header.readUInt32BE(4);
      if (length > MAX_RECEIVED_BYTES)
        throw new Error(`a frame of ${length} bytes, expected ${MAX_RECEIVED_BYTES} at most`);
      const frame = this.#received.take(HEADER_BYTES + length);
      if (frame === undefined) return;
      this.#connections.get(connection)?.(frame.subarray(HEADER_BYTES));
    }
  }
}
