/** Finds new sandboxes in the runtime's list, for events that do not name the sandbox. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type BackoffLimits, backoff } from '../backoff.ts';
import type { Cri } from './cri/client.ts';
import type { SandboxHint } from './hint-queue.ts';

/** A sandbox is listed once its CNI plugins have run, 50 ms or seconds after its netns was made. A list takes 1 ms. */
const LOOKS_MS: BackoffLimits = [20, 250];
const LOOK_FOR_MS = 10_000;

export class SandboxPoller {
  readonly #cri: Pick<Cri, 'sandboxes'>;
  readonly #report: (hint: SandboxHint) => void;
  readonly #signal: AbortSignal;
  /** Ids, as of the last list. */
  #known = new Set<string>();
  #expected = 0;
  #until = 0;
  /** Looks in a row that found nothing new. */
  #vain = 0;

  constructor(cri: Pick<Cri, 'sandboxes'>, report: (hint: SandboxHint) => void, signal: AbortSignal) {
    this.#cri = cri;
    this.#report = report;
    this.#signal = signal;
  }

  /** Reports all that are ready. Rejects with RuntimeError. */
  async reportAll(): Promise<void> {
    this.#known.clear();
    await this.#reportNew();
  }

  /** One more sandbox is about to be listed: polls until it is, or until 10 s after the last call. */
  expect(): void {
    this.#until = performance.now() + LOOK_FOR_MS;
    this.#vain = 0;
    if (this.#expected++ === 0) void this.#poll();
  }

  async #poll(): Promise<void> {
    while (this.#expected > 0 && performance.now() < this.#until && !this.#signal.aborted) {
      const waitMs = backoff(LOOKS_MS, ++this.#vain, { factor: 1.5 });
      await sleep(waitMs, undefined, { signal: this.#signal }).catch(() => {});
      // A runtime that does not answer now may do so at the next attempt.
      const arrived = await this.#reportNew().catch(() => 0);
      this.#expected = Math.max(0, this.#expected - arrived);
      if (arrived > 0) this.#vain = 0;
    }
    this.#expected = 0;
  }

  async #reportNew(): Promise<number> {
    const listed = await this.#cri.sandboxes('ready', this.#signal);
    if (this.#signal.aborted) return 0;
    const arrived = listed.filter(({ id }) => !this.#known.has(id));
    this.#known = new Set(listed.map(({ id }) => id));
    for (const { id, uid } of arrived) this.#report({ sandboxId: id, podUid: uid });
    return arrived.length;
  }
}
