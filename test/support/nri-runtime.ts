/** A stand-in for a runtime's side of NRI, which can be killed, and of an older version. */
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { codecOf, compileSchema } from '../../lib/protobuf.ts';
import { Mux } from '../../lib/runtime/nri/mux.ts';
import { TtrpcClient, ttrpcServer } from '../../lib/runtime/nri/ttrpc.ts';
import { patience } from './patience.ts';

const POD = {
  id: [1, 'string'],
  name: [2, 'string'],
  uid: [3, 'string'],
  namespace: [4, 'string'],
  labels: [5, 'string', 'map'],
  linux: [8, 'Linux'],
  ips: [10, 'string', 'repeated'],
} as const;
const SCHEMA = compileSchema({
  Empty: {},
  Register: { pluginName: [1, 'string'], pluginIdx: [2, 'string'] },
  Configure: { runtimeName: [2, 'string'], requestTimeout: [5, 'int64'] },
  Configured: { events: [2, 'int32'] },
  Synchronize: { pods: [1, 'Pod', 'repeated'], more: [3, 'bool'] },
  Synchronized: { more: [2, 'bool'] },
  Run: { pod: [1, 'Pod'] },
  StateChange: { event: [1, 'int32'], pod: [2, 'Pod'] },
  Pod: POD,
  Linux: { namespaces: [5, 'Namespace', 'repeated'] },
  Namespace: { type: [1, 'string'], path: [2, 'string'] },
});
const codec = <M>(name: string) => codecOf<M>(SCHEMA, name);

export interface Pod {
  id: string;
  name: string;
  uid: string;
  namespace: string;
  labels?: Record<string, string>;
  linux?: { namespaces: { type: string; path?: string }[] };
  ips?: string[];
}

/** What one plugin did. */
export interface PluginSeen {
  name: string;
  index: string;
  events: number;
  /** Whether it echoed `more` of each list. */
  echoes: boolean[];
  socket: Socket;
  client: TtrpcClient;
  /** Resolves when the connection has ended. */
  gone: Promise<void>;
}

/** A message of ttrpc in one frame of the multiplexer. The types are 1, a request, and 2, a response. */
export function frame(connection: number, stream: number, type: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(18);
  head.writeUInt32BE(connection);
  head.writeUInt32BE(payload.length + 10, 4);
  head.writeUInt32BE(payload.length, 8);
  head.writeUInt32BE(stream, 12);
  head.writeUInt8(type, 16);
  return Buffer.concat([head, payload]);
}

export class NriRuntime implements AsyncDisposable {
  readonly #path: string;
  readonly #server: Server;
  #sockets: Socket[] = [];
  /** The lists that a new plugin gets, each but the last with `more`. */
  lists: () => Pod[][] = () => [[]];
  requestMs = 2000;
  /** The limit that it names, if it is another one. */
  namedMs: number | undefined;
  /** Up to NRI 0.11 RunPodSandbox is a change of state. */
  old = false;
  /** All that ever registered. */
  readonly plugins: PluginSeen[] = [];
  /** One lock serves all sandboxes. */
  #turn: Promise<unknown> = Promise.resolve();

  /** Before listen() no plugin can connect. */
  constructor(path: string) {
    this.#path = path;
    this.#server = createServer((socket) => {
      this.#sockets.push(socket);
      socket.on('error', () => {});
      this.#accept(socket);
    });
  }

  static async start(path: string): Promise<NriRuntime> {
    const runtime = new NriRuntime(path);
    await runtime.listen();
    return runtime;
  }

  async listen(): Promise<void> {
    rmSync(this.#path, { force: true });
    this.#server.listen(this.#path);
    await once(this.#server, 'listening');
  }

  /** Ends all connections. */
  async kill(): Promise<void> {
    for (const socket of this.#sockets.splice(0)) socket.destroy();
    if (this.#server.listening) {
      this.#server.close();
      await once(this.#server, 'close');
    }
  }

  /**
   * As RunPodSandbox does: calls each plugin, and drops one that does not answer in time. Resolves with how long they
   * took, milliseconds. Rejects if one of them refuses the pod.
   */
  run(pod: Pod): Promise<number> {
    const relayed = this.#turn.then(async () => {
      const began = performance.now();
      for (const plugin of this.plugins) if (!plugin.socket.destroyed) await this.#call(plugin, pod);
      return performance.now() - began;
    });
    this.#turn = relayed.catch(() => {});
    return relayed;
  }

  async #call({ client, socket, gone }: PluginSeen, pod: Pod): Promise<void> {
    const answer = this.old
      ? client.call('StateChange', codec<object>('StateChange').encode({ event: 1, pod }))
      : client.call('RunPodSandbox', codec<object>('Run').encode({ pod }));
    const limit = setTimeout(() => socket.destroy(), this.requestMs * patience());
    await Promise.race([answer, gone]).finally(() => clearTimeout(limit));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  #accept(socket: Socket): void {
    const mux = new Mux(socket);
    const sendRequest = mux.open(1, (data) => client.receive(data));
    const client = new TtrpcClient('nri.pkg.api.v1alpha1.Plugin', sendRequest);
    const sendAnswer = mux.open(2, (data) => serve(data));
    const serve = ttrpcServer(
      sendAnswer,
      new Map([
        [
          'RegisterPlugin',
          (payload: Uint8Array) => {
            const { pluginName, pluginIdx } = codec<{ pluginName: string; pluginIdx: string }>('Register').decode(
              payload,
            );
            const gone = new Promise<void>((resolve) => socket.once('close', () => resolve()));
            void this.#configure({ name: pluginName, index: pluginIdx, events: 0, echoes: [], socket, client, gone });
            return codec<object>('Empty').encode({});
          },
        ],
      ]),
    );
  }

  async #configure(plugin: PluginSeen): Promise<void> {
    const { client } = plugin;
    const request = { runtimeName: 'stand-in', requestTimeout: `${this.namedMs ?? this.requestMs}` };
    const configured = await client.call('Configure', codec<object>('Configure').encode(request));
    plugin.events = codec<{ events: number }>('Configured').decode(configured).events;
    // Under the lock: a sandbox is either in the list, or the plugin is called for it.
    this.#turn = this.#turn.then(() => Promise.race([this.#synchronize(plugin), plugin.gone]));
  }

  async #synchronize(plugin: PluginSeen): Promise<void> {
    const { client } = plugin;
    const lists = this.lists();
    for (const [at, pods] of lists.entries()) {
      const more = at < lists.length - 1;
      const answer = await client.call('Synchronize', codec<object>('Synchronize').encode({ pods, more }));
      plugin.echoes.push(codec<{ more: boolean }>('Synchronized').decode(answer).more === more);
    }
    this.plugins.push(plugin);
  }
}
