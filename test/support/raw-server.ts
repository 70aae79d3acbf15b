/** A program behind a Unix socket that speaks no protocol. */
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';

/** Listens on `path`, and lets `behave` do as it likes with each connection. Disposing of it ends the connections too. */
export async function serveRaw(path: string, behave: (socket: Socket) => void): Promise<Disposable> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket.on('error', () => {}));
    behave(socket);
  }).listen(path);
  await once(server, 'listening');
  return {
    [Symbol.dispose]: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
