/**
 * Limits how many connections a server has, in total and from one address. A new connection is always accepted, and an
 * old one is closed for it, so that a client with idle connections cannot keep other clients out.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

export interface ConnectionLimits {
  connections: number;
  perAddress: number;
}

export function boundConnections(server: Server, { connections, perAddress }: ConnectionLimits): void {
  /** The connections of each client address, oldest first. */
  const open = new Map<string, Set<Socket>>();
  /** The connections with a request in progress, and the number of these requests. */
  const busy = new Map<Socket, number>();
  let count = 0;

  server.on('connection', (socket: Socket) => {
    const address = socket.remoteAddress ?? '';
    const own = open.get(address) ?? new Set();
    open.set(address, own.add(socket));
    count++;
    socket.once('close', () => {
      count--;
      busy.delete(socket);
      own.delete(socket);
      if (own.size === 0 && open.get(address) === own) open.delete(address);
    });
    if (own.size > perAddress) evict(own, socket);
    else if (count > connections) evict(largest(open), socket);
  });
  server.on('request', ({ socket }: IncomingMessage, response: ServerResponse) => {
    busy.set(socket, (busy.get(socket) ?? 0) + 1);
    response.once('close', () => {
      const others = (busy.get(socket) ?? 0) - 1;
      if (others > 0) busy.set(socket, others);
      else busy.delete(socket);
    });
  });

  /** Closes the oldest connection without a request in progress, or the oldest of all; never the newest. */
  function evict(from: Iterable<Socket>, newest: Socket): void {
    let oldest: Socket | undefined;
    for (const socket of from) {
      if (socket === newest || socket.destroyed) continue;
      oldest ??= socket;
      if (!busy.has(socket)) {
        oldest = socket;
        break;
      }
    }
    oldest?.destroy();
  }
}

/** The connections of the addresses with the most connections. */
function largest(open: ReadonlyMap<string, ReadonlySet<Socket>>): Socket[] {
  const most = Math.max(...Array.from(open.values(), ({ size }) => size));
  return [...open.values()].filter(({ size }) => size === most).flatMap((own) => [...own]);
}
