/**
 * A pod and what is around it, in real network namespaces:
 *
 *     outside ---- eth0 ---- pod ---- vm0 ---- vm
 *           \----- eth1 ----/
 *
 * In the pod run an app and a proxy; outside runs a server of everything.
 */
import { setTimeout } from 'node:timers/promises';
import { Network } from '../../lib/demo/network.ts';
import { type Actor, type Arrival, type Destination, dial, type Server, serve } from '../../lib/demo/toolbox.ts';
import type { Family } from '../../lib/ruleset/model.ts';

const ADDRESSES = {
  world: { 4: '10.10.0.1', 6: 'fd10::1' },
  /** A second address of outside, in the same network. */
  dns: { 4: '10.10.0.53', 6: 'fd10::53' },
  /** Outside, through eth1. */
  second: { 4: '10.20.0.1', 6: 'fd20::1' },
  pod: { 4: '10.10.0.2', 6: 'fd10::2' },
  pod2: { 4: '10.20.0.2', 6: 'fd20::2' },
  gateway: { 4: '10.30.0.1', 6: 'fd30::1' },
  vm: { 4: '10.30.0.2', 6: 'fd30::2' },
  /** Routed to the pod, and nobody's: only the local route of TPROXY's table gets it to a socket. */
  beyond: { 4: '10.99.0.1', 6: 'fd99::1' },
  loopback: { 4: '127.0.0.1', 6: '::1' },
  /** Loopback, but not the loopback CIDR. IPv4 only. */
  loopback2: { 4: '127.0.0.2', 6: '::1' },
  /** The proxy's source address for traffic that it passes on to the app. */
  passthrough: { 4: '127.0.0.6', 6: '::6' },
} as const;

export type Place = keyof typeof ADDRESSES;

/** In the pod unless said otherwise. */
const ACTORS = {
  app: { netns: 'pod', uid: 1000, gid: 1000 },
  /** An app of another group. */
  member: { netns: 'pod', uid: 1000, gid: 2000 },
  proxy: { netns: 'pod', uid: 1337, gid: 1337 },
  /** One that shares only the proxy's group. */
  agent: { netns: 'pod', uid: 1000, gid: 1337 },
  /** A second proxy, for lists of uids. */
  proxy2: { netns: 'pod', uid: 1338, gid: 1338 },
  root: { netns: 'pod', uid: 0, gid: 0 },
  /** Outside, and reaching the pod through eth0 or eth1. */
  world: { netns: 'outside', uid: 1000, gid: 1000 },
  vm: { netns: 'vm', uid: 1000, gid: 1000 },
} as const;

export type Who = keyof typeof ACTORS;

export interface WorldOptions {
  /** Whether the proxy takes inbound traffic as TPROXY sends it. */
  transparent: boolean;
  /** The pod has a user namespace of its own, and the uids and gids of who is in it are those inside. */
  userns?: boolean;
}

export interface Call {
  protocol: Destination['protocol'];
  to: Place;
  port: number;
  /** Source. */
  from?: Place;
  fromPort?: number;
}

export class World implements AsyncDisposable {
  readonly podPath: string;
  readonly #network: Network;
  #podUserns: string | undefined;
  readonly #servers: Server[] = [];

  private constructor(network: Network) {
    this.#network = network;
    this.podPath = network.path('pod');
  }

  static async build({ transparent, userns = false }: WorldOptions): Promise<World> {
    const network = new Network('ipnc-test');
    const world = new World(network);
    try {
      if (userns) world.#podUserns = await network.addOwned('pod');
      else await network.add('pod');
      await network.add('outside', 'vm');
      const at = (place: Place) => [`${ADDRESSES[place][4]}/24`, `${ADDRESSES[place][6]}/64`];
      await network.connect(
        { netns: 'pod', interface: 'eth0', addresses: at('pod') },
        { netns: 'outside', interface: 'eth0', addresses: [...at('world'), ...at('dns')] },
      );
      await network.connect(
        { netns: 'pod', interface: 'eth1', addresses: at('pod2') },
        { netns: 'outside', interface: 'eth1', addresses: at('second') },
      );
      await network.connect(
        { netns: 'pod', interface: 'vm0', addresses: at('gateway') },
        { netns: 'vm', interface: 'eth0', addresses: at('vm') },
      );
      for (const family of [4, 6] as const) {
        await network.ip('vm', `-${family}`, 'route', 'add', 'default', 'via', ADDRESSES.gateway[family]);
        await network.ip(
          'outside',
          `-${family}`,
          'route',
          'add',
          ADDRESSES.beyond[family],
          'via',
          ADDRESSES.pod[family],
        );
      }
      const web = [80, 443, 5001, 8443];
      await world.#serve('app', 'app', { tcp: [80, 8080, 9050, 9101, 15020, 15021, 15090] });
      await world.#serve('proxy', 'proxy', { tcp: [15001, 15008, 15053, 16001, 16008], udp: [15053] });
      await world.#serve('proxy', 'proxy', { tcp: [15006, 16006], transparent });
      await world.#serve('world', 'world', { tcp: [53, ...web], udp: [53, 443, 5000] });
      return world;
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
  }

  /**
   * Who answered, and where: `proxy:15001`. One that took the connection without knowing where it was meant to go is
   * `proxy:15001 for <where it believes>`; an errno name if nobody answered.
   */
  async call(who: Who, family: Family, call: Call, timeoutMs?: number): Promise<string> {
    const { protocol, to, port, from, fromPort } = call;
    const address = ADDRESSES[to][family];
    const destination: Destination = {
      protocol,
      address,
      port,
      ...(from && { from: ADDRESSES[from][family] }),
      ...(fromPort !== undefined && { fromPort }),
    };
    const reply = await dial(this.#actor(who), destination, timeoutMs);
    if (!reply.ok) return reply.error;
    const meant = family === 6 ? `[${address}]:${port}` : `${address}:${port}`;
    const aware = protocol === 'udp' || reply.original === meant;
    return `${reply.by}:${reply.port}${aware ? '' : ` for ${reply.original}`}`;
  }

  /** The first connection that reached `name`. It is told by another process, and so may come after the answer. */
  async firstArrival(name: string): Promise<Arrival> {
    for (;;) {
      const found = this.#servers.flatMap(({ arrivals }) => arrivals).find((arrival) => arrival.name === name);
      if (found !== undefined) return found;
      await setTimeout(10);
    }
  }

  #actor(who: Who): Actor {
    const { netns, uid, gid } = ACTORS[who];
    const userns = netns === 'pod' ? this.#podUserns : undefined;
    return { netns: this.#network.path(netns), ...(userns !== undefined && { userns }), uid, gid };
  }

  async #serve(who: Who, name: string, ports: { tcp: number[]; udp?: number[]; transparent?: boolean }): Promise<void> {
    this.#servers.push(await serve(this.#actor(who), { name, ...ports }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) await server.stop();
    await this.#network[Symbol.asyncDispose]();
  }
}
