/**
 * Many controllers, one for each node, against one real API server. A driver creates pods that are bound to the nodes already and
 * deletes them, so no scheduler and no kubelet runs: what is measured is what the controllers add.
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { Agent, request } from 'node:https';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ControlPlane, startControlPlane } from '../../test/cluster/control-plane.ts';
import { isOver } from '../../test/support/patience.ts';
import { Sandboxes } from '../controller/churn.ts';
import { NAMESPACE, podToCreate } from '../controller/pods.ts';
import { Subject } from '../controller/subject.ts';
import { TOOLBOX } from '../farm.ts';
import type { Point } from './model.ts';

/** How long a pod lives, in milliseconds. */
const LIFE_MS = 3_000;
/** In this time after its first answer the API server has no other work left, and the controllers have connected again. */
const RESTART_MS = 20_000;
const RESTART_LIMIT_MS = 120_000;
/** How many controllers start at a time, so that a start has the CPU that it has on a node of its own. */
const STARTING = 4;
const PODS = `/api/v1/namespaces/${NAMESPACE}/pods`;

export interface ClusterOptions {
  /** A new folder. */
  folder: string;
  bundle: string;
  execArgv: string[];
}

/** What one second costs, while pods start and end at a rate. */
export interface Load extends Point {
  /** Seconds of CPU of kube-apiserver, and of etcd. */
  apiServer: number;
  etcd: number;
  /** Requests that change something, and the bytes of events that watchers got. */
  writes: number;
  watchBytes: number;
}

/** What the start of all controllers at the same time cost. */
export interface Herd {
  /** Milliseconds from the first start until every controller had examined its pods. */
  examined: number;
  /** Seconds of CPU of kube-apiserver for each controller. */
  apiServer: number;
}

/** What a restart of the API server cost. */
export interface Restarted {
  /** Milliseconds from its first answer until it had as many watches of pods as before. */
  watching: number;
  /** Seconds of its CPU since its start, RESTART_MS after its first answer. */
  apiServer: number;
  /** How many watches of controllers had to start again with a list. */
  expired: number;
}

interface Usage {
  at: number;
  events: number;
  apiServer: number;
  etcd: number;
  writes: number;
  watchBytes: number;
}

export class ManyNodes implements AsyncDisposable {
  readonly #options: ClusterOptions;
  readonly #controlPlane: ControlPlane;
  readonly #sandboxes: Sandboxes;
  readonly #client: Client;
  #subjects: Subject[] = [];
  #marks: Point['marks'] = 'all';
  #made = 0;

  private constructor(options: ClusterOptions, controlPlane: ControlPlane, sandboxes: Sandboxes) {
    this.#options = options;
    this.#controlPlane = controlPlane;
    this.#sandboxes = sandboxes;
    this.#client = new Client(controlPlane.kubeconfig);
  }

  static async start(options: ClusterOptions): Promise<ManyNodes> {
    const places = join(options.folder, 'netns');
    mkdirSync(places, { recursive: true });
    const cluster = new ManyNodes(
      options,
      await startControlPlane({ apiServerFlags: { profiling: 'true' } }),
      new Sandboxes(TOOLBOX, places),
    );
    await cluster.#client.send('POST', '/api/v1/namespaces', { metadata: { name: NAMESPACE } });
    const account = { metadata: { name: 'default' } };
    await cluster.#client.send('POST', `/api/v1/namespaces/${NAMESPACE}/serviceaccounts`, account);
    return cluster;
  }

  /** Replaces all controllers by so many new ones, as far as possible at the same time. */
  async use(nodes: number, marks: Point['marks'], atOnce = STARTING): Promise<Herd> {
    await Promise.all(this.#subjects.map((subject) => subject[Symbol.asyncDispose]()));
    this.#subjects = [];
    this.#marks = marks;
    const before = await this.#usage();
    const { bundle, execArgv, folder } = this.#options;
    const examined: number[] = [];
    let begun = 0;
    const lane = async () => {
      while (begun < nodes) {
        const name = `node-${begun++}`;
        const words = [this.#controlPlane.kubeconfig, this.#sandboxes.folder, name];
        const options = { IPNC_MARKS: marks, IPNC_LOG_LEVEL: 'error' };
        const subject = new Subject(bundle, words, execArgv, join(folder, `${name}.log`), options);
        this.#subjects.push(subject);
        examined.push(await subject.examinedAt());
      }
    };
    const startedAt = performance.timeOrigin + performance.now();
    await Promise.all(Array.from({ length: atOnce }, lane));
    const after = await this.#usage();
    const apiServer = nodes === 0 ? 0 : (after.apiServer - before.apiServer) / nodes;
    return { examined: Math.max(startedAt, ...examined) - startedAt, apiServer };
  }

  async load(startsPerSecond: number, seconds: number): Promise<Load> {
    // The pods of the first seconds do not count, because none of them ends yet.
    const churning = startsPerSecond === 0 ? undefined : this.#churn(startsPerSecond, seconds + LIFE_MS / 1000);
    await sleep(LIFE_MS);
    const begin = await this.#usage();
    await sleep(seconds * 1000);
    const end = await this.#usage();
    await churning;
    const rate = (pick: (usage: Usage) => number) => ((pick(end) - pick(begin)) / (end.at - begin.at)) * 1000;
    return {
      nodes: this.#subjects.length,
      startsPerSecond,
      marks: this.#marks,
      apiServer: rate(({ apiServer }) => apiServer),
      etcd: rate(({ etcd }) => etcd),
      events: rate(({ events }) => events),
      writes: rate(({ writes }) => writes),
      watchBytes: rate(({ watchBytes }) => watchBytes),
    };
  }

  /**
   * Kills kube-apiserver and starts it again. Just before, a pod of another node is created. So every watch asks for an
   * older version than the new process has: 410 for all.
   */
  async restartApiServer(): Promise<Restarted> {
    const service = this.#controlPlane.services.get('kube-apiserver');
    if (service === undefined) throw new Error('kube-apiserver does not run');
    const watches = async () =>
      sumOf(
        await this.#client.send('GET', '/metrics'),
        /^apiserver_longrunning_requests\{.*resource="pods".*verb="WATCH"/,
      );
    const expired = async () => {
      const states = await Promise.all(this.#subjects.map((subject) => subject.state()));
      return states.reduce((sum, state) => sum + state.expired, 0);
    };
    const [before, known] = [await watches(), await expired()];
    const name = `unseen-${this.#made++}`;
    await this.#client.send('POST', PODS, podToCreate(name, name));
    await service.kill();
    service.start();
    await service.ready(async () => (await this.#client.send('GET', '/readyz')) === 'ok');
    const answered = performance.now();
    while ((await watches()) < before) {
      if (isOver(answered, RESTART_LIMIT_MS)) throw new Error(`of ${before} watches only ${await watches()} came back`);
      await sleep(50);
    }
    const watching = performance.now() - answered;
    await sleep(Math.max(0, RESTART_MS - watching));
    const used = cpu(this.#pid('kube-apiserver'));
    await this.#client.send('DELETE', `${PODS}/${name}?gracePeriodSeconds=0`);
    return { watching, apiServer: used, expired: (await expired()) - known };
  }

  /** MiB that kube-apiserver uses after a garbage collection: heap and stacks. Its RSS does not fall when controllers end. */
  async memory(): Promise<number> {
    // This request starts a garbage collection. The API server accepts it only with --profiling.
    await this.#client.send('GET', '/debug/pprof/heap?gc=1');
    const metrics = await this.#client.send('GET', '/metrics');
    return sumOf(metrics, /^go_memstats_(heap_alloc|stack_inuse)_bytes /) / 2 ** 20;
  }

  /** Bytes of etcd's database, as kube-apiserver has it. */
  async stored(): Promise<number> {
    return sumOf(await this.#client.send('GET', '/metrics'), /^apiserver_storage_size_bytes\{/);
  }

  async #churn(rate: number, seconds: number): Promise<void> {
    const lives = new Set<Promise<void>>();
    const failures: unknown[] = [];
    const began = performance.now();
    let begun = 0;
    const live = async (at: number) => {
      const name = `churn-${at}`;
      await this.#sandboxes.add(name);
      await this.#client.send('POST', PODS, podToCreate(name, `node-${at % Math.max(1, this.#subjects.length)}`));
      await sleep(LIFE_MS);
      await this.#client.send('DELETE', `${PODS}/${name}?gracePeriodSeconds=0`);
      await this.#sandboxes.del(name);
    };
    for (let passed = 0; passed < seconds; passed = (performance.now() - began) / 1000) {
      for (; begun < rate * passed; begun++) {
        const one = live(this.#made++)
          .catch((error: unknown) => failures.push(error))
          .then(() => {
            lives.delete(one);
          });
        lives.add(one);
      }
      await sleep(5);
    }
    await Promise.all(lives);
    if (failures.length > 0) throw new Error(`${failures.length} of ${begun} pods failed`, { cause: failures[0] });
  }

  #pid(name: string): number {
    const service = this.#controlPlane.services.get(name);
    if (service === undefined) throw new Error(`${name} does not run`);
    return service.pid();
  }

  async #usage(): Promise<Usage> {
    const metrics = await this.#client.send('GET', '/metrics');
    return {
      at: performance.now(),
      apiServer: cpu(this.#pid('kube-apiserver')),
      etcd: cpu(this.#pid('etcd')),
      events: sumOf(metrics, /^apiserver_request_total\{.*resource="events".*verb="POST"/),
      writes: sumOf(metrics, /^apiserver_request_total\{.*verb="(POST|PATCH|PUT|DELETE)"/),
      watchBytes: sumOf(metrics, /^apiserver_watch_events_sizes_sum\{/),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#subjects.map((subject) => subject[Symbol.asyncDispose]()));
    this.#client.close();
    await this.#sandboxes[Symbol.asyncDispose]();
    await this.#controlPlane.stop();
  }
}

/** Keeps its connections, so that the API server does not pay for handshakes of the driver. */
class Client {
  readonly #server: string;
  readonly #agent: Agent;

  constructor(kubeconfig: string) {
    const { clusters, users } = JSON.parse(readFileSync(kubeconfig, 'utf8')) as {
      clusters: [{ cluster: { server: string; 'certificate-authority-data': string } }];
      users: [{ user: { 'client-certificate-data': string; 'client-key-data': string } }];
    };
    const [{ cluster }] = clusters;
    const [{ user }] = users;
    const decoded = (value: string) => Buffer.from(value, 'base64');
    this.#server = cluster.server;
    this.#agent = new Agent({
      keepAlive: true,
      maxSockets: 16,
      ca: decoded(cluster['certificate-authority-data']),
      cert: decoded(user['client-certificate-data']),
      key: decoded(user['client-key-data']),
    });
  }

  /** Resolves with the body of the answer. */
  async send(method: string, path: string, body?: unknown): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const headers = { 'Content-Type': 'application/json', 'User-Agent': 'bench' };
    request(new URL(path, this.#server), { method, agent: this.#agent, headers }, (response) => {
      const { statusCode = 0 } = response;
      text(response).then((answer) => {
        if (statusCode < 300) resolve(answer);
        else reject(new Error(`${method} ${path}: ${statusCode}: ${answer.slice(0, 300)}`));
      }, reject);
    })
      .on('error', reject)
      .end(body === undefined ? undefined : JSON.stringify(body));
    return promise;
  }

  close(): void {
    this.#agent.destroy();
  }
}

/** The sum of all metrics whose line matches. */
function sumOf(metrics: string, line: RegExp): number {
  return metrics
    .split('\n')
    .filter((each) => line.test(each))
    .reduce((sum, each) => sum + Number(each.split(' ').at(-1)), 0);
}

/** Seconds, of all threads. */
function cpu(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
