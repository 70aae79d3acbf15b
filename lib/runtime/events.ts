/**
 * What the runtime tells of pods' sandboxes, before the API server can: hints, never the truth. Any of them may be
 * missed; after each connection all sandboxes are told once, so that none is missed for good.
 */
import { existsSync } from 'node:fs';
import { watch } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type BackoffLimits, backoff } from '../backoff.ts';
import { keepNewest } from '../bounded.ts';
import { Arrivals } from './arrivals.ts';
import { type Bundle, readBundle } from './containerd/bundle.ts';
import { bundleChanges } from './containerd/bundles.ts';
import { bundleFolders } from './containerd/state.ts';
import type { RuntimeError } from './cri/channel.ts';
import type { Cri } from './cri/client.ts';
import type { TaskCreate } from './cri/messages.ts';
import { HintQueue, type SandboxHint } from './hint-queue.ts';
import { chooseKind, KINDS, type RuntimeKind } from './kind.ts';
import { NETNS_FOLDER, onNode } from './node-paths.ts';

export interface RuntimeEventsOptions {
  cri: Cri;
  /** Of `cri`; path on the node. Tells where containerd may have its bundles. */
  criSocket?: string;
  /** Where the runtime keeps netns; path on the node. /run/netns if absent. */
  netnsFolder?: string;
  /** Where the node's files are, as this process sees them; see onNode(). */
  hostRoot?: string;
  /** Those that may be used, in this order: all of them if absent. */
  kinds?: readonly RuntimeKind[];
  signal: AbortSignal;
}

export interface RuntimeEventsStats {
  /** Told by the runtime, without those of lists. */
  events: number;
  /** Ends of a connection. */
  losses: number;
  /** Hints that nobody took in time. */
  dropped: number;
}

/** By then a subscription stands, and what was told just before it is in the list: that takes 10 ms. */
const LIST_AFTER_MS = 100;

/** Between two attempts, which cost a millisecond. */
const BACKOFF_MS: BackoffLimits = [100, 5000];

/** Containers: more than a node runs. */
const MOST_SEEN = 4096;

/** A bundle's folder is there a moment before its content; so many looks, one a millisecond. */
const BUNDLE_ATTEMPTS = 20;

/** A connection that lived as long starts anew with the shortest wait. */
const SOUND_MS = 10_000;

/** For one consumer. Runs from the start, and until the signal; errors end in `reason`. */
export class RuntimeEvents implements AsyncIterable<SandboxHint> {
  readonly #options: Required<Omit<RuntimeEventsOptions, 'criSocket'>> & Pick<RuntimeEventsOptions, 'criSocket'>;
  readonly #queue = new HintQueue();
  readonly #chosen = Promise.withResolvers<void>();
  /** Kinds that the runtime turned out not to have, with the reason. Forgotten when another runtime answers. */
  readonly #refused = new Map<RuntimeKind, string>();
  /** Containers of containerd's that were told of, by bundle or by event. */
  readonly #seen = new Map<string, true>();
  #runtime = '';
  #kind: RuntimeKind | 'none' = 'none';
  #reason = 'not yet asked';
  #stats = { events: 0, losses: 0 };

  constructor(options: RuntimeEventsOptions) {
    this.#options = { netnsFolder: NETNS_FOLDER, hostRoot: '', kinds: KINDS, ...options };
    this.#run().catch((error: unknown) => this.#settleOn('none', String(error)));
  }

  /** In use now; `none` also between two attempts. */
  get kind(): RuntimeKind | 'none' {
    return this.#kind;
  }

  /** Why this kind. */
  get reason(): string {
    return this.#reason;
  }

  get stats(): RuntimeEventsStats {
    return { ...this.#stats, dropped: this.#queue.dropped };
  }

  /** Resolves when `kind` was chosen for the first time, or the signal came. */
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

  #settleOn(kind: RuntimeKind | 'none', reason: string): void {
    this.#kind = kind;
    this.#reason = reason;
    this.#chosen.resolve();
  }

  /** Chooses, and follows what was chosen until that ends. Rejects with the reason why it did. */
  async #connect(): Promise<void> {
    const { cri, kinds, signal } = this.#options;
    const version = await cri.version(signal);
    const runtime = `${version.runtimeName} ${version.runtimeVersion}`;
    if (runtime !== this.#runtime) this.#refused.clear();
    this.#runtime = runtime;
    const { kind, reason } = chooseKind(version, this.#folder, kinds, this.#refused);
    this.#settleOn(kind, reason);
    if (kind === 'none') return;

    const end = new AbortController();
    const ending = AbortSignal.any([signal, end.signal]);
    const began = performance.now();
    const arrivals = new Arrivals(cri, (hint) => this.#queue.push(hint), ending);
    // Without it the gap would stay open: a list that fails is a lost connection.
    const listed = sleep(LIST_AFTER_MS, undefined, { signal: ending })
      .then(() => arrivals.tellAll())
      .catch((error: Error) => end.abort(error));
    try {
      await this.#follow(kind, arrivals, ending);
      // CRI-O ends the stream at once where its events are off.
      if (kind === 'cri' && performance.now() - began < LIST_AFTER_MS) this.#refused.set(kind, 'its events are off');
      throw new Error(`${runtime} ended its events`);
    } catch (error) {
      const { code } = error as RuntimeError;
      if (code === 'UNIMPLEMENTED' || code === 'PERMISSION_DENIED') this.#refused.set(kind, code);
      throw end.signal.aborted ? end.signal.reason : error;
    } finally {
      if (!signal.aborted) this.#stats.losses++;
      end.abort();
      await listed;
    }
  }

  async #follow(kind: RuntimeKind, arrivals: Arrivals, signal: AbortSignal): Promise<void> {
    const { cri } = this.#options;
    if (kind === 'containerd') {
      await this.#followContainerd(arrivals, signal);
    } else if (kind === 'cri') {
      for await (const { containerId, containerEventType, podSandboxStatus } of cri.containerEvents(signal)) {
        if (containerEventType !== 'CONTAINER_CREATED_EVENT' || podSandboxStatus?.id !== containerId) continue;
        this.#tell({ sandboxId: containerId, podUid: podSandboxStatus.metadata?.uid ?? '' });
      }
    } else {
      for await (const { eventType, filename } of watch(this.#folder, { signal })) {
        if (eventType !== 'rename' || filename === null || !existsSync(join(this.#folder, filename))) continue;
        this.#stats.events++;
        arrivals.expect();
      }
    }
  }

  async #followContainerd(arrivals: Arrivals, signal: AbortSignal): Promise<void> {
    const { cri, criSocket, hostRoot } = this.#options;
    this.#seen.clear();
    const watched = new Set<string>();
    const foresee = (folder: string) => {
      if (watched.has(folder)) return;
      watched.add(folder);
      void this.#foresee(folder, arrivals, signal);
    };
    const known = bundleFolders(criSocket).find((folder) => existsSync(onNode(hostRoot, folder)));
    if (known !== undefined) foresee(known);
    for await (const created of cri.taskCreates(signal)) {
      // From the first event on it is known where they are.
      foresee(dirname(created.bundle));
      if (this.#isNew(created.containerId)) await this.#tellOfTask(created, arrivals);
    }
  }

  /** Until the signal; never rejects. What it misses containerd tells. */
  async #foresee(folder: string, arrivals: Arrivals, signal: AbortSignal): Promise<void> {
    const here = onNode(this.#options.hostRoot, folder);
    const tell = async (id: string) => {
      for (let attempt = 0; attempt < BUNDLE_ATTEMPTS && !signal.aborted; attempt++) {
        const found = await readBundle(join(here, id)).catch(() => undefined);
        if (found !== undefined) return this.#tellOfBundle(id, found);
        await sleep(1);
      }
      // Its event is passed over, if it has come meanwhile.
      this.#seen.delete(id);
      arrivals.expect();
    };
    try {
      for await (const { id, change } of bundleChanges(here, signal)) {
        if (change === 'removed') this.#seen.delete(id);
        else if (this.#isNew(id)) void tell(id);
      }
    } catch {
      // Not mounted here.
    }
  }

  /** Either of the two may be the first to tell of it, even the slower one. */
  #isNew(id: string): boolean {
    if (this.#seen.has(id)) return false;
    keepNewest(this.#seen, id, true, MOST_SEEN);
    return true;
  }

  async #tellOfTask({ containerId, bundle }: TaskCreate, arrivals: Arrivals): Promise<void> {
    try {
      this.#tellOfBundle(containerId, await readBundle(onNode(this.#options.hostRoot, bundle)));
    } catch {
      // Not mounted here, or gone already.
      arrivals.expect();
    }
  }

  /** A container that is no sandbox is none of ours, and a pod on the host's network has nothing to be found. */
  #tellOfBundle(id: string, { sandbox, hostNetwork, uid, netnsPath }: Bundle): void {
    if (sandbox && !hostNetwork)
      this.#tell({ sandboxId: id, podUid: uid, ...(netnsPath !== undefined && { netnsPath }) });
  }

  #tell(hint: SandboxHint): void {
    this.#stats.events++;
    this.#queue.push(hint);
  }

  get #folder(): string {
    return onNode(this.#options.hostRoot, this.#options.netnsFolder);
  }
}
