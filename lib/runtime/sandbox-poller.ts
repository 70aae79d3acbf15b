/** Finds new sandboxes in the runtime's list, for events that do not name the sandbox. */
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { keepNewest } from '../bounded.ts';
import type { Cri } from './cri/client.ts';
import type { SandboxHint } from './hint-queue.ts';

/**
 * A sandbox is listed once its CNI plugins have run: 50 ms or seconds after its netns was made. The pause between two
 * lists is a share of that time, so a sandbox is found late by that share only. A list takes 1 ms. It takes longer if
 * pods have large annotations, which runtimes put into the list, so the pause is at least twice as long as the last
 * list took.
 */
const PAUSE = { share: 0.02, shortestMs: 20, longestMs: 250, lists: 2 };

/** A netns whose sandbox does not come is forgotten by then. */
const LIMIT_MS = 60_000;

/** More sandboxes than a node runs. */
const MOST_NOTED = 4096;

type SandboxList = Pick<Cri, 'sandboxes' | 'sandbox'>;

export class SandboxPoller {
  readonly #cri: SandboxList;
  readonly #report: (hint: SandboxHint) => void;
  readonly #signal: AbortSignal;
  /** Ids, as of the last list. */
  #known = new Set<string>();
  /** Ids that the source has reported. */
  readonly #noted = new Map<string, true>();
  /** When each sandbox was announced, by its id or by the name of its netns. */
  readonly #expected = new Map<string, number>();
  /** When the newest of them was announced. */
  #announced = 0;
  /** How long the last list took, milliseconds. */
  #listMs = 0;
  #polls = false;
  /** Ends the current pause. */
  #wake: () => void = () => {};

  constructor(cri: SandboxList, report: (hint: SandboxHint) => void, signal: AbortSignal) {
    this.#cri = cri;
    this.#report = report;
    this.#signal = signal;
  }

  /** Reports all that are ready. Rejects with RuntimeError. */
  async reportAll(): Promise<void> {
    this.#known.clear();
    await this.#reportNew();
  }

  /** Polls until the sandbox of this id, or with a netns of this file name, is listed, for a minute at most. */
  expect(sandbox: string): void {
    this.#announced = performance.now();
    keepNewest(this.#expected, sandbox, this.#announced, MOST_NOTED);
    if (this.#polls) this.#wake();
    else void this.#poll();
  }

  /** The source itself has reported the sandbox of this id, so no list has to. */
  note(id: string): void {
    keepNewest(this.#noted, id, true, MOST_NOTED);
    this.#expected.delete(id);
  }

  /** The sandbox will not be listed. */
  dismiss(sandbox: string): void {
    this.#expected.delete(sandbox);
  }

  async #poll(): Promise<void> {
    this.#polls = true;
    while (this.#expected.size > 0 && !this.#signal.aborted) {
      const age = performance.now() - this.#announced;
      const pause = Math.min(PAUSE.longestMs, Math.max(PAUSE.shortestMs, age * PAUSE.share));
      await this.#sleep(Math.max(pause, this.#listMs * PAUSE.lists));
      // A runtime that does not answer now may do so at the next attempt.
      for (const id of await this.#reportNew().catch(() => [])) await this.#account(id);
      for (const [sandbox, since] of this.#expected) {
        if (performance.now() - since > LIMIT_MS) this.#expected.delete(sandbox);
      }
    }
    this.#polls = false;
  }

  async #sleep(ms: number): Promise<void> {
    const end = new AbortController();
    this.#wake = () => end.abort();
    await sleep(ms, undefined, { signal: AbortSignal.any([this.#signal, end.signal]) }).catch(() => {});
  }

  /** A sandbox that nothing announced, as on the node's network, must not end the wait for another. */
  async #account(id: string): Promise<void> {
    if (this.#expected.delete(id) || this.#expected.size === 0) return;
    const sandbox = await this.#cri.sandbox(id).catch(() => undefined);
    if (sandbox?.netnsPath !== undefined) this.#expected.delete(basename(sandbox.netnsPath));
  }

  /** The ids of those that were not in the list before. */
  async #reportNew(): Promise<string[]> {
    const began = performance.now();
    const listed = await this.#cri.sandboxes('ready', this.#signal).finally(() => {
      this.#listMs = performance.now() - began;
    });
    if (this.#signal.aborted) return [];
    const arrived = listed.filter(({ id }) => !this.#known.has(id));
    this.#known = new Set(listed.map(({ id }) => id));
    for (const { id, uid } of arrived) if (!this.#noted.has(id)) this.#report({ sandboxId: id, podUid: uid });
    return arrived.map(({ id }) => id);
  }
}
