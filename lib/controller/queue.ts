/**
 * Work by key. One worker works on a key at a time, and a bounded number of workers on all keys. A key that is added
 * while a worker works on it is worked on once more. Nothing is kept of a key whose work is done.
 */
import { once } from 'node:events';
import { type BackoffLimits, backoff } from '../backoff.ts';
import type { QueueStats } from '../observe/metrics.ts';

/**
 * `new` goes first. `resync` and `costly` work never takes the last free worker, if there is more than one. At most one
 * worker works on keys that are `costly`: see Verdict.
 */
export type Priority = 'new' | 'resync' | 'costly';

/** Milliseconds. A test brings its own. */
export interface Clock {
  now(): number;
  /** Returns what cancels it. */
  after(ms: number, call: () => void): () => void;
}

export interface Attempt {
  key: string;
  priority: Priority;
  /** Attempts that failed before this one, without a success between. */
  failures: number;
  /** Since it was added, or since its back-off was over. */
  waitedMs: number;
}

/**
 * False where a retry cannot help. `afterMs`: how long the other side wants to be left alone. `longestMs`: what the pauses
 * grow to, if not to the longest of the queue. `costlyMs`: the attempt cost too much. From the second such failure in a row
 * the next attempt waits at least that many milliseconds, doubled with each failure. Adding the key does not shorten this
 * wait, and the key is worked on as `costly` until an attempt succeeds.
 */
export type Verdict = false | { afterMs?: number; longestMs?: number; costlyMs?: number };

export interface QueueOptions {
  work: (attempt: Attempt) => Promise<void>;
  /** Workers. */
  concurrency: number;
  retry: (error: unknown) => Verdict;
  /** `waitMs`: until the next attempt; absent if there is none. If it throws, nobody hears of it. */
  onError?: (error: unknown, attempt: Attempt, waitMs?: number) => void;
  /** Shortest and longest wait after a failure. */
  backoffMs?: BackoffLimits;
  clock?: Clock;
  /** From 0 to 1. */
  random?: () => number;
}

interface Entry {
  priority: Priority;
  /** Its last attempt cost too much. */
  overran?: boolean;
  /** Its last two attempts did. */
  costly?: boolean;
  failures: number;
  /** When it began to wait. */
  since: number;
  running: boolean;
  /** When the attempt that runs, or the last one, began. */
  began: number;
  /** It was added while running, with this priority. */
  again?: Priority | undefined;
  /** While running. */
  forgotten?: boolean;
  /** While backing off. */
  pause?: { cancel: () => void; notBefore: number } | undefined;
}

/** Milliseconds. */
interface Wait {
  ms: number;
  /** Even if the key is added meanwhile. */
  shortestMs: number;
}

const BACKOFF_MS: BackoffLimits = [100, 30_000];

const CLOCK: Clock = {
  now: () => performance.now(),
  after: (ms, call) => {
    const timer = setTimeout(call, ms);
    return () => clearTimeout(timer);
  },
};

export class WorkQueue {
  readonly #options: Required<QueueOptions>;
  readonly #entries = new Map<string, Entry>();
  /** Keys that wait for a worker, oldest first. */
  readonly #waiting: Record<Priority, Set<string>> = { new: new Set(), resync: new Set(), costly: new Set() };
  readonly #running: Record<Priority, number> = { new: 0, resync: 0, costly: 0 };
  #starting = false;
  /** Once there is one, nothing is taken or started. */
  #drained: PromiseWithResolvers<void> | undefined;

  constructor(options: QueueOptions) {
    this.#options = { backoffMs: BACKOFF_MS, clock: CLOCK, random: Math.random, onError: () => {}, ...options };
  }

  /**
   * Work starts after the caller's turn, so that what is added at once is taken by priority. A key that backs off is
   * tried at once if the priority is `new`, since this may be what it was waiting for; but not sooner after it failed
   * than half the shortest back-off, nor than the other side asked for.
   */
  add(key: string, priority: Priority = 'new'): void {
    if (this.#drained) return;
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      entry = { priority, failures: 0, since: 0, running: false, began: 0 };
      this.#entries.set(key, entry);
      this.#enqueue(key, entry);
    } else if (entry.running) {
      entry.forgotten = false;
      entry.again = higher(entry.again, priority);
    } else this.#raise(key, entry, priority);
  }

  /** To be called when there is nothing left to be done for a key. What runs is not stopped, nor is it repeated. */
  forget(key: string): void {
    const entry = this.#entries.get(key);
    if (entry?.running) {
      entry.again = undefined;
      entry.forgotten = true;
    } else if (entry) this.#drop(key, entry);
  }

  /** Whether it waits, backs off, or is worked on. */
  has(key: string): boolean {
    return this.#entries.has(key);
  }

  stats(): QueueStats {
    const { new: first, resync, costly } = this.#waiting;
    const waiting = first.size + resync.size + costly.size;
    const running = this.#running.new + this.#running.resync + this.#running.costly;
    const now = this.#options.clock.now();
    let [oldest, longest] = [now, now];
    for (const { since, running, began, pause } of this.#entries.values()) {
      if (running) longest = Math.min(longest, began);
      else if (!pause) oldest = Math.min(oldest, since);
    }
    return {
      waiting: { new: first.size, resync: resync.size, costly: costly.size },
      running,
      backingOff: this.#entries.size - waiting - running,
      oldestMs: now - oldest,
      longestRunMs: now - longest,
    };
  }

  /**
   * Starts nothing more, ever, and takes nothing more. Resolves when what runs has ended, or at the signal; with the
   * number of keys that still run. Never rejects.
   */
  async drain(signal?: AbortSignal): Promise<number> {
    this.#drained ??= Promise.withResolvers();
    for (const [key, entry] of this.#entries) {
      entry.again = undefined;
      if (!entry.running) this.#drop(key, entry);
    }
    if (this.#entries.size === 0) this.#drained.resolve();
    const over: Promise<unknown>[] = [this.#drained.promise];
    if (signal) over.push(signal.aborted ? Promise.resolve() : once(signal, 'abort'));
    await Promise.race(over);
    return this.#entries.size;
  }

  #drop(key: string, entry: Entry): void {
    entry.pause?.cancel();
    this.#waiting[entry.priority].delete(key);
    this.#entries.delete(key);
  }

  #raise(key: string, entry: Entry, priority: Priority): void {
    if (priority === 'resync') return;
    if (entry.pause) {
      const ms = entry.pause.notBefore - this.#options.clock.now();
      this.#pause(key, entry, ms, ms);
    } else if (this.#waiting.resync.delete(key)) this.#waiting.new.add(key);
    if (!entry.costly) entry.priority = priority;
    this.#start();
  }

  #enqueue(key: string, entry: Entry): void {
    entry.since = this.#options.clock.now();
    this.#waiting[entry.priority].add(key);
    if (this.#starting) return;
    this.#starting = true;
    queueMicrotask(() => {
      this.#starting = false;
      this.#start();
    });
  }

  #start(): void {
    const { concurrency } = this.#options;
    for (;;) {
      const later = this.#running.resync + this.#running.costly;
      if (this.#running.new + later >= concurrency) return;
      const [first] = this.#waiting.new;
      const laterMay = later < Math.max(1, concurrency - 1);
      const [costly] = laterMay && this.#running.costly === 0 ? this.#waiting.costly : [];
      const [resync] = laterMay ? this.#waiting.resync : [];
      const key = first ?? resync ?? costly;
      const entry = key === undefined ? undefined : this.#entries.get(key);
      if (key === undefined || entry === undefined) return;
      this.#waiting[entry.priority].delete(key);
      entry.running = true;
      entry.began = this.#options.clock.now();
      void this.#run(key, entry);
    }
  }

  /** Never rejects. */
  async #run(key: string, entry: Entry): Promise<void> {
    const { clock, work } = this.#options;
    const { priority, failures } = entry;
    const attempt = { key, priority, failures, waitedMs: clock.now() - entry.since };
    this.#running[priority]++;
    let wait: Wait | undefined;
    try {
      await work(attempt);
      entry.failures = 0;
      entry.overran = entry.costly = false;
    } catch (error) {
      wait = this.#afterFailure(error, attempt, entry);
    }
    this.#running[priority]--;
    entry.running = false;
    const { again } = entry;
    entry.again = undefined;
    // A new pod that failed is still a new one.
    if (again) entry.priority = wait ? higher(priority, again) : again;
    if (entry.costly) entry.priority = 'costly';
    else if (entry.priority === 'costly') entry.priority = 'resync';
    if (this.#drained || (again === undefined && wait === undefined)) this.#entries.delete(key);
    else if (wait === undefined) this.#enqueue(key, entry);
    else this.#pause(key, entry, again === 'new' ? wait.shortestMs : wait.ms, wait.shortestMs);
    if (this.#drained && this.#entries.size === 0) this.#drained.resolve();
    this.#start();
  }

  /** How long to wait; undefined where another attempt would be in vain. */
  #afterFailure(error: unknown, attempt: Attempt, entry: Entry): Wait | undefined {
    const { retry, onError, random, backoffMs } = this.#options;
    const [firstMs] = backoffMs;
    let wait: Wait | undefined;
    // What these two throw must not keep the worker.
    try {
      const verdict = retry(error);
      if (verdict && !entry.forgotten) {
        const { afterMs = 0, longestMs = backoffMs[1], costlyMs } = verdict;
        // On a busy machine this may happen once to any pod.
        const costly = costlyMs !== undefined && entry.overran === true;
        entry.overran = costlyMs !== undefined;
        entry.costly = costly;
        const ms =
          afterMs + backoff([costly ? costlyMs : firstMs, longestMs], entry.failures + 1, { random: random() });
        wait = { ms, shortestMs: costly ? ms : Math.max(afterMs, firstMs / 2) };
      }
      onError(error, attempt, wait?.ms);
    } catch {}
    entry.failures = wait ? entry.failures + 1 : 0;
    return wait;
  }

  #pause(key: string, entry: Entry, ms: number, shortestMs: number): void {
    const { clock } = this.#options;
    entry.pause?.cancel();
    const cancel = clock.after(Math.max(0, ms), () => {
      entry.pause = undefined;
      this.#enqueue(key, entry);
    });
    entry.pause = { cancel, notBefore: clock.now() + shortestMs };
  }
}

function higher(one: Priority | undefined, other: Priority): Priority {
  return one === 'new' ? one : other;
}
