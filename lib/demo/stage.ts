/** The demo's actors: a pod with an app and a stand-in for its sidecar, and a client that is outside of it. */
import { Network } from './network.ts';
import { type Actor, type Destination, dial, type Reply, type Server, serve } from './toolbox.ts';

/** Documentation addresses (RFC 5737, RFC 3849), by family. */
export const POD = { 4: '192.0.2.2', 6: '2001:db8::2' } as const;
export const OUTSIDE = { 4: '192.0.2.1', 6: '2001:db8::1' } as const;

export const SIDECAR_PORTS = { outbound: 15001, inbound: 15006, dns: 15053 } as const;
/** What the app serves, and the port of the mesh agent's health, which is never captured. */
export const APP_PORTS = { web: 8080, health: 15020 } as const;
/** What runs outside; `database` is kept out of the mesh by a flag. */
export const OUTSIDE_PORTS = { web: 80, database: 5432, dns: 53 } as const;

export type Role = 'app' | 'sidecar' | 'client';

export class Stage implements AsyncDisposable {
  readonly podPath: string;
  readonly #network: Network;
  readonly #actors: Record<Role, Actor>;
  readonly #servers: Server[] = [];

  private constructor(network: Network) {
    this.#network = network;
    this.podPath = network.path('pod');
    this.#actors = {
      app: { netns: this.podPath, uid: 1000, gid: 1000 },
      sidecar: { netns: this.podPath, uid: 1337, gid: 1337 },
      client: { netns: network.path('client'), uid: 1000, gid: 1000 },
    };
  }

  static async build(): Promise<Stage> {
    const network = new Network('ipnc-demo');
    const stage = new Stage(network);
    try {
      await network.add('pod', 'client');
      await network.connect(
        { netns: 'pod', interface: 'eth0', addresses: [`${POD[4]}/24`, `${POD[6]}/64`] },
        { netns: 'client', interface: 'eth0', addresses: [`${OUTSIDE[4]}/24`, `${OUTSIDE[6]}/64`] },
      );
      const { outbound, inbound, dns } = SIDECAR_PORTS;
      const { web, database, dns: nameServer } = OUTSIDE_PORTS;
      await stage.#serve('app', { tcp: Object.values(APP_PORTS) });
      await stage.#serve('sidecar', { tcp: [outbound, inbound, dns], udp: [dns] });
      await stage.#serve('client', { tcp: [web, database], udp: [nameServer] });
      return stage;
    } catch (error) {
      await stage[Symbol.asyncDispose]();
      throw error;
    }
  }

  dial(who: Role, to: Destination): Promise<Reply> {
    return dial(this.#actors[who], to);
  }

  async #serve(who: Role, ports: { tcp: number[]; udp?: number[] }): Promise<void> {
    this.#servers.push(await serve(this.#actors[who], { name: who, ...ports }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) await server.stop();
    await this.#network[Symbol.asyncDispose]();
  }
}
