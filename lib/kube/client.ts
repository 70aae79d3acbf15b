/**
 * Requests to the Kubernetes API over node:https. Configuration and credentials are client-node's `KubeConfig`; its own
 * client is not used: it makes no keep-alive agent for node:https, and an undici dispatcher for each request.
 */
import { type AgentOptions, Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest, type RequestOptions } from 'node:https';
import { urlToHttpOptions } from 'node:url';
import type { KubeConfig } from '@kubernetes/client-node';
import { type Code, Failure } from '../errors.ts';
import { ACCEPT, encodingOf, JSON_TYPE, type WatchEvent } from './encoding.ts';
import { type ListMeta, MAX_OBJECT } from './messages.ts';

const REQUEST_LIMIT_MS = 10_000;
const HEADERS_LIMIT_MS = 30_000;
/** kube-apiserver closes idle connections after 90 s. This client closes them before that. */
const IDLE_CONNECTION_MS = 60_000;
/**
 * The time until the first TCP probe on an idle connection. libuv sends ten, one per second, so it finds a dead peer in
 * 25 s.
 */
const TCP_PROBE_MS = 15_000;
/** How long the answer of KubeConfig is reused, because KubeConfig reads the CA's file again at each call. */
const ACCESS_MS = 10_000;

/** The longest Retry-After that is respected. A proxy may send any value, and timers accept at most 24 days. */
const RETRY_AFTER_MS = 60_000;

const USER_AGENT = 'istio-pod-network-controller';

/** A burst of patches should not become a burst of TLS handshakes. */
const MAX_CONNECTIONS = 32;

type Query = Record<string, string | number | boolean | undefined>;

export interface RequestLimits {
  signal?: AbortSignal;
  /** The limit of one exchange; 10 s if absent. */
  timeoutMs?: number;
}

export interface StreamLimits {
  signal?: AbortSignal;
  /** The limit until the head of the answer; 30 s if absent. */
  headersMs?: number;
  /** The limit between two pieces of the body. */
  idleMs: number;
}

const PATCH_TYPES = {
  merge: 'application/merge-patch+json',
  strategic: 'application/strategic-merge-patch+json',
  json: 'application/json-patch+json',
};

/** By HTTP status. */
const CODES: Partial<Record<number, Code>> = {
  401: 'ERR_API_CREDENTIALS',
  403: 'ERR_RBAC',
  409: 'ERR_API_CONFLICT',
  413: 'ERR_API_TOO_LARGE',
  429: 'ERR_API_BUSY',
};

/**
 * An object that is too large for etcd leads to status 500: isTooLargeError() in
 * k8s.io/apiserver/pkg/endpoints/handlers/rest.go.
 */
const TOO_LARGE = /etcdserver: request is too large|trying to send message larger than max/;

function codeOf(status: number, answer: string): Code {
  if (status === 500 && TOO_LARGE.test(answer)) return 'ERR_API_TOO_LARGE';
  return CODES[status] ?? (status >= 500 ? 'ERR_API_FAILED' : 'ERR_API_REFUSED');
}

/** An answer of the API server with a status other than 2xx, or an ERROR event of a watch. */
export class ApiError extends Failure {
  override readonly name = 'ApiError';
  /** The HTTP status. */
  readonly status: number;
  /** The API server's own message. */
  readonly answer: string;
  /**
   * Kubernetes' reason, such as `Expired` or `NotFound`; empty if the answer was not a Status object, as from a proxy.
   */
  readonly reason: string;
  /** From `Retry-After` in seconds, or from the Status object; a minute at most. */
  readonly retryAfterMs: number | undefined;

  constructor(status: number, reason: string, answer: string, retryAfterMs?: number) {
    super(codeOf(status, answer), { detail: answer });
    this.status = status;
    this.answer = answer;
    this.reason = reason;
    this.retryAfterMs = retryAfterMs;
  }

  /** From a Status object: https://github.com/kubernetes/apimachinery/blob/master/pkg/apis/meta/v1/types.go */
  static from(body: unknown, fallback: { status: number; message: string; retryAfter?: string | undefined }): ApiError {
    const status = (typeof body === 'object' && body !== null ? body : {}) as {
      code?: number;
      reason?: string;
      message?: string;
      details?: { retryAfterSeconds?: number };
    };
    const seconds = Number(fallback.retryAfter ?? status.details?.retryAfterSeconds);
    return new ApiError(
      status.code || fallback.status,
      status.reason ?? '',
      status.message || fallback.message,
      seconds > 0 ? Math.min(seconds * 1000, RETRY_AFTER_MS) : undefined,
    );
  }
}

/** The address of the API server, and the credentials. */
interface Access {
  config: KubeConfig;
  options: Promise<RequestOptions>;
  /** A time of performance.now(). */
  until: number;
}

interface Exchange {
  method: 'GET' | 'PATCH' | 'POST';
  path: string;
  query?: Query;
  accept: string;
  body?: { type: string; content: unknown };
  signal?: AbortSignal | undefined;
  /** The limit until the head of the answer. */
  headersMs: number;
}

/**
 * A client of one API server with the credentials of one user.
 *
 * Requests reject with `ApiError` if the status is not 2xx, with another `Failure` if there is no answer
 * (`ERR_API_TIMEOUT` after a limit), and with `AbortError` after the signal. After status 401 the credentials are
 * loaded again, and the request is repeated once. GET and PATCH are also repeated if the server had closed a kept
 * connection.
 */
export class ApiClient {
  readonly #load: () => KubeConfig;
  readonly #agents = { 'http:': keepAlive(HttpAgent), 'https:': keepAlive(HttpsAgent) };
  #config: KubeConfig;
  #access: Access | undefined;
  #closed = false;

  /** `load` is called again after credentials were refused, so it must read its files again. */
  constructor(load: () => KubeConfig) {
    this.#load = load;
    this.#config = load();
  }

  /**
   * Reads a page of a collection of pods or namespaces. Passes each object to `take` as it arrives, with at least the
   * fields of messages.ts; an object is valid until `take` returns. Resolves with the metadata of the list, and its
   * size in bytes.
   */
  async list(
    path: string,
    query: Query,
    limits: RequestLimits,
    take: (item: unknown) => void = () => {},
  ): Promise<ListMeta & { bytes: number }> {
    const timeoutMs = limits.timeoutMs ?? REQUEST_LIMIT_MS;
    const end = performance.now() + timeoutMs;
    const { signal } = limits;
    const response = await this.#open({
      method: 'GET',
      path,
      query,
      accept: ACCEPT.object,
      signal,
      headersMs: timeoutMs,
    });
    const reader = encodingOf(response.headers['content-type']).list();
    let bytes = 0;
    for await (const chunk of within(response, end - performance.now())) {
      bytes += chunk.length;
      for (const item of reader.push(chunk)) take(item);
    }
    return { ...reader.end(), bytes };
  }

  /** Resolves with the metadata of the created object. */
  post(path: string, content: unknown, limits: RequestLimits = {}): Promise<unknown> {
    return this.#object({ method: 'POST', path, accept: ACCEPT.metadata, body: { type: JSON_TYPE, content } }, limits);
  }

  /** Resolves with the metadata of the changed object. */
  patch(path: string, type: keyof typeof PATCH_TYPES, content: unknown, limits: RequestLimits = {}): Promise<unknown> {
    const body = { type: PATCH_TYPES[type], content };
    return this.#object({ method: 'PATCH', path, accept: ACCEPT.metadata, body }, limits);
  }

  /**
   * Resolves with the events of a watch of pods or namespaces, once the head of the answer has arrived. If the answer
   * ends in the middle of an event, the iteration throws; invalid bytes throw SyntaxError. The caller must read the
   * events: the connection stays open until the last event, a `break`, or the signal. An event is valid until the next
   * one is read.
   */
  async watch(path: string, query: Query, limits: StreamLimits): Promise<AsyncGenerator<WatchEvent, void>> {
    const { signal, headersMs = HEADERS_LIMIT_MS, idleMs } = limits;
    const asked = { ...query, watch: true };
    const response = await this.#open({ method: 'GET', path, query: asked, accept: ACCEPT.watch, signal, headersMs });
    return eventsOf(response, idleMs);
  }

  /** Closes all connections, even those in use. Their requests reject and are not repeated. */
  close(): void {
    this.#closed = true;
    for (const agent of Object.values(this.#agents)) agent.destroy();
  }

  async #object(exchange: Omit<Exchange, 'headersMs'>, limits: RequestLimits): Promise<unknown> {
    const timeoutMs = limits.timeoutMs ?? REQUEST_LIMIT_MS;
    const end = performance.now() + timeoutMs;
    const response = await this.#open({ ...exchange, signal: limits.signal, headersMs: timeoutMs });
    return encodingOf(response.headers['content-type']).object(await bodyOf(response, end - performance.now()));
  }

  /** Resolves with an answer of status 2xx, before its body is read. */
  async #open(exchange: Exchange): Promise<IncomingMessage> {
    let renewed = false;
    for (;;) {
      exchange.signal?.throwIfAborted();
      const access = this.#accessNow();
      const response = await this.#send(exchange, await access.options);
      if (response === 'stale') continue;
      const { statusCode: status = 0, statusMessage: message = '' } = response;
      if (status >= 200 && status < 300) return response;
      const body = await bodyOf(response, exchange.headersMs);
      if (status === 401 && !renewed) {
        renewed = true;
        // Another request may have renewed them meanwhile.
        if (this.#config === access.config) {
          this.#config = this.#reload();
          this.#access = undefined;
        }
        continue;
      }
      throw ApiError.from(parse(body, response), { status, message, retryAfter: response.headers['retry-after'] });
    }
  }

  #reload(): KubeConfig {
    try {
      return this.#load();
    } catch (error) {
      throw unusable(error);
    }
  }

  #accessNow(): Access {
    if (this.#access === undefined || this.#access.until < performance.now()) {
      const config = this.#config;
      const options = this.#accessOf(config).catch((error: unknown) => {
        throw unusable(error);
      });
      const fresh = { config, options, until: performance.now() + ACCESS_MS };
      // The caller gets the error, and the next request loads the configuration again.
      fresh.options.catch(() => {
        if (this.#access === fresh) this.#access = undefined;
      });
      this.#access = fresh;
    }
    return this.#access;
  }

  /**
   * What all requests have in common: where to, `path` without its end, TLS material, headers. Node keys its
   * connections by
   * the material: changed certificates make new connections.
   */
  async #accessOf(config: KubeConfig): Promise<RequestOptions> {
    const cluster = config.getCurrentCluster();
    if (!cluster) throw new Error('the kubeconfig names no current cluster');
    const credentials: RequestOptions = {};
    await config.applyToHTTPSOptions(credentials);
    const url = urlToHttpOptions(new URL(cluster.server));
    // client-node's agent keeps no connections, but it supports a proxy.
    const agent = cluster.proxyUrl ? credentials.agent : this.#agents[url.protocol as 'https:'];
    const path = url.path?.replace(/\/$/, '');
    return { ...credentials, ...url, agent, path, headers: { ...credentials.headers, 'User-Agent': USER_AGENT } };
  }

  /** `stale`: the request was sent on a kept connection that the server had already closed, so it had no effect. */
  #send(exchange: Exchange, access: RequestOptions): Promise<IncomingMessage | 'stale'> {
    const { method, path, query, accept, body, headersMs } = exchange;
    const content = body && JSON.stringify(body.content);
    const options: RequestOptions = {
      ...access,
      path: access.path + path + searchOf(query),
      method,
      headers: {
        ...access.headers,
        Accept: accept,
        ...(body && { 'Content-Type': body.type, 'Content-Length': Buffer.byteLength(content ?? '') }),
      },
      ...(exchange.signal && { signal: exchange.signal }),
    };
    return new Promise((resolve, reject) => {
      const request = (access.protocol === 'http:' ? httpRequest : httpsRequest)(options);
      const timer = setTimeout(() => request.destroy(timedOut(`${method} ${path}`, headersMs)), headersMs);
      request.once('response', (response) => {
        clearTimeout(timer);
        resolve(response);
      });
      // This handler stays after the answer, because an abort then also emits an error event.
      request.on('error', (error: NodeJS.ErrnoException) => {
        clearTimeout(timer);
        const closed = error.code === 'ECONNRESET' || error.code === 'EPIPE';
        if (request.reusedSocket && closed && method !== 'POST' && !this.#closed) resolve('stale');
        else reject(unreachable(error));
      });
      request.end(content);
    });
  }
}

function searchOf(query: Query = {}): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== undefined) search.set(name, `${value}`);
  return search.size === 0 ? '' : `?${search}`;
}

function keepAlive<A>(Agent: new (options: AgentOptions) => A): A {
  return new Agent({
    keepAlive: true,
    keepAliveMsecs: TCP_PROBE_MS,
    timeout: IDLE_CONNECTION_MS,
    maxSockets: MAX_CONNECTIONS,
  });
}

/** Ends the answer with ERR_API_TIMEOUT if the rest of it takes longer. */
async function* within(response: IncomingMessage, leftMs: number): AsyncGenerator<Buffer, void> {
  // If the headers came late, nothing is left of the limit. Node warns on stderr of a timer with a negative time.
  const limitMs = Math.max(0, leftMs);
  const timer = setTimeout(() => response.destroy(timedOut('the rest of the answer', limitMs)), limitMs);
  try {
    yield* response as AsyncIterable<Buffer>;
  } catch (error) {
    throw unreachable(error);
  } finally {
    clearTimeout(timer);
  }
}

async function bodyOf(response: IncomingMessage, limitMs: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of within(response, limitMs)) {
    length += chunk.length;
    if (length > MAX_OBJECT) throw new SyntaxError(`an answer of more than ${MAX_OBJECT} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function* eventsOf(response: IncomingMessage, idleMs: number): AsyncGenerator<WatchEvent, void> {
  const timer = setTimeout(() => response.destroy(timedOut('anything more of the answer', idleMs)), idleMs);
  try {
    const reader = encodingOf(response.headers['content-type']).watch();
    for await (const chunk of response as AsyncIterable<Buffer>) {
      timer.refresh();
      yield* reader.push(chunk);
    }
    reader.end();
  } catch (error) {
    throw unreachable(error);
  } finally {
    clearTimeout(timer);
    response.destroy();
  }
}

function timedOut(what: string, limitMs: number): Failure {
  return new Failure('ERR_API_TIMEOUT', { detail: `${what} did not come within ${limitMs / 1000} s` });
}

/** Turns an error of Node into a Failure. The abort of a signal and decoding errors are passed on unchanged. */
function unreachable(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof Failure || error instanceof SyntaxError) return error;
  if (error.name === 'AbortError') return error;
  // If several addresses were tried, the error has a code but no message.
  const detail = error.message || String((error as NodeJS.ErrnoException).code);
  return new Failure('ERR_API_UNREACHABLE', { detail, cause: error });
}

function unusable(cause: unknown): Failure {
  const detail = cause instanceof Error ? cause.message : String(cause);
  return new Failure('ERR_API_CREDENTIALS', { detail, cause });
}

function parse(body: Buffer, { headers }: IncomingMessage): unknown {
  try {
    return encodingOf(headers['content-type']).object(body);
  } catch {
    return undefined;
  }
}
