/**
 * List and watch: keeps a trimmed copy of a collection, and reports each change to it once and in order.
 *
 * https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { type BackoffLimits, backoff } from '../backoff.ts';
import { asFailure } from '../errors.ts';
import { type ApiClient, ApiError } from './client.ts';
import type { WatchEvent } from './encoding.ts';

export interface InformerEvent<T> {
  type: 'added' | 'changed' | 'deleted';
  /** For `deleted`, the object as it was in the store. */
  object: T;
  /** The object as it was in the store; absent for `added`. */
  old?: T;
}

/** `waiting`: after an error, until the next attempt. */
export type InformerState = 'listing' | 'watching' | 'waiting' | 'stopped';

/**
 * Why a watch, or the list before it, was restarted. ended: the server ended it at the end of its life. expired: status
 * 410, the server no longer keeps its version. hung: nothing arrived for too long. refused: another status or ERROR
 * event.
 * malformed: invalid bytes. connection: any other error, such as an end in the middle of an event.
 */
export type RestartReason = 'ended' | 'expired' | 'hung' | 'refused' | 'malformed' | 'connection';

export interface InformerStats {
  /** The number of completed lists. */
  lists: number;
  /** The number of watches that the server accepted. */
  watches: number;
  restarts: Record<RestartReason, number>;
  /** The number of events that `onEvent` got. */
  events: number;
  /** The number of exceptions of `onEvent` and `trim`. */
  handlerErrors: number;
  /** The time of the last event of a watch, including bookmarks, in milliseconds since 1970. */
  lastEventTime: number | undefined;
  /** The version from which a watch would continue; absent if a list is necessary. */
  resourceVersion: string | undefined;
}

export interface InformerTimings {
  /** The shortest and the longest life that a watch requests, in seconds. */
  watchSeconds: [number, number];
  /** How long after the end of its life a silent watch is ended. */
  graceMs: number;
  /** The shortest and the longest wait after an error. */
  backoffMs: BackoffLimits;
  /** The longest Retry-After that is respected. */
  retryAfterMs: number;
  /** A watch that ended earlier than this without an event is followed by a wait. */
  shortMs: number;
}

const TIMINGS: InformerTimings = {
  watchSeconds: [300, 600],
  graceMs: 30_000,
  backoffMs: [100, 30_000],
  retryAfterMs: 60_000,
  shortMs: 1000,
};

/**
 * A watch that was refused with one of these statuses can continue later. After any other status a list is necessary.
 */
const RESUMABLE = new Set([401, 403, 429, 500, 502, 503]);
const EVENTS = new Set(['ADDED', 'MODIFIED', 'DELETED', 'BOOKMARK']);
/** The most objects in one answer to a list, and how many the first request asks for. */
const PAGE = { most: 500, first: 50 };
/** An answer is to have about as many: the API server holds all of it, and objects are of 1 KB or of 1.5 MB. */
const PAGE_BYTES = 2 * 1024 * 1024;
const LIST_LIMIT_MS = 30_000;

export interface InformerOptions<T> {
  kube: ApiClient;
  /** The path of the collection, such as `/api/v1/pods`. */
  path: string;
  fieldSelector?: string;
  /**
   * Returns what to keep of an object, which is invalid afterwards. `held` is what was kept of it before. If it throws,
   * the error is logged and the stored object stays; SyntaxError means malformed bytes. It runs for each event, so it
   * must be cheap.
   */
  trim: (object: unknown, held?: T) => T;
  /** Must be synchronous and cheap, because the next event waits for it. If it throws, the error is logged. */
  onEvent: (event: InformerEvent<T>) => void;
  /** `error` is the reason for the state `waiting`. */
  onState?: (state: InformerState, error?: unknown) => void;
  log?: Pick<Logger, 'debug' | 'warn' | 'error'>;
  timings?: Partial<InformerTimings>;
}

interface RawObject {
  metadata: { uid: string; namespace?: string; name: string; resourceVersion: string };
}

interface Entry<T> {
  uid: string;
  resourceVersion: string;
  object: T;
}

/** An object that was read; `object` is absent if `trim` threw. */
type Read<T> = Omit<Entry<T>, 'object'> & { key: string; object?: T };

export class Informer<T> {
  /** Resolves when `onEvent` got the whole first list; rejects if the signal comes before that. */
  readonly synced: Promise<void>;
  readonly #sync = Promise.withResolvers<void>();
  readonly #options: InformerOptions<T>;
  readonly #timings: InformerTimings;
  readonly #entries = new Map<string, Entry<T>>();
  readonly #stats: InformerStats = {
    lists: 0,
    watches: 0,
    restarts: { ended: 0, expired: 0, hung: 0, refused: 0, malformed: 0, connection: 0 },
    events: 0,
    handlerErrors: 0,
    lastEventTime: undefined,
    resourceVersion: undefined,
  };
  /** Whether the latest watch was worth its request. */
  #fruitful = false;

  constructor(options: InformerOptions<T>) {
    this.#options = options;
    this.#timings = { ...TIMINGS, ...options.timings };
    this.synced = this.#sync.promise;
    // No caller has to wait for it.
    this.synced.catch(() => {});
  }

  /** Runs until the signal. Resolves when all of its work has ended, and never rejects. May be called only once. */
  async start(signal: AbortSignal): Promise<void> {
    let failures = 0;
    while (!signal.aborted) {
      const { reason, error } = await this.#attempt(signal);
      if (signal.aborted) break;
      this.#stats.restarts[reason]++;
      failures = this.#fruitful ? 1 : failures + 1;
      // The first time, the server only asks for another request.
      const welcome = reason === 'ended' || reason === 'expired';
      const waitMs = this.#backoff(welcome ? failures - 1 : failures, error);
      if (reason === 'ended') this.#options.log?.debug({ path: this.#options.path, waitMs }, 'watch ended');
      else this.#options.log?.warn({ path: this.#options.path, reason, waitMs, err: error }, 'watch broken off');
      if (waitMs === 0) continue;
      this.#state('waiting', error);
      await sleep(waitMs, undefined, { signal }).catch(() => {});
    }
    this.#state('stopped');
    this.#sync.reject(signal.reason);
  }

  /** All stored objects. */
  store(): T[] {
    return Array.from(this.#entries.values(), ({ object }) => object);
  }

  get(name: string, namespace?: string): T | undefined {
    return this.#entries.get(keyOf(name, namespace))?.object;
  }

  /** A stored object. */
  stats(): Readonly<InformerStats> {
    return this.#stats;
  }

  async #attempt(signal: AbortSignal): Promise<{ reason: RestartReason; error?: unknown }> {
    this.#fruitful = false;
    try {
      this.#stats.resourceVersion ??= await this.#list(signal);
      await this.#watch(signal, this.#stats.resourceVersion);
      return { reason: 'ended' };
    } catch (error) {
      const reason = reasonOf(error);
      const resumable = error instanceof ApiError ? RESUMABLE.has(error.status) : reason !== 'malformed';
      if (!resumable) this.#stats.resourceVersion = undefined;
      return { reason, error };
    }
  }

  /**
   * The version of the list. No `resourceVersion` is asked for: the answer is never older than what was seen before,
   * and a recent API server gives it from memory all the same, the most recent ones also the pages after the first.
   *
   * A list in pages and not a watch with initial events, which would come object by object as well: for those the API
   * server walks through the pods of all nodes, and for a list through those of this node (docs/decisions.md).
   */
  async #list(signal: AbortSignal): Promise<string> {
    this.#state('listing');
    const { kube, path, fieldSelector } = this.#options;
    const found = new Map<string, Read<T>>();
    let limit = PAGE.first;
    let next: string | undefined;
    for (;;) {
      const query = { fieldSelector, limit, continue: next };
      let count = 0;
      const page = await kube.list(path, query, { signal, timeoutMs: LIST_LIMIT_MS }, (item) => {
        const read = this.#read(item);
        found.set(read.key, read);
        count++;
      });
      const { resourceVersion } = page;
      if (resourceVersion === undefined) throw new SyntaxError('a list without a version');
      next = page.continue;
      if (!next) {
        this.#replace(found, signal);
        return resourceVersion;
      }
      const fitting = Math.floor((PAGE_BYTES * count) / page.bytes);
      limit = Math.min(PAGE.most, Math.max(1, fitting));
    }
  }

  #replace(found: ReadonlyMap<string, Read<T>>, signal: AbortSignal): void {
    for (const key of this.#entries.keys()) if (!found.has(key)) this.#delete(key, signal);
    for (const read of found.values()) this.#put(read, signal);
    this.#stats.lists++;
    this.#sync.resolve();
  }

  async #watch(signal: AbortSignal, resourceVersion: string): Promise<void> {
    const { kube, path, fieldSelector } = this.#options;
    const [shortest, longest] = this.#timings.watchSeconds;
    const timeoutSeconds = Math.ceil(shortest + Math.random() * (longest - shortest));
    const query = { allowWatchBookmarks: true, fieldSelector, resourceVersion, timeoutSeconds };
    const idleMs = timeoutSeconds * 1000 + this.#timings.graceMs;
    const events = await kube.watch(path, query, { signal, idleMs });
    const began = performance.now();
    this.#stats.watches++;
    this.#state('watching');
    try {
      for await (const event of events) {
        if (signal.aborted) return;
        this.#take(event, signal);
        this.#fruitful = true;
      }
    } finally {
      this.#fruitful ||= performance.now() - began >= this.#timings.shortMs;
    }
  }

  #take({ type, object }: WatchEvent, signal: AbortSignal): void {
    this.#stats.lastEventTime = Date.now();
    if (type === 'ERROR') {
      this.#stats.resourceVersion = undefined;
      throw ApiError.from(object, { status: 500, message: 'a watch event of type ERROR' });
    }
    const version = (object as RawObject | undefined)?.metadata?.resourceVersion;
    if (!version || !EVENTS.has(type))
      throw new SyntaxError(`not an event of a watch: type ${type}, version ${version}`);
    if (type === 'DELETED') {
      const { key, uid } = identityOf(object);
      if (this.#entries.get(key)?.uid === uid) this.#delete(key, signal);
    } else if (type !== 'BOOKMARK') this.#put(this.#read(object), signal);
    this.#stats.resourceVersion = version;
  }

  #read(raw: unknown): Read<T> {
    const read: Read<T> = identityOf(raw);
    const held = this.#entries.get(read.key);
    const same = held?.uid === read.uid ? held.object : undefined;
    try {
      read.object = this.#options.trim(raw, same);
    } catch (error) {
      if (error instanceof SyntaxError) throw error;
      this.#threw('trim', error);
    }
    return read;
  }

  #put({ key, uid, resourceVersion, object }: Read<T>, signal: AbortSignal): void {
    const held = this.#entries.get(key);
    if (held !== undefined && held.uid !== uid) this.#delete(key, signal);
    if (object === undefined || (held?.uid === uid && held.resourceVersion === resourceVersion)) return;
    this.#entries.set(key, { uid, resourceVersion, object });
    if (held?.uid === uid) this.#tell({ type: 'changed', object, old: held.object }, signal);
    else this.#tell({ type: 'added', object }, signal);
  }

  #delete(key: string, signal: AbortSignal): void {
    const held = this.#entries.get(key);
    if (held === undefined) return;
    this.#entries.delete(key);
    this.#tell({ type: 'deleted', object: held.object, old: held.object }, signal);
  }

  #tell(event: InformerEvent<T>, signal: AbortSignal): void {
    if (signal.aborted) return;
    this.#stats.events++;
    this.#guard('onEvent', () => this.#options.onEvent(event));
  }

  #state(state: InformerState, error?: unknown): void {
    this.#guard('onState', () => this.#options.onState?.(state, error));
  }

  /** Calls a function of the caller, whose exceptions must not end the loop. */
  #guard(callback: string, call: () => void): void {
    try {
      call();
    } catch (err) {
      this.#threw(callback, err);
    }
  }

  #threw(callback: string, err: unknown): void {
    this.#stats.handlerErrors++;
    this.#options.log?.error({ path: this.#options.path, callback, err }, "an informer's callback threw");
  }

  /** The wait in milliseconds, with jitter, so that the controllers of a cluster do not all return at the same time. */
  #backoff(failures: number, error: unknown): number {
    const waitMs = backoff(this.#timings.backoffMs, failures, { random: Math.random() });
    const demanded = error instanceof ApiError ? (error.retryAfterMs ?? 0) : 0;
    return Math.min(demanded, this.#timings.retryAfterMs) + waitMs;
  }
}

function identityOf(raw: unknown) {
  const { uid, namespace, name, resourceVersion } = (raw as RawObject).metadata;
  return { key: keyOf(name, namespace), uid, resourceVersion };
}

function keyOf(name: string, namespace = ''): string {
  return `${namespace}/${name}`;
}

function reasonOf(error: unknown): RestartReason {
  if (error instanceof ApiError) return error.status === 410 ? 'expired' : 'refused';
  if (error instanceof SyntaxError) return 'malformed';
  return asFailure(error).code === 'ERR_API_TIMEOUT' ? 'hung' : 'connection';
}
