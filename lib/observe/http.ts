/**
 * The HTTP servers of a node's controller: one answers the kubelet's probes, the other serves metrics and the list of
 * pods. Requests change nothing. Anyone in the cluster's network can connect, so a slow client, or many connections,
 * must not keep other clients out.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, isIP } from 'node:net';
import { Failure, printable } from '../errors.ts';
import { boundConnections, type ConnectionLimits } from './connections.ts';
import type { Metrics } from './metrics.ts';
import { CONTENT_SECURITY_POLICY, type PodView, podsPage, rulesPage } from './page.ts';
import { type PodRules, rulesSections, rulesText } from './rules.ts';

export interface Health {
  /** The problems that only a restart of the process can solve; empty if there are none. */
  livez(): string[];
  /** What the controller still waits for, such as `pods: first list`; empty once it works. */
  readyz(): string[];
}

export interface Observed {
  metrics: Pick<Metrics, 'contentType' | 'text'>;
  pods(): readonly PodView[];
  /** The rules of the pod with this uid; undefined if it is unknown or has none. Absent: they are not served. */
  rules?: (uid: string) => Promise<PodRules | undefined>;
}

export interface HttpOptions {
  listen: ListenAddress;
  /** See healthRoutes and observedRoutes. */
  routes: Routes;
  /** Host names that requests may use, in addition to addresses and localhost. */
  hosts?: readonly string[];
  /** Is called with what a handler threw; the client gets status 500. */
  onError: (error: unknown) => void;
  limits?: Partial<HttpLimits>;
}

export interface ListenAddress {
  /** Absent means every address of the machine. */
  host?: string | undefined;
  /** 0 means any free port. */
  port: number;
}

export interface HttpLimits extends ConnectionLimits {
  /** The limit of the whole request, from its first byte. */
  requestMs: number;
  /** The limit of the whole answer, until its last byte is sent. */
  answerMs: number;
  /** The limit of the time without a byte in either direction. */
  idleMs: number;
}

export interface HttpServer extends AsyncDisposable {
  /** `127.0.0.1:9102` */
  address: string;
  /** Also ends requests in progress. */
  close(): Promise<void>;
}

const LIMITS: HttpLimits = { requestMs: 5_000, answerMs: 20_000, idleMs: 10_000, connections: 64, perAddress: 16 };
/** Enough for a GET request to this server. */
const MAX_HEADER_BYTES = 8192;
/** The number of requests after which a connection is closed. */
const MAX_REQUESTS = 100;
/** How long an answer that is costly to make is reused. */
const FRESH_MS = 250;
/** The time between two readings of the rules of a pod, for all clients and pods. Each one is a job in the pod. */
const RULES_EACH_MS = 1000;

interface Answer {
  status: number;
  type: string;
  body: Buffer;
  headers?: Record<string, string>;
}

type Handler = (request: IncomingMessage) => Answer | Promise<Answer>;
export type Routes = ReadonlyMap<string, Handler>;

/** The routes of the kubelet's probes. They read only memory, so that they always answer at once. */
export function healthRoutes({ livez, readyz }: Health): Routes {
  return new Map<string, Handler>([
    ['/livez', () => health(livez())],
    ['/readyz', () => health(readyz())],
  ]);
}

export function observedRoutes({ metrics, pods, rules }: Observed): Routes {
  const text = remembered(async () => answerOf(200, metrics.contentType, await metrics.text()));
  const json = remembered(() => podList(pods()));
  const html = remembered(() => page(podsPage(pods())));
  return new Map<string, Handler>([
    ['/metrics', text],
    ['/pods', ({ headers }) => (wantsHtml(headers.accept) ? html() : json())],
    ...(rules === undefined ? [] : [['/rules', rulesHandler(rules)] as const]),
  ]);
}

/** Answers `/rules?uid=UID`. Only one pod is read at a time, because each reading occupies a thread of the addon. */
function rulesHandler(rules: NonNullable<Observed['rules']>): Handler {
  let nextAt = 0;
  let busy = false;
  return async ({ url = '', headers }) => {
    const uid = new URLSearchParams(url.split('?')[1]).get('uid');
    if (uid === null) return plain(400, 'Name the pod: /rules?uid=UID. /pods has the uids.');
    if (busy || performance.now() < nextAt) {
      return plain(503, 'The controller reads the rules of one pod a second. Try again.', { 'Retry-After': '1' });
    }
    busy = true;
    try {
      const found = await rules(uid);
      if (found === undefined) {
        return plain(404, 'This controller has no pod with this uid, or no installed rules and plan of it. See /pods.');
      }
      const sections = rulesSections(found);
      if (wantsHtml(headers.accept)) return page(rulesPage(sections));
      return answerOf(200, 'text/plain; charset=utf-8', rulesText(sections), VARY);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      return plain(503, `The rules of this pod cannot be read: ${printable(error.message)}`);
    } finally {
      busy = false;
      nextAt = performance.now() + RULES_EACH_MS;
    }
  };
}

/** Resolves when the server listens. Rejects with Failure `ERR_LISTEN`. */
export async function startHttp(options: HttpOptions): Promise<HttpServer> {
  const limits = { ...LIMITS, ...options.limits };
  const server = createServer(
    {
      requestTimeout: limits.requestMs,
      headersTimeout: limits.requestMs,
      // The default of Node is 30 s, which lets a slow client stay for as long.
      connectionsCheckingInterval: limits.requestMs,
      maxHeaderSize: MAX_HEADER_BYTES,
    },
    (request, response) => {
      const late = setTimeout(() => request.socket.destroy(), limits.answerMs);
      response.once('close', () => clearTimeout(late));
      answer(options, request).then(
        (given) => send(response, given),
        (error: unknown) => options.onError(error),
      );
    },
  );
  server.timeout = limits.idleMs;
  server.maxRequestsPerSocket = MAX_REQUESTS;
  boundConnections(server, limits);
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(refused(error, options.listen)));
    server.listen(options.listen, resolve);
  });
  server.removeAllListeners('error').on('error', options.onError);
  const { address, family, port } = server.address() as AddressInfo;
  const close = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  return {
    address: family === 'IPv6' ? `[${address}]:${port}` : `${address}:${port}`,
    close,
    [Symbol.asyncDispose]: close,
  };
}

async function answer({ routes, hosts = [], onError }: HttpOptions, request: IncomingMessage): Promise<Answer> {
  const { host } = request.headers;
  if (host !== undefined && !isOurs(host, hosts)) {
    return plain(421, 'Use an IP address, localhost, or a host name that --http-hosts lists.');
  }
  const [path = ''] = (request.url ?? '').split('?');
  const handler = routes.get(path);
  if (handler === undefined)
    return plain(404, `This path does not exist. The paths are ${[...routes.keys()].join(', ')}.`);
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    return plain(405, 'This server answers only GET and HEAD.', { Allow: 'GET, HEAD' });
  }
  try {
    return await handler(request);
  } catch (error) {
    onError(error);
    return plain(500, "The request failed. The controller's log says why.");
  }
}

/**
 * Whether the request names this server. Otherwise a foreign web page whose host name resolves to this address could
 * read what only this network may read (DNS rebinding). A browser sends the name that the page used.
 */
function isOurs(host: string, names: readonly string[]): boolean {
  const [, bracketed, plain = ''] = /^(?:\[([^\]]*)\]|([^:[\]]*))(?::\d*)?$/.exec(host) ?? [];
  if (bracketed !== undefined) return isIP(bracketed) === 6;
  const name = plain.toLowerCase().replace(/\.$/, '');
  return isIP(name) === 4 || name === 'localhost' || names.includes(name);
}

/** Reuses an answer for FRESH_MS, and for all requests that come while it is made. */
function remembered(make: () => Answer | Promise<Answer>): () => Promise<Answer> {
  let made: Promise<Answer> | undefined;
  return () => {
    if (made === undefined) {
      const making = (async () => make())();
      const forget = () => {
        if (made === making) made = undefined;
      };
      made = making;
      making.then(() => setTimeout(forget, FRESH_MS).unref(), forget);
    }
    return made;
  };
}

function send(response: ServerResponse, { status, type, body, headers }: Answer): void {
  response.writeHead(status, {
    'Content-Type': type,
    'Content-Length': body.length,
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
    ...headers,
  });
  // For HEAD, Node sends no body.
  response.end(body);
}

function answerOf(status: number, type: string, text: string, headers: Record<string, string> = {}): Answer {
  return { status, type, body: Buffer.from(text), headers };
}

function plain(status: number, text: string, headers: Record<string, string> = {}): Answer {
  return answerOf(status, 'text/plain; charset=utf-8', `${text}\n`, headers);
}

function health(problems: readonly string[]): Answer {
  return problems.length === 0 ? plain(200, 'ok') : plain(503, problems.join('\n'));
}

const VARY = { Vary: 'Accept' };

function podList(pods: readonly PodView[]): Answer {
  return answerOf(200, 'application/json', `${JSON.stringify({ pods })}\n`, VARY);
}

function page(html: string): Answer {
  return answerOf(200, 'text/html; charset=utf-8', html, {
    ...VARY,
    'Content-Security-Policy': CONTENT_SECURITY_POLICY,
    'Referrer-Policy': 'no-referrer',
  });
}

/** Whether the client accepts HTML by name, as browsers do, and does not prefer JSON. A wildcard means JSON. */
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
