/** Pods by the hundred come, change, go and come back under the same name, while the API server does its worst. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { KubeConfig } from '@kubernetes/client-node';
import * as assert from 'uvu/assert';
import { readConfig } from '../lib/config.ts';
import { Controller } from '../lib/controller.ts';
import { EventRecorder } from '../lib/events.ts';
import { Initializer } from '../lib/initialize.ts';
import { createLogger } from '../lib/log.ts';
import { createMetrics } from '../lib/metrics.ts';
import { native } from '../lib/native.ts';
import { type Located, Locator, type NotLocated, type PodRef } from '../lib/netns/locate.ts';
import { INITIALIZE } from '../lib/pods.ts';
import { Kube } from '../lib/sources/kube.ts';
import { INITIALIZED, NETNS, RULES, STATUS, StatusMarker } from '../lib/status.ts';
import { suite } from './suite.ts';
import { Farm } from './support/netns.ts';
import { line, status } from './support/watch-server.ts';

const PODS = 300;
const STEPS = 1200;
const NAMESPACE = 'default';

const test = suite('churn');
test.needs('netns', 'uid-map', 'ipv6', 'addon', 'toolbox');

interface Pod {
  metadata: { namespace: string; name: string; uid: string; resourceVersion: string; annotations: Annotations };
  spec: { nodeName: string; hostNetwork: boolean; containers: { name: string }[] };
  status: { phase: string; conditions: { type: string; $patch?: string }[] };
}
type Annotations = Record<string, string | null>;

const chance = (share: number) => Math.random() < share;

/** Lists, watches and patches as the API server answers them; refuses, cuts and forgets while `unruly`. */
class Api {
  unruly = true;
  readonly pods = new Map<string, Pod>();
  /** Uids. */
  readonly patched = new Set<string>();
  readonly faults = { refused: 0, expired: 0, cut: 0 };
  readonly #watches = new Set<ServerResponse>();
  readonly #server = createServer((request, response) => void this.#answer(request, response));
  #history: { version: number; text: string }[] = [];
  #version = 1;
  #oldest = 1;

  async start(): Promise<KubeConfig> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    const config = new KubeConfig();
    const server = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
    config.loadFromClusterAndUser({ name: 'stand-in', server, skipTLSVerify: true }, { name: 'test' });
    return config;
  }

  stop(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  put(name: string, annotations: Annotations, hostNetwork: boolean): string {
    this.delete(name);
    const uid = `${name}-${this.#version}`;
    const metadata = { namespace: NAMESPACE, name, uid, resourceVersion: '', annotations };
    const spec = { nodeName: 'node', hostNetwork, containers: [{ name: 'app' }] };
    const pod = { metadata, spec, status: { phase: 'Pending', conditions: [] } };
    this.pods.set(name, pod);
    this.tell('ADDED', pod);
    return uid;
  }

  delete(name: string): void {
    const pod = this.pods.get(name);
    if (pod === undefined) return;
    this.pods.delete(name);
    this.tell('DELETED', pod);
  }

  tell(type: string, pod: Pod): void {
    pod.metadata.resourceVersion = String(++this.#version);
    const text = line(type, pod);
    this.#history.push({ version: this.#version, text });
    for (const watch of this.#watches) watch.write(text);
  }

  /** Ends the watches in the middle of a line; sometimes what they missed is forgotten. */
  cut(): void {
    this.faults.cut += this.#watches.size;
    for (const watch of this.#watches) watch.write('{"type":"MODI', () => watch.socket?.destroy());
    this.#watches.clear();
    if (!chance(0.3)) return;
    this.#history = [];
    this.#oldest = ++this.#version;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams: query } = new URL(request.url ?? '/', 'http://stand-in');
    if (request.method === 'PATCH') {
      const body = JSON.parse(await text(request)) as Pod;
      const refuse = () => {
        this.faults.refused++;
        if (chance(0.3)) response.destroy();
        else if (chance(0.2)) status(response, 429, 'TooManyRequests', { 'Retry-After': '1' });
        else status(response, 500, 'InternalError');
      };
      // A refusal before anything was done, or an answer that goes astray after it.
      if (this.unruly && chance(0.2)) return refuse();
      const { code, message } = this.#patch(pathname.split('/')[6] ?? '', body);
      if (this.unruly && chance(0.05)) return refuse();
      const { resourceVersion } = this.pods.get(pathname.split('/')[6] ?? '')?.metadata ?? {};
      const answer = JSON.stringify({ message, metadata: { resourceVersion } });
      response.writeHead(code, { 'Content-Type': 'application/json' }).end(answer);
      return;
    }
    request.resume();
    if (request.method === 'POST') reply(response, {});
    else if (query.has('watch')) this.#watch(response, Number(query.get('resourceVersion')), pathname);
    else {
      const items =
        pathname === '/api/v1/pods' ? [...this.pods.values()] : [{ metadata: { name: NAMESPACE, uid: '1' } }];
      reply(response, { metadata: { resourceVersion: String(this.#version) }, items });
    }
  }

  #watch(response: ServerResponse, from: number, pathname: string): void {
    if (from < this.#oldest && pathname === '/api/v1/pods') {
      this.faults.expired++;
      status(response, 410, 'Expired');
      return;
    }
    response.writeHead(200).flushHeaders();
    if (pathname !== '/api/v1/pods') return;
    for (const { version, text } of this.#history) if (version > from) response.write(text);
    this.#watches.add(response);
    response.on('close', () => this.#watches.delete(response));
  }

  #patch(name: string, { metadata, status: { conditions } }: Pod): { code: number; message?: string } {
    const pod = this.pods.get(name);
    if (pod === undefined) return { code: 404 };
    if (pod.metadata.uid !== metadata.uid) return { code: 422, message: 'metadata.uid: Invalid value' };
    this.patched.add(metadata.uid);
    for (const [key, value] of Object.entries(metadata.annotations)) {
      if (value === null) delete pod.metadata.annotations[key];
      else pod.metadata.annotations[key] = value;
    }
    const others = pod.status.conditions.filter(({ type }) => !conditions.some((condition) => condition.type === type));
    pod.status.conditions = [...others, ...conditions.filter(({ $patch }) => $patch === undefined)];
    this.tell('MODIFIED', pod);
    return { code: 200 };
  }
}

function reply(response: ServerResponse, body: unknown): void {
  response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
}

class KnownPlaces extends Locator {
  readonly #farm: Farm;

  constructor(farm: Farm) {
    super({});
    this.#farm = farm;
  }

  override async locatePod({ uid }: PodRef): Promise<Located | NotLocated> {
    const path = this.#farm.file(uid);
    return native()
      .identify(path)
      .then(
        (netns): Located => ({ path, source: 'cri', netns }),
        (error): NotLocated => ({ path: undefined, reason: 'no-sandbox', detail: String(error) }),
      );
  }
}

async function until(what: string, right: () => boolean, state: () => unknown): Promise<void> {
  for (const limit = performance.now() + 30_000; !right(); await sleep(20)) {
    if (performance.now() > limit) throw new Error(`not ${what}: ${JSON.stringify(state())}`);
  }
}

test(
  'in the end each living pod that asks for it is marked with its own netns, and no other',
  async () => {
    await using farm = new Farm('churn');
    const api = new Api();
    const config = await api.start();
    const stop = new AbortController();
    const kube = new Kube(() => config);
    const log = createLogger({ level: 'silent' });
    const marker = new StatusMarker(kube);
    const recorder = new EventRecorder({ requests: kube, node: 'node', onError: () => {} });
    const runConfig = readConfig({ flags: new Map(), environment: { NODE_NAME: 'node', IPNC_ENROLL: 'annotation' } });
    const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    const probe = await native().probe();
    const initializer = new Initializer({ config: runConfig, locator: new KnownPlaces(farm), marker, probe, bootId });
    const metrics = createMetrics('test', {
      queue: () => controller.queue(),
      pods: () => controller.states(),
      watches: () => controller.watches(),
      events: () => recorder.stats,
      eventSource: () => 'none',
    });
    const options = { kube, nodeName: 'node', resyncMs: 3_600_000, concurrency: 8, log };
    const controller = new Controller({ ...options, initializer, marker, recorder, metrics });
    const ended = controller.run(stop.signal, AbortSignal.timeout(60_000));
    /** Uids of the pods that ever asked for it. */
    const enrolled = new Set<string>();
    const asks = ({ metadata, spec }: Pod) => metadata.annotations[INITIALIZE] === 'true' && !spec.hostNetwork;
    const idle = () => {
      const { waiting, running, backingOff } = controller.queue();
      return waiting.new + waiting.resync + running + backingOff === 0;
    };
    try {
      const making: Promise<unknown>[] = [];
      for (let step = 0; step < STEPS; step++) {
        const name = `pod${Math.floor(Math.random() * PODS)}`;
        const known = api.pods.get(name);
        if (known === undefined || chance(0.3)) {
          const old = known && farm.file(known.metadata.uid);
          const uid = api.put(name, chance(0.6) ? { [INITIALIZE]: 'true' } : {}, chance(0.1));
          // Its sandbox is ready a while after the API tells of it, or never if it has the host's.
          making.push(sleep(20 * Math.random()).then(() => farm.add(farm.file(uid))));
          if (old !== undefined) making.push(sleep(100).then(() => farm.del(old)));
        } else if (chance(0.5)) {
          known.status.phase = 'Running';
          if (chance(0.3)) known.metadata.annotations[INITIALIZE] = chance(0.5) ? 'true' : 'false';
          api.tell('MODIFIED', known);
        } else {
          api.delete(name);
          making.push(sleep(100).then(() => farm.del(farm.file(known.metadata.uid))));
        }
        for (const pod of api.pods.values()) if (asks(pod)) enrolled.add(pod.metadata.uid);
        if (chance(0.02)) api.cut();
        if (chance(0.3)) await sleep(2);
      }
      await Promise.all(making);
      api.cut();
      api.unruly = false;

      const living = () => [...api.pods.values()];
      const marked = (pod: Pod) => pod.metadata.annotations[STATUS] === INITIALIZED;
      const settled = () => idle() && living().every((pod) => marked(pod) === asks(pod));
      await until('settled', settled, () => [
        living().filter((pod) => marked(pod) !== asks(pod)),
        controller.states(),
        api.faults,
      ]);
      assert.ok(
        Object.values(api.faults).every((count) => count > 0),
        JSON.stringify(api.faults),
      );

      for (const pod of living()) {
        const { uid, annotations } = pod.metadata;
        const { cookie, standing } = await native().identify(farm.file(uid));
        assert.is(annotations[NETNS] ?? undefined, asks(pod) ? `${bootId}:${cookie}` : undefined, uid);
        assert.is(annotations[RULES] !== undefined, asks(pod), uid);
        assert.equal(standing, asks(pod) ? ['iptables-legacy'] : [], uid);
      }
      assert.equal(
        [...api.patched].filter((uid) => !enrolled.has(uid)),
        [],
      );
      // Nothing has to be put right: the rules are whole.
      assert.is(await controller.sweep(), living().filter(asks).length);
      assert.ok(idle());

      for (const { metadata } of living()) api.delete(metadata.name);
      await until(
        'forgotten',
        () => controller.views().length === 0 && idle(),
        () => controller.states(),
      );
    } finally {
      stop.abort();
      await ended;
      kube.close();
      api.stop();
    }
  },
  { timeoutMs: 180_000 },
);
