/**
 * Bounds how many connections a server has, in all and from one address. A new one is always let in, and an old one goes for
 * it: whoever opens connections and says nothing must not keep out who comes with a question.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

export interface ConnectionLimits {
  connections: number;
  perAddress: number;
}

export function boundConnections(server: Server, { connections, perAddress }: ConnectionLimits): void {
  /** By the other side's address, its connections, oldest first. */
  const open = new Map<string, Set<Socket>>();
  /** Those whose question is being answered. */
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

  /** The oldest that is not being answered, or else the oldest; never the one that came just now. */
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

/** The connections of the addresses that have the most. */
function largest(open: ReadonlyMap<string, ReadonlySet<Socket>>): Socket[] {
  const most = Math.max(...Array.from(open.values(), ({ size }) => size));
  return [...open.values()].filter(({ size }) => size === most).flatMap((own) => [...own]);
}
