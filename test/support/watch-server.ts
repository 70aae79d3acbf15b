/**
 * A stand-in for kube-apiserver's list and watch of pods, over plain HTTP, that misbehaves on command: the real one
 * cannot be told to cut an event in two or to hang. What the real one does is tested in test/cluster/informer.test.ts.
 */
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { KubeConfig } from '@kubernetes/client-node';
import { ApiClient } from '../../lib/kube/client.ts';
import { WIRES, type Wire } from './wire.ts';

export interface Pod {
  metadata: {
    namespace: string;
    name: string;
    uid: string;
    resourceVersion: string;
    annotations: { note: string };
  };
}

interface WatchEvent {
  version: number;
  type: string;
  object: Pod;
}

export interface Asked {
  kind: 'list' | 'watch' | 'other';
  query: URLSearchParams;
  headers: IncomingHttpHeaders;
  /** performance.now(). */
  at: number;
}

/** Instead of the right answer. */
export type Fault = (response: ServerResponse, asked: Asked) => void;

export interface WatchServer {
  wire: Wire;
  url: string;
  kube: ApiClient;
  /** Every request so far. */
  asked: Asked[];
  /** For the next requests of a kind, one each; then it behaves again. */
  faults: Record<Asked['kind'], Fault[]>;
  /** Answers to the watches that are open. */
  watches: Set<ServerResponse>;
  /** The tokens a client may use; any if absent; the one a client loads, and how often it did. */
  token: { valid?: string; onFile: string; loads: number };
  /** Creates or changes a pod; a new uid if told so, without the pod having been seen to go. */
  put(name: string, note?: string, options?: { recreated?: boolean }): Pod;
  delete(name: string): void;
  pods(): Pod[];
  /** Forgets history: to go on from a version before this is answered with 410. */
  compact(): void;
  /** Changes made from now on are not told to open watches; later ones are. */
  silently(change: () => void): void;
  /** Writes to each open watch, all at once. */
  write(...data: Buffer[]): void;
  bookmark(): void;
  /** Ends the open watches as the real one does when their time is over. */
  end(last?: Buffer): void;
  /** Breaks the connections of the open watches, after `half` has been sent. */
  cut(half?: Buffer): void;
  close(): Promise<void>;
}

export async function startWatchServer(wire: Wire = WIRES.protobuf): Promise<WatchServer> {
  const pods = new Map<string, Pod>();
  let history: WatchEvent[] = [];
  let version = 1;
  let oldest = 1;
  let silent = false;
  const sockets = new Set<Socket>();
  const asked: Asked[] = [];
  const faults: WatchServer['faults'] = { list: [], watch: [], other: [] };
  const watches = new Set<ServerResponse>();
  const token: WatchServer['token'] = { onFile: 'first', loads: 0 };

  const tell = (type: string, object: Pod) => {
    const event = { version, type, object };
    history.push(event);
    if (!silent) for (const watch of watches) watch.write(wire.event(type, object));
  };
  const answerList = (response: ServerResponse, query: URLSearchParams) => {
    const all = [...pods.values()];
    const from = Number(query.get('continue') ?? 0);
    const to = from + Number(query.get('limit'));
    const metadata = { resourceVersion: `${version}`, ...(to < all.length && { continue: `${to}` }) };
    response.end(wire.list({ metadata, items: all.slice(from, to) }));
  };
  const answerWatch = (response: ServerResponse, query: URLSearchParams) => {
    const from = Number(query.get('resourceVersion'));
    if (from < oldest) return expired(response);
    response.writeHead(200, { 'Content-Type': wire.watchType });
    response.flushHeaders();
    for (const { version, type, object } of history) if (version > from) response.write(wire.event(type, object));
    watches.add(response);
    response.on('close', () => watches.delete(response));
  };

  const server = createServer((request: IncomingMessage, response) => {
    const { pathname, searchParams: query } = new URL(request.url ?? '/', 'http://stand-in');
    const kind = pathname !== '/api/v1/pods' ? 'other' : query.has('watch') ? 'watch' : 'list';
    const entry: Asked = { kind, query, headers: request.headers, at: performance.now() };
    asked.push(entry);
    response.setHeader('Content-Type', kind === 'other' ? WIRES.JSON.objectType : wire.objectType);
    const fault = faults[kind].shift();
    if (fault !== undefined) fault(response, entry);
    else if (token.valid !== undefined && request.headers.authorization !== `Bearer ${token.valid}`) {
      status(response, 401, 'Unauthorized');
    } else if (kind === 'list') answerList(response, query);
    else if (kind === 'watch') answerWatch(response, query);
    else response.end(JSON.stringify({ method: request.method }));
  });
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const kube = new ApiClient(() => {
    token.loads++;
    return watchServerConfig(url, token.onFile);
  });

  const standIn: WatchServer = {
    wire,
    url,
    kube,
    asked,
    faults,
    watches,
    token,
    put(name, note = '', { recreated = false } = {}) {
      const before = recreated ? undefined : pods.get(name);
      if (recreated && pods.has(name)) standIn.delete(name);
      const uid = before?.metadata.uid ?? `${name}-${version}`;
      version++;
      const pod = {
        metadata: { namespace: 'default', name, uid, resourceVersion: `${version}`, annotations: { note } },
      };
      pods.set(name, pod);
      tell(before ? 'MODIFIED' : 'ADDED', pod);
      return pod;
    },
    delete(name) {
      const pod = pods.get(name);
      if (pod === undefined) throw new Error(`no pod ${name}`);
      version++;
      pods.delete(name);
      tell('DELETED', { ...pod, metadata: { ...pod.metadata, resourceVersion: `${version}` } });
    },
    pods: () => [...pods.values()],
    compact() {
      history = [];
      oldest = version;
    },
    silently(change) {
      silent = true;
      change();
      silent = false;
    },
    write(...data) {
      for (const watch of watches) watch.write(Buffer.concat(data));
    },
    bookmark() {
      standIn.write(wire.event('BOOKMARK', { metadata: { resourceVersion: `${++version}` } }));
    },
    end(last) {
      for (const watch of watches) watch.end(last);
      watches.clear();
    },
    cut(half = Buffer.alloc(0)) {
      for (const watch of watches) watch.write(half, () => watch.socket?.destroy());
      watches.clear();
    },
    async close() {
      kube.close();
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
  return standIn;
}

/** In the form of the answer's Content-Type. */
export function status(response: ServerResponse, code: number, reason: string, headers: Record<string, string> = {}) {
  const wire = response.getHeader('Content-Type') === WIRES.protobuf.objectType ? WIRES.protobuf : WIRES.JSON;
  response.writeHead(code, { 'Content-Type': wire.objectType, ...headers });
  response.end(wire.status({ kind: 'Status', status: 'Failure', code, reason, message: `stand-in: ${reason}` }));
}

function expired(response: ServerResponse): void {
  status(response, 410, 'Expired');
}

function watchServerConfig(server: string, token: string): KubeConfig {
  const config = new KubeConfig();
  // client-node refuses plain HTTP without skipTLSVerify.
  config.loadFromClusterAndUser({ name: 'stand-in', server, skipTLSVerify: true }, { name: 'test', token });
  return config;
}
