/** The mark of a pod with an invalid configuration, and how it changes later. */

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { readConfig } from '../../lib/config/read.ts';
import { assemble } from '../../lib/controller/assemble.ts';
import { type Controller, retryOf } from '../../lib/controller/controller.ts';
import { explain, Failure } from '../../lib/errors.ts';
import { INITIALIZE, STATUS } from '../../lib/istio/names.ts';
import { type ApiClient, ApiError } from '../../lib/kube/client.ts';
import type { WatchEvent } from '../../lib/kube/encoding.ts';
import type { PodStatusWriter } from '../../lib/kube/status.ts';
import type { Probe } from '../../lib/native/addon.ts';
import type { Locator } from '../../lib/netns/locate.ts';
import { createLogger } from '../../lib/observe/log.ts';
import { suite } from '../suite.ts';
import { isOver } from '../support/patience.ts';

const PORTS = 'traffic.sidecar.istio.io/includeInboundPorts';
const REF = { namespace: 'shop', name: 'web', uid: '1' };

const test = suite('failed marks');

/** A stand-in: what is said of every pod. */
function locatorThat(says: () => Promise<unknown>): Locator {
  return { locate: says } as unknown as Locator;
}

/** No pod has a sandbox. */
const nowhere = locatorThat(async () => ({ reason: 'no-sandbox', detail: 'none' }));

interface Patch {
  metadata: { annotations: Record<string, string | null> };
}

/** A stand-in for the API: one pod, and patches that are answered as a test says. */
class Api {
  readonly patches: Patch[] = [];
  readonly posts: unknown[] = [];
  /** Before each patch is answered. */
  answers: (() => unknown)[] = [];
  readonly #pod: unknown;
  readonly #events: WatchEvent[] = [];

  constructor(annotations: Record<string, string>) {
    const spec = { nodeName: 'node', containers: [{ name: 'app' }] };
    this.#pod = { metadata: { ...REF, resourceVersion: '1', annotations }, spec, status: { phase: 'Pending' } };
  }

  delete(): void {
    this.#events.push({ type: 'DELETED', object: this.#pod });
  }

  async list(path: string, _: unknown, __: unknown, take: (item: unknown) => void): Promise<unknown> {
    take(path === '/api/v1/pods' ? this.#pod : { metadata: { name: REF.namespace, resourceVersion: '1' } });
    return { resourceVersion: '1', bytes: 1 };
  }

  async watch(path: string, _: unknown, { signal }: { signal: AbortSignal }): Promise<AsyncGenerator<WatchEvent>> {
    const events = this.#events;
    return (async function* () {
      for (; !signal.aborted; await sleep(2)) {
        const next = path === '/api/v1/pods' ? events.shift() : undefined;
        if (next !== undefined) yield next;
      }
    })();
  }

  async patch(_: string, __: string, patch: Patch): Promise<unknown> {
    this.patches.push(patch);
    return this.answers.shift()?.();
  }

  async post(_: string, content: unknown): Promise<void> {
    this.posts.push(content);
  }
}

/** Until `right`. */
async function runUntil(
  api: Api,
  right: (controller: Controller) => boolean,
  locator: Locator = nowhere,
): Promise<PodStatusWriter> {
  const { controller, marker } = assemble({
    config: readConfig({
      flags: new Map(),
      environment: { NODE_NAME: 'node', IPNC_RESYNC: '24h', IPNC_CONCURRENCY: '1' },
    }),
    kube: api as unknown as ApiClient,
    locator,
    probe: {} as Probe,
    log: createLogger({ level: 'silent' }),
    version: 'test',
  });
  const stop = new AbortController();
  const ended = controller.run(stop.signal, AbortSignal.timeout(5000));
  try {
    for (const began = performance.now(); !right(controller); await sleep(2)) {
      if (isOver(began, 5000)) throw new Error(`still ${JSON.stringify([controller.states(), api.patches])}`);
    }
  } finally {
    stop.abort();
    await ended;
  }
  return marker;
}

for (const status of [403, 500]) {
  test(`a pod that was to be marked as failed is marked, though the API server answered ${status} at first`, async () => {
    const api = new Api({ [INITIALIZE]: 'true', [PORTS]: '80,http' });
    api.answers = [
      () => {
        throw new ApiError(status, '', 'not now');
      },
    ];
    await runUntil(api, (controller) => api.patches.length === 2 && controller.queue().running === 0);
    assert.match(api.patches[1]?.metadata.annotations[STATUS] ?? '', /^failed: .*includeInboundPorts/);
  });
}

test('nothing is kept of a pod that goes while its mark is on the way', async () => {
  const api = new Api({ [INITIALIZE]: 'true', [PORTS]: '80,http' });
  const way = Promise.withResolvers<void>();
  api.answers = [() => way.promise];
  const marker = await runUntil(api, (controller) => {
    if (api.patches.length === 0) return false;
    if (controller.views().length > 0) api.delete();
    else way.resolve();
    return controller.views().length === 0 && controller.queue().running === 0;
  });
  // Otherwise it would have what it wrote last to take back.
  assert.equal(await marker.unmark(REF), 'unchanged');
});

test('a failed pod that is opted out loses its failed mark', async () => {
  const api = new Api({ [INITIALIZE]: 'false', [STATUS]: 'failed: x' });
  await runUntil(api, (controller) => controller.states().skipped === 1);
  assert.deepEqual(
    api.patches.map(({ metadata }) => metadata.annotations[STATUS]),
    [null],
  );
});

/** As the addon throws them. */
const nativeError = (message: string, fields: object) => Object.assign(new Error(message), fields);

test('a failed rollback has its own Event, leads to no mark, and is tried again', async () => {
  const api = new Api({ [INITIALIZE]: 'true' });
  let attempts = 0;
  const rollback = 'table IPv4 nat could not be restored (EPERM, setsockopt(SO_SET_REPLACE))';
  const cause = nativeError('ERR_INVALID_RULE: port 0', { code: 'ERR_INVALID_RULE', detail: 'port 0' });
  const locator = locatorThat(async () => {
    attempts++;
    throw explain(nativeError('', { code: 'ERR_ROLLBACK', rollback, cause }), '/run/netns/web', 'nothing is left');
  });
  let view: unknown;
  const right = (controller: Controller) => {
    view = controller.views()[0];
    return attempts >= 2 && controller.states().failed === 1;
  };
  await runUntil(api, right, locator);
  const [event] = api.posts as { type: string; reason: string; note: string }[];
  assert.deepEqual([event?.type, event?.reason], ['Warning', 'RollbackFailed']);
  const note = event?.note ?? '';
  for (const part of ['/run/netns/web', rollback, 'port 0']) assert.ok(note.includes(part), note);
  assert.ok(!note.includes('nothing is left'), note);
  assert.ok(JSON.stringify(view).includes('could not be restored'), JSON.stringify(view));
  assert.deepEqual(api.patches, []);
});

test('a bug of ours is marked, and not tried again', async () => {
  const api = new Api({ [INITIALIZE]: 'true' });
  let attempts = 0;
  const locator = locatorThat(async () => {
    attempts++;
    throw explain(new TypeError('hook must be prerouting or output'), '/run/netns/web');
  });
  const right = (controller: Controller) => controller.states().failed === 1 && controller.queue().running === 0;
  await runUntil(api, right, locator);
  assert.match(api.patches[0]?.metadata.annotations[STATUS] ?? '', /^failed: .*hook must be .*\(ERR_INVALID_ARG\)$/);
  await sleep(300);
  assert.equal(attempts, 1);
});

test('when an error is tried again', () => {
  assert.equal(retryOf(new Failure('ERR_HOST_NETNS')), false);
  assert.deepEqual(retryOf(new Failure('ERR_ROLLBACK')), { longestMs: 30_000 });
  assert.deepEqual(retryOf(new TypeError('x is undefined')), { longestMs: 30_000 });
  assert.deepEqual(retryOf(new ApiError(403, '', 'no')), { longestMs: 300_000 });
  assert.deepEqual(retryOf(new ApiError(429, '', 'later', 2000)), { longestMs: 30_000, afterMs: 2000 });
});

test('/livez fails for a job that hangs, and not for one that ends', async () => {
  const api = new Api({ [INITIALIZE]: 'true' });
  const hung = Promise.withResolvers<unknown>();
  const hanging = { locate: () => hung.promise } as unknown as Locator;
  const health = (controller: Controller) => controller.stuck(50);
  await runUntil(
    api,
    (controller) => {
      const { running } = controller.queue();
      if (running === 1 && controller.queue().longestRunMs < 50) assert.deepEqual(health(controller), []);
      const [problem] = health(controller);
      if (problem === undefined) return false;
      assert.match(problem, /^a worker has worked on one pod for \d+ s$/);
      assert.deepEqual(controller.stuck(), [], 'the limit of a real one is minutes');
      hung.resolve({ reason: 'no-sandbox', detail: 'none' });
      return true;
    },
    hanging,
  );
});
