/** What holds for every runtime: run against the real containerd, and against the stand-in for CRI-O. */

import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Locator, type RuntimePod } from '../../lib/netns/locate.ts';
import type { Cri } from '../../lib/runtime/cri/client.ts';
import { RuntimeEvents, type RuntimeEventsOptions } from '../../lib/runtime/events.ts';
import type { SandboxHint } from '../../lib/runtime/hint-queue.ts';
import { sourcesFor } from '../../lib/runtime/sources.ts';
import type { Suite } from '../suite.ts';
import type { CriDriver } from './cri-driver.ts';
import { toJson } from './netns.ts';
import { isOver, patience } from './patience.ts';

export interface RuntimeUnderTest {
  cri: Cri;
  driver: CriDriver;
  /** The node's files, as for --host-root. */
  hostRoot: string;
  /** Path on the node. */
  criSocket: string;
  /** How a sandbox is found while the runtime is down: a source's name, or the reason why it is not. */
  whileDown: string;
  /** Ends it without a word, and starts it again. */
  kill(): Promise<void>;
  start(): Promise<void>;
}

/** With the time at which it came, as performance.now() has it, and in ticks of this process. */
export type Report = SandboxHint & { at: number; tick: number };

/** A process that waits for a CPU counts no ticks, so a busy machine makes no report late. */
const TICK_MS = 5;

/** How late a source may be that reports a sandbox after RunPodSandbox has returned. */
const LATE_MS = 50;
const RUNS = 5;
const SLOW = { timeoutMs: 120_000 };

/** Reports of new sandboxes, until `use` is over. */
export async function listening<T>(
  options: Omit<RuntimeEventsOptions, 'signal'>,
  use: (listener: Listener) => Promise<T>,
): Promise<T> {
  const end = new AbortController();
  const events = new RuntimeEvents({ ...options, signal: end.signal });
  const listener = new Listener(events);
  try {
    await events.chosen;
    // Until the first list is over.
    await sleep(300);
    return await use(listener);
  } finally {
    end.abort();
    const began = performance.now();
    await listener.ended();
    assert.ok(!isOver(began, 200), 'does not end with the signal');
  }
}

export class Listener {
  readonly events: RuntimeEvents;
  readonly reports: Report[] = [];
  readonly #news = new EventEmitter();
  readonly #collected: Promise<void>;
  readonly #ticker: NodeJS.Timeout;
  #tick = 0;

  constructor(events: RuntimeEvents) {
    this.events = events;
    this.#ticker = setInterval(() => this.#tick++, TICK_MS);
    this.#collected = this.#collect();
  }

  get tick(): number {
    return this.#tick;
  }

  /** The first report about the pod, or the next one if it was reported already. */
  async next(uid: string): Promise<Report> {
    return ((await once(this.#news, uid, { signal: AbortSignal.timeout(2000 * patience()) })) as [Report])[0];
  }

  /** The report of a sandbox, also one that came already. */
  async of(id: string, limitMs = 2000): Promise<Report> {
    for (const began = performance.now(); ; await sleep(2)) {
      const found = this.reports.find(({ sandboxId }) => sandboxId === id);
      if (found !== undefined) return found;
      assert.ok(!isOver(began, limitMs), `not reported within ${limitMs} ms: ${id} (${this.events.source})`);
    }
  }

  async ended(): Promise<void> {
    await this.#collected;
    clearInterval(this.#ticker);
  }

  async #collect(): Promise<void> {
    for await (const hint of this.events) {
      hint.proceed?.();
      const report = { ...hint, at: performance.now(), tick: this.#tick };
      this.reports.push(report);
      this.#news.emit(hint.podUid ?? '', report);
    }
  }
}

/** `sources`: those that this runtime offers. `of` is called in the tests. */
export function runtimeCases(test: Suite, sources: readonly string[], of: () => RuntimeUnderTest): void {
  const locator = () => {
    const { cri, criSocket, hostRoot } = of();
    return new Locator({ cri, criSocket, hostRoot });
  };
  const foundBy = async (pod: RuntimePod) => {
    const found = await locator().locate(pod);
    return found.path === undefined ? found.reason : found.source;
  };
  const from = (source: string) => {
    const { cri, criSocket, hostRoot } = of();
    return { cri, criSocket, hostRoot, sources: sourcesFor(source) };
  };

  test(
    'a sandbox is found, with the addresses that the runtime names',
    async () => {
      const { driver, cri } = of();
      const pod = { ...driver.pod('found'), ips: [] };
      const id = await driver.run(pod);
      const found = await locator().locate(pod);
      assert.ok(found.path !== undefined, toJson(found));
      assert.equal(found.sandboxId, id);
      assert.deepEqual(found.netns.addresses.toSorted(), (await cri.sandbox(id))?.ips.toSorted());
      await driver.end(id);
    },
    SLOW,
  );

  test(
    "a pod on the node's network is refused",
    async () => {
      const { driver } = of();
      const pod = { ...driver.pod('host'), ips: [] };
      const id = await driver.run(pod, 0, 'host');
      assert.equal(await foundBy(pod), 'host-network');
      await driver.end(id);
    },
    SLOW,
  );

  test(
    'a sandbox that was stopped is not taken, the one after it is',
    async () => {
      const { driver } = of();
      const pod = { ...driver.pod('replaced'), ips: [] };
      const first = await driver.run(pod);
      assert.equal(await foundBy(pod), 'cri');
      await driver.stop(first);
      assert.equal(await foundBy(pod), 'stopped');
      const second = await driver.run(pod, 1);
      const found = await locator().locate(pod);
      assert.ok(found.path !== undefined, toJson(found));
      assert.equal(found.sandboxId, second);
      for (const id of [first, second]) await driver.end(id);
      assert.equal(await foundBy(pod), 'no-sandbox');
    },
    SLOW,
  );

  for (const source of sources) {
    test(
      `${source}: each sandbox is reported once, at most ${LATE_MS} ms after its start, and found then`,
      async () => {
        const { driver } = of();
        await listening(from(source), async (listener) => {
          assert.equal(listener.events.source, source, listener.events.reason);
          const late: number[] = [];
          for (let run = 0; run < RUNS; run++) {
            const pod = { ...driver.pod(`${source}-${run}`), ips: [] };
            const reported = listener.next(pod.uid);
            const id = await driver.run(pod);
            const { tick } = listener;
            const report = await reported;
            assert.equal(report.sandboxId, id);
            late.push((report.tick - tick) * TICK_MS);
            assert.equal(await foundBy(pod), 'cri');
            await driver.end(id);
            assert.equal(listener.reports.filter(({ sandboxId }) => sandboxId === id).length, 1);
          }
          late.sort((a, b) => a - b);
          assert.ok((late[RUNS >> 1] ?? 0) <= LATE_MS, `${source}, ms after the start: ${late}`);
        });
      },
      SLOW,
    );

    // inotify has no connection to lose: it polls until the runtime is back.
    const connected = source !== 'inotify';
    test(
      `${source}: the runtime is killed and comes back, and ${connected ? 'every' : 'each new'} sandbox is reported`,
      async () => {
        const { driver, kill, start } = of();
        await listening(from(source), async (listener) => {
          const { events, reports } = listener;
          const before = driver.pod(`${source}-before`);
          const id = await driver.run(before);
          await listener.of(id);
          reports.length = 0;
          await kill();
          for (const began = performance.now(); connected && events.source !== 'none'; await sleep(5)) {
            assert.ok(!isOver(began, 2000), 'the loss is not noticed');
          }
          assert.equal(await foundBy({ ...before, ips: [] }), of().whileDown);
          await start();
          let later = '';
          for (const began = performance.now(); later === ''; await sleep(50)) {
            later = await driver.run(driver.pod(`${source}-later`)).catch(() => '');
            assert.ok(!isOver(began, 10_000), 'the runtime does not come back');
          }
          if (connected) await listener.of(id);
          await listener.of(later);
          assert.equal(events.source, source, events.reason);
          assert.equal(events.stats.losses, connected ? 1 : 0);
          for (const sandbox of [id, later]) await driver.end(sandbox);
        });
      },
      SLOW,
    );
  }
}
