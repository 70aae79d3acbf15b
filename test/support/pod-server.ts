/**
 * A stand-in for kube-apiserver's lists and watches of one node's pods and patches of their status, over plain HTTP, that
 * refuses, cuts and forgets on command: the real one cannot be told when.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { KubeConfig } from '@kubernetes/client-node';
import { status } from './watch-server.ts';
import { line } from './wire.ts';

const NAMESPACE = 'default';
export const NODE = 'node';

export interface Pod {
  metadata: { namespace: string; name: string; uid: string; resourceVersion: string; annotations: Annotations };
  spec: {
    nodeName: string;
    hostNetwork: boolean;
    containers: { name: string }[];
    initContainers?: object[];
    readinessGates?: { conditionType: string }[];
  };
  status: { phase: string; conditions: { type: string; $patch?: string }[]; initContainerStatuses?: object[] };
}
type Annotations = Record<string, string | null>;

/** May answer instead, and then says true. `done`: the patch has been made, and its answer has not been sent. */
type OnPatch = (when: 'asked' | 'done', uid: string, response: ServerResponse) => boolean | Promise<boolean>;

export class PodServer {
  readonly pods = new Map<string, Pod>();
  /** Uids. */
  readonly patched = new Set<string>();
  /** Events that were created. */
  readonly events: { reason: string; note: string; regarding: { uid: string } }[] = [];
  /** Watches that were answered with 410. */
  expired = 0;
  onPatch: OnPatch = () => false;
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

  /** Whether somebody watches pods. */
  get watched(): boolean {
    return this.#watches.size > 0;
  }

  /** A new pod, also where one of this name is; its uid. */
  put(name: string, annotations: Annotations, hostNetwork = false, more: Partial<Pod['spec']> = {}): string {
    this.delete(name);
    const uid = `${name}-${this.#version}`;
    const metadata = { namespace: NAMESPACE, name, uid, resourceVersion: '', annotations };
    const spec = { nodeName: NODE, hostNetwork, containers: [{ name: 'app' }], ...more };
    const pod: Pod = { metadata, spec, status: { phase: 'Pending', conditions: [] } };
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

  /** Ends the watches in the middle of a line; returns how many. */
  cut(): number {
    const count = this.#watches.size;
    for (const watch of this.#watches) watch.write('{"type":"MODI', () => watch.socket?.destroy());
    this.#watches.clear();
    return count;
  }

  /** What those missed who do not watch just now. */
  forget(): void {
    this.#history = [];
    this.#oldest = ++this.#version;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams: query } = new URL(request.url ?? '/', 'http://stand-in');
    if (request.method === 'PATCH') {
      const body = JSON.parse(await text(request)) as Pod;
      const name = pathname.split('/')[6] ?? '';
      const { uid } = body.metadata;
      if (await this.onPatch('asked', uid, response)) return;
      const { code, message } = this.#patch(name, body);
      if (await this.onPatch('done', uid, response)) return;
      const { resourceVersion } = this.pods.get(name)?.metadata ?? {};
      const answer = JSON.stringify({ message, metadata: { resourceVersion } });
      response.writeHead(code, { 'Content-Type': 'application/json' }).end(answer);
      return;
    }
    if (request.method === 'POST') {
      this.events.push(JSON.parse(await text(request)));
      reply(response, {});
      return;
    }
    request.resume();
    if (query.has('watch')) this.#watch(response, Number(query.get('resourceVersion')), pathname);
    else {
      const items =
        pathname === '/api/v1/pods' ? [...this.pods.values()] : [{ metadata: { name: NAMESPACE, uid: '1' } }];
      reply(response, { metadata: { resourceVersion: String(this.#version) }, items });
    }
  }

  #watch(response: ServerResponse, from: number, pathname: string): void {
    if (from < this.#oldest && pathname === '/api/v1/pods') {
      this.expired++;
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
