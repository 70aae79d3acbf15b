/** What a node's controller tells over HTTP: its health, its metrics, its pods. It takes nothing. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Failure } from '../errors.ts';
import type { Metrics } from './metrics.ts';
import { CONTENT_SECURITY_POLICY, type PodView, podsPage } from './page.ts';

export interface Told {
  /** What is wrong with the process itself, so that it has to be started anew; empty if nothing is. */
  livez(): string[];
  /** What is missing yet, `pods: first list`; empty when the controller does its work. */
  readyz(): string[];
  metrics: Pick<Metrics, 'contentType' | 'text'>;
  pods(): readonly PodView[];
}

export interface HttpOptions extends Told {
  listen: ListenAddress;
  /** Hears what a handler threw; the client reads 500. */
  onError: (error: unknown) => void;
  limits?: Partial<Limits>;
}

export interface ListenAddress {
  /** Absent: every address of the machine. */
  host?: string | undefined;
  /** 0: any that is free. */
  port: number;
}

interface Limits {
  /** Of the whole request, from its first byte. */
  requestMs: number;
  /** Without a byte in either direction. */
  idleMs: number;
  connections: number;
}

export interface HttpServer {
  /** `127.0.0.1:9102` */
  address: string;
  /** Also what is being answered ends. */
  close(): Promise<void>;
}

const LIMITS: Limits = { requestMs: 5_000, idleMs: 10_000, connections: 64 };
/** A GET of ours needs no more. */
const MAX_HEADER_BYTES = 8192;

interface Answer {
  status: number;
  type: string;
  body: string;
  headers?: Record<string, string>;
}

type Handler = (request: IncomingMessage) => Answer | Promise<Answer>;

/** Resolves when it listens. Rejects with Failure `ERR_LISTEN`. */
export async function startHttp(options: HttpOptions): Promise<HttpServer> {
  const { requestMs, idleMs, connections } = { ...LIMITS, ...options.limits };
  const routes = routesOf(options);
  const server = createServer(
    {
      requestTimeout: requestMs,
      headersTimeout: requestMs,
      // Node looks each 30 s otherwise, and lets a slow client be for as long.
      connectionsCheckingInterval: requestMs,
      maxHeaderSize: MAX_HEADER_BYTES,
    },
    (request, response) => {
      answer(routes, request, options.onError).then(
        (told) => send(response, told),
        (error: unknown) => options.onError(error),
      );
    },
  );
  server.timeout = idleMs;
  server.maxConnections = connections;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(refused(error, options.listen)));
    server.listen(options.listen, resolve);
  });
  server.removeAllListeners('error').on('error', options.onError);
  const { address, family, port } = server.address() as AddressInfo;
  return {
    address: family === 'IPv6' ? `[${address}]:${port}` : `${address}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function routesOf({ livez, readyz, metrics, pods }: Told): Map<string, Handler> {
  return new Map<string, Handler>([
    ['/livez', () => health(livez())],
    ['/readyz', () => health(readyz())],
    ['/metrics', async () => ({ status: 200, type: metrics.contentType, body: await metrics.text() })],
    ['/pods', ({ headers }) => podList(pods(), wantsHtml(headers.accept))],
  ]);
}

async function answer(routes: Map<string, Handler>, request: IncomingMessage, onError: HttpOptions['onError']) {
  const [path = ''] = (request.url ?? '').split('?');
  const handler = routes.get(path);
  if (handler === undefined) return plain(404, `Nothing is here. There are ${[...routes.keys()].join(', ')}.`);
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    return plain(405, 'Only GET and HEAD are answered.', { Allow: 'GET, HEAD' });
  }
  try {
    return await handler(request);
  } catch (error) {
    onError(error);
    return plain(500, "This failed; the controller's log says why.");
  }
}

function send(response: ServerResponse, { status, type, body, headers }: Answer): void {
  response.writeHead(status, {
    'Content-Type': type,
    'Content-Length': Buffer.byteLength(body),
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
    ...headers,
  });
  // For HEAD, Node sends no body.
  response.end(body);
}

function plain(status: number, text: string, headers: Record<string, string> = {}): Answer {
  return { status, type: 'text/plain; charset=utf-8', body: `${text}\n`, headers };
}

function health(problems: readonly string[]): Answer {
  return problems.length === 0 ? plain(200, 'ok') : plain(503, problems.join('\n'));
}

function podList(pods: readonly PodView[], html: boolean): Answer {
  const vary = { Vary: 'Accept' };
  if (!html) return { status: 200, type: 'application/json', body: `${JSON.stringify({ pods })}\n`, headers: vary };
  return {
    status: 200,
    type: 'text/html; charset=utf-8',
    body: podsPage(pods),
    headers: { ...vary, 'Content-Security-Policy': CONTENT_SECURITY_POLICY, 'Referrer-Policy': 'no-referrer' },
  };
}

/** Whether HTML is named, as browsers do, and not less welcome than JSON. A wildcard means JSON. */
function wantsHtml(accept = ''): boolean {
  const quality = (type: string) => {
    const range = accept.split(',').find((range) => range.split(';')[0]?.trim().toLowerCase() === type);
    return range === undefined ? 0 : Number(/;\s*q=([\d.]+)/i.exec(range)?.[1] ?? 1);
  };
  const html = quality('text/html');
  return html > 0 && html >= quality('application/json');
}

function refused(cause: Error, { host = '', port }: ListenAddress): Failure {
  return new Failure('ERR_LISTEN', { subject: `${host}:${port}`, detail: cause.message, cause });
}
