/**
 * A queue of work by key. At most one worker works on a key, and the number of workers is bounded. If a key is added
 * while a worker works on it, it is worked on once more. The queue keeps nothing about a key whose work is done.
 */
import { once } from 'node:events';
import { type BackoffLimits, backoff } from '../backoff.ts';
import type { QueueStats } from '../observe/metrics.ts';

/**
 * `new` goes first. `resync` and `costly` work never takes the last free worker, if there is more than one. At most one
 * worker works on keys that are `costly`: see Verdict.
 */
export type Priority = 'new' | 'resync' | 'costly';

/** The clock, in milliseconds. Tests pass their own. */
export interface Clock {
  now(): number;
  /** Returns a function that cancels the call. */
  after(ms: number, call: () => void): () => void;
}

export interface Attempt {
  key: string;
  priority: Priority;
  /** The number of failed attempts since the last success. */
  failures: number;
  /** The time since the key was added, or since its back-off ended. */
  waitedMs: number;
}

/**
 * False if a retry cannot help. `afterMs`: how long the other side asks to wait. `longestMs`: the longest pause, if it
 * differs from the queue's. `costlyMs`: the attempt cost too much. From the second such failure in a row
 * the next attempt waits at least that many milliseconds, doubled with each failure. Adding the key does not shorten
 * this wait, and the key is worked on as `costly` until an attempt succeeds.
 */
export type Verdict = false | { afterMs?: number; longestMs?: number; costlyMs?: number };

export interface QueueOptions {
  work: (attempt: Attempt) => Promise<void>;
  /** The number of workers. */
  concurrency: number;
  retry: (error: unknown) => Verdict;
  /** `waitMs` is the time until the next attempt; absent if there is none. What it throws is ignored. */
  onError?: (error: unknown, attempt: Attempt, waitMs?: number) => void;
  /** The shortest and the longest wait after a failure. */
  backoffMs?: BackoffLimits;
  clock?: Clock;
  /** From 0 to 1. */
  random?: () => number;
}

interface Entry {
  priority: Priority;
  /** The last attempt cost too much. */
  overran?: boolean;
  /** The last two attempts cost too much. */
  costly?: boolean;
  failures: number;
  /** The time when the key began to wait. */
  since: number;
  running: boolean;
  /** The start of the current or the last attempt. */
  began: number;
  /** The priority with which the key was added while a worker worked on it. */
  again?: Priority | undefined;
  /** forget() was called while a worker worked on the key. */
  forgotten?: boolean;
  /** Set while the key backs off. */
  pause?: { cancel: () => void; notBefore: number } | undefined;
}

/** Milliseconds. */
interface Wait {
  ms: number;
  /** The wait if the key is added meanwhile. */
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
  /** Once it exists, the queue takes no keys and starts no work. */
  #drained: PromiseWithResolvers<void> | undefined;

  constructor(options: QueueOptions) {
    this.#options = { backoffMs: BACKOFF_MS, clock: CLOCK, random: Math.random, onError: () => {}, ...options };
  }

  /**
   * Work starts after the caller's turn, so that keys that are added together are taken by priority. A key that backs
   * off is tried at once if the priority is `new`, because the change may solve its problem. It still waits half of the
   * shortest back-off, and as long as the other side asked for.
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

  /** The caller calls this when a key needs no more work. A running attempt continues, but it is not repeated. */
  forget(key: string): void {
    const entry = this.#entries.get(key);
    if (entry?.running) {
      entry.again = undefined;
      entry.forgotten = true;
    } else if (entry) this.#drop(key, entry);
  }

  /** Whether the key waits, backs off, or is being worked on. */
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
   * Ends the queue: it takes no more keys and starts no more work. Resolves with the number of running attempts, when
   * all have ended or at the signal. Never rejects.
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
    // A new pod keeps its priority after a failure.
    if (again) entry.priority = wait ? higher(priority, again) : again;
    if (entry.costly) entry.priority = 'costly';
    else if (entry.priority === 'costly') entry.priority = 'resync';
    if (this.#drained || (again === undefined && wait === undefined)) this.#entries.delete(key);
    else if (wait === undefined) this.#enqueue(key, entry);
    else this.#pause(key, entry, again === 'new' ? wait.shortestMs : wait.ms, wait.shortestMs);
    if (this.#drained && this.#entries.size === 0) this.#drained.resolve();
    this.#start();
  }

  /** How long to wait; undefined if another attempt cannot help. */
  #afterFailure(error: unknown, attempt: Attempt, entry: Entry): Wait | undefined {
    const { retry, onError, random, backoffMs } = this.#options;
    const [firstMs] = backoffMs;
    let wait: Wait | undefined;
    // An exception of these two callbacks must not block the worker.
    try {
      const verdict = retry(error);
      if (verdict && !entry.forgotten) {
        const { afterMs = 0, longestMs = backoffMs[1], costlyMs } = verdict;
        // One such attempt does not count, because on a busy machine it may happen to any pod.
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
