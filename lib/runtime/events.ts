/**
 * New sandboxes as the runtime reports them, before the API server can. A report is a hint, not the truth, and may be
 * missed: after each connection every sandbox is reported once.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type BackoffLimits, backoff } from '../backoff.ts';
import type { RuntimeError } from './channel.ts';
import type { Cri } from './cri/client.ts';
import { HintQueue, type SandboxHint } from './hint-queue.ts';
import { NETNS_FOLDER } from './node-paths.ts';
import { SandboxPoller } from './sandbox-poller.ts';
import { chooseSource, type EventSource, type Runtime } from './source.ts';
import { SOURCES } from './sources.ts';

export interface RuntimeEventsOptions {
  cri: Cri;
  /** The socket of `cri` as a path on the node. It shows where containerd may keep its bundles. */
  criSocket?: string;
  /** Where the runtime keeps netns, as a path on the node. /run/netns if absent. */
  netnsFolder?: string;
  /** Where the node's files are, as this process sees them; see onNode(). */
  hostRoot?: string;
  /** See Runtime. False if absent. */
  failClosed?: boolean;
  /** Those that may be used, in this order; all of them if absent. */
  sources?: readonly EventSource[];
  signal: AbortSignal;
}

export interface RuntimeEventsStats {
  /** Connections that ended. */
  losses: number;
  /** Hints that were not taken in time. */
  dropped: number;
}

/** Between two attempts to connect, which cost a millisecond. */
const BACKOFF_MS: BackoffLimits = [100, 5000];

/** After a connection that lived as long the wait is the shortest again. */
const SOUND_MS = 10_000;

/** The annotations of all pods of a node may be larger than a message of gRPC. */
function isTooLarge(error: Error): boolean {
  return (error as Partial<RuntimeError>).status === 'RESOURCE_EXHAUSTED';
}

/** For one consumer. Runs from the start until the signal; an error becomes the `reason`. */
export class RuntimeEvents implements AsyncIterable<SandboxHint> {
  readonly #options: RuntimeEventsOptions;
  readonly #queue = new HintQueue();
  readonly #chosen = Promise.withResolvers<void>();
  #source = 'none';
  #reason = 'not yet asked';
  #losses = 0;
  #onWait: (ms: number) => void = () => {};

  constructor(options: RuntimeEventsOptions) {
    this.#options = options;
    this.#run().catch((error: unknown) => this.#settleOn('none', String(error)));
  }

  /** The name of the source in use; `none` also between two attempts. */
  get source(): string {
    return this.#source;
  }

  /** Why this source is used. */
  get reason(): string {
    return this.#reason;
  }

  get stats(): RuntimeEventsStats {
    return { losses: this.#losses, dropped: this.#queue.dropped };
  }

  /** From now on, `listener` gets the milliseconds of each wait of the runtime for an answer. */
  onWait(listener: (ms: number) => void): void {
    this.#onWait = listener;
  }

  /** Resolves when `source` was chosen for the first time, or the first attempt failed. */
  get chosen(): Promise<void> {
    return this.#chosen.promise;
  }

  /** Ends with the signal. */
  [Symbol.asyncIterator](): AsyncGenerator<SandboxHint, void> {
    return this.#queue.take(this.#options.signal);
  }

  async #run(): Promise<void> {
    const { signal } = this.#options;
    let losses = 0;
    while (!signal.aborted) {
      const began = performance.now();
      await this.#connect().catch((error: Error) => this.#settleOn('none', error.message));
      losses = performance.now() - began > SOUND_MS ? 1 : losses + 1;
      await sleep(backoff(BACKOFF_MS, losses), undefined, { signal }).catch(() => {});
    }
    this.#settleOn('none', 'ended');
  }

  #settleOn(source: string, reason: string): void {
    this.#source = source;
    this.#reason = reason;
    this.#chosen.resolve();
  }

  /** Chooses a source, and follows it until its connection ends. Rejects with the reason of the end. */
  async #connect(): Promise<void> {
    const { cri, criSocket, netnsFolder = NETNS_FOLDER, hostRoot = '', failClosed = false } = this.#options;
    const { sources = SOURCES, signal } = this.#options;
    const version = await cri.version(signal);
    const waited = (ms: number) => this.#onWait(ms);
    const runtime: Runtime = { cri, version, criSocket, netnsFolder, hostRoot, failClosed, waited };
    const end = new AbortController();
    const ending = AbortSignal.any([signal, end.signal]);
    try {
      const { chosen, reason } = await chooseSource(sources, runtime, ending);
      this.#settleOn(chosen?.source.name ?? 'none', reason);
      if (chosen === undefined) return;
      const push = (hint: SandboxHint) => this.#queue.push(hint);
      const poller = new SandboxPoller(cri, push, ending);
      // A list that fails is a lost connection: without it a sandbox could be missed for good. A list that is too large
      // would be too large the next time too, so the events are better than nothing: each pod is looked for anyway.
      if (!chosen.source.lists)
        void poller.reportAll().catch((error: Error) => {
          if (isTooLarge(error)) this.#reason = `${reason}; ${error.message}`;
          else end.abort(error);
        });
      const report = (hint: SandboxHint) => {
        poller.note(hint.sandboxId);
        push(hint);
      };
      await chosen.follow({ report, poller }).finally(() => {
        if (!signal.aborted) this.#losses++;
      });
      throw new Error(`the runtime ended its events (${chosen.source.name})`);
    } catch (error) {
      throw end.signal.aborted ? end.signal.reason : error;
    } finally {
      end.abort();
    }
  }
}
