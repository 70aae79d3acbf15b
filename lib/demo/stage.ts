/** The demo's actors: a pod with an app and a stand-in for its sidecar, and a client that is outside of it. */

import { Network } from './network.ts';
import { type Actor, type Destination, dial, type Reply, type Server, serve } from './toolbox.ts';
import { canBecome } from './userns.ts';

/** Documentation addresses (RFC 5737, RFC 3849), by family. */
export const POD = { 4: '192.0.2.2', 6: '2001:db8::2' } as const;
export const OUTSIDE = { 4: '192.0.2.1', 6: '2001:db8::1' } as const;

export const SIDECAR_PORTS = { outbound: 15001, inbound: 15006, dns: 15053 } as const;
/** What the app serves, and the port of the mesh agent's health, which is never captured. */
export const APP_PORTS = { web: 8080, health: 15020 } as const;
/** What runs outside; `database` is kept out of the mesh by a flag. */
export const OUTSIDE_PORTS = { web: 80, database: 5432, dns: 53 } as const;

const SIDECAR_UID = 1337;
const APP_UID = 1000;

export type Role = 'app' | 'sidecar' | 'client';

export class Stage implements AsyncDisposable {
  readonly podPath: string;
  /** False where all have to be root: then the rules take what the app sends for the sidecar's. */
  readonly hasUids: boolean;
  readonly sidecarUid: number;
  readonly #network: Network;
  readonly #actors: Record<Role, Actor>;
  readonly #servers: Server[] = [];

  private constructor(network: Network) {
    this.#network = network;
    this.podPath = network.path('pod');
    this.hasUids = canBecome(APP_UID) && canBecome(SIDECAR_UID);
    this.sidecarUid = this.hasUids ? SIDECAR_UID : 0;
    const as = (uid: number) => (this.hasUids ? { uid, gid: uid } : {});
    this.#actors = {
      app: { netns: this.podPath, ...as(APP_UID) },
      sidecar: { netns: this.podPath, ...as(SIDECAR_UID) },
      client: { netns: network.path('client'), ...as(APP_UID) },
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
