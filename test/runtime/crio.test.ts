/** CRI-O, by a stand-in that answers as the real one was recorded to do, on real netns. */

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Locator } from '../../lib/netns/locate.ts';
import type { RuntimeError } from '../../lib/runtime/channel.ts';
import { Cri } from '../../lib/runtime/cri/client.ts';
import { RuntimeEvents } from '../../lib/runtime/events.ts';
import type { SandboxHint } from '../../lib/runtime/hint-queue.ts';
import { sourcesFor } from '../../lib/runtime/sources.ts';
import { suite } from '../suite.ts';
import { CriDriver } from '../support/cri-driver.ts';
import { type CrioOptions, StandInCrio } from '../support/crio.ts';
import { toJson } from '../support/netns.ts';
import { isOver } from '../support/patience.ts';
import { listening, type RuntimeUnderTest, runtimeCases } from '../support/runtime-cases.ts';

const NEEDS = ['netns', 'addon', 'toolbox', 'ip', 'nsenter', 'ipv6'];

interface Running extends RuntimeUnderTest, AsyncDisposable {
  crio: StandInCrio;
  locator: Locator;
}

async function start(options: CrioOptions = {}): Promise<Running> {
  const crio = await StandInCrio.start(options);
  const { hostRoot } = crio;
  const cri = new Cri(crio.socket);
  const driver = new CriDriver(crio.socket, 'cluster');
  const criSocket = '/run/crio.sock';
  return {
    crio,
    cri,
    driver,
    hostRoot,
    criSocket,
    whileDown: 'unavailable',
    locator: new Locator({ cri, criSocket, hostRoot }),
    kill: () => crio.kill(),
    start: () => crio.listen(),
    async [Symbol.asyncDispose]() {
      driver.close();
      cri.close();
      await crio[Symbol.asyncDispose]();
    },
  };
}

for (const dropInfra of [true, false]) {
  for (const podEvents of [false, true]) {
    const test = suite(`CRI-O, drop_infra_ctr ${dropInfra}, enable_pod_events ${podEvents}`);
    test.needs(...NEEDS);
    let running: Running;
    test.before(async () => {
      running = await start({ dropInfra, podEvents });
    });
    test.after(async () => {
      await running?.[Symbol.asyncDispose]();
    });
    runtimeCases(test, podEvents ? ['nri', 'cri', 'inotify'] : ['nri', 'inotify'], () => running);
  }
}

const answers = suite('CRI-O, answers');
answers.needs(...NEEDS);

for (const dropInfra of [true, false]) {
  answers(`${dropInfra ? 'without' : 'with'} an infra container: what is read of each kind of sandbox`, async () => {
    await using running = await start({ dropInfra });
    const { driver, cri } = running;
    const read = async (id: string) => {
      const { state, ips, netnsPath, pid, netnsClosed, hostNetwork } = (await cri.sandbox(id)) ?? {};
      const folder = netnsPath?.replace(/[^/]+$/, '');
      return { state, ips: ips?.length, folder, pid, netnsClosed, hostNetwork };
    };
    const pid = dropInfra ? undefined : process.pid;
    const ready = { state: 'ready', ips: 2, folder: '/var/run/netns/', pid, netnsClosed: false, hostNetwork: false };
    const own = await driver.run(driver.pod('own'));
    assert.deepEqual(await read(own), ready);
    const userns = await driver.run(driver.pod('userns'), 0, 'userns');
    assert.deepEqual(await read(userns), ready);
    const host = await driver.run(driver.pod('host'), 0, 'host');
    assert.deepEqual(await read(host), { ...ready, ips: 0, hostNetwork: true });
    await driver.stop(own);
    assert.deepEqual(await read(own), { ...ready, state: 'stopped', pid: dropInfra ? undefined : 0 });
  });
}

const netns = suite('CRI-O, netns');
netns.needs(...NEEDS);

netns("a netns that the pod's user namespace owns is found", async () => {
  await using running = await start();
  const { driver, locator } = running;
  const pod = { ...driver.pod('userns'), ips: [] };
  await driver.run(pod, 0, 'userns');
  const found = await locator.locate(pod);
  assert.ok(found.path !== undefined, toJson(found));
  assert.ok(found.netns.foreignUserns);
});

netns('a sandbox whose CNI plugins still run is not there yet, although its netns is', async () => {
  await using running = await start();
  const { driver, locator, crio } = running;
  crio.cniMs = 300;
  const pod = { ...driver.pod('slow'), ips: [] };
  const made = driver.run(pod);
  await sleep(100);
  const early = await locator.locate(pod);
  assert.equal(early.path === undefined && early.reason, 'no-sandbox');
  await made;
  assert.ok((await locator.locate(pod)).path !== undefined);
});

netns(
  "the node's own, of which CRI-O keeps a file for each pod on the node's network, is refused by each way",
  async () => {
    await using running = await start();
    const { driver, crio, hostRoot, cri, criSocket, locator } = running;
    const host = await driver.run(driver.pod('host'), 0, 'host');
    const pod = { ...driver.pod('victim'), ips: [] };
    const id = await driver.run(pod);
    const nodes = `/var/run/netns/${crio.netnsOf(host).split('/').at(-1)}`;
    const own = `/var/run/netns/${crio.netnsOf(id).split('/').at(-1)}`;

    const good = await locator.locate(pod, { path: own, fresh: true });
    assert.equal(good.path !== undefined && good.source, 'hint');
    const hinted = await locator.locate(pod, { path: nodes, fresh: true });
    assert.equal(hinted.path !== undefined && hinted.source, 'cri', 'the hint was believed');

    // A runtime that names it for an ordinary sandbox. There is no address by which it could be told apart.
    const wrong = {
      sandboxes: cri.sandboxes.bind(cri),
      sandbox: async (id: string) => {
        const sandbox = await cri.sandbox(id);
        return sandbox && { ...sandbox, ips: [], netnsPath: nodes };
      },
    };
    const named = await new Locator({ cri: wrong, criSocket, hostRoot }).locate(pod);
    assert.equal(named.path === undefined && named.reason, 'not-reached');
    assert.match(named.path === undefined ? named.detail : '', /ERR_HOST_NETNS/);
  },
);

const nri = suite('CRI-O, NRI');
nri.needs(...NEEDS);

/** Takes each hint to `onHint`, which has to let the runtime proceed. */
async function plugged(
  { cri, hostRoot, crio }: Running,
  onHint: (hint: SandboxHint) => Promise<void> | void,
  use: () => Promise<void>,
): Promise<void> {
  const end = new AbortController();
  const options = { cri, hostRoot, failClosed: true, sources: sourcesFor('nri') };
  const events = new RuntimeEvents({ ...options, signal: end.signal });
  const taking = (async () => {
    for await (const hint of events) await onHint(hint);
  })();
  try {
    for (const began = performance.now(); crio.nri.plugins.length === 0; await sleep(5)) {
      assert.ok(!isOver(began, 2000), events.reason);
    }
    await use();
  } finally {
    end.abort();
    await taking;
  }
}

nri("each kind of pod is located before CRI-O knows it; one on the node's network is not reported", async () => {
  await using running = await start();
  const { driver, cri, crio, locator } = running;
  const pods = { own: driver.pod('own'), userns: driver.pod('userns') };
  const names = new Map(Object.values(pods).map(({ uid, name }) => [uid, name]));
  const seen: unknown[] = [];
  await plugged(
    running,
    async ({ sandboxId, podUid = '', netnsPath = '', justMade, ips = [], proceed }) => {
      const pod = { uid: podUid, namespace: 'default', name: names.get(podUid) ?? '', ips: [] };
      const found = await locator.locate(pod, { path: netnsPath, fresh: true, ips });
      const known = await cri.sandbox(sandboxId);
      seen.push({ name: pod.name, justMade, known, by: found.path === undefined ? found.detail : found.source });
      proceed?.();
    },
    async () => {
      for (const [network, pod] of Object.entries(pods)) await driver.run(pod, 0, network as keyof typeof pods);
      const host = await driver.run(driver.pod('host'), 0, 'host');
      const { linux, ips } =
        crio.nri
          .lists()
          .flat()
          .find(({ id }) => id === host) ?? {};
      assert.ok(
        linux?.namespaces.some(({ type, path }) => type === 'network' && path),
        'CRI-O names a path for it',
      );
      assert.deepEqual(ips, []);
    },
  );
  const located = { justMade: true, known: undefined, by: 'hint' };
  assert.deepEqual(seen, [
    { name: 'own', ...located },
    { name: 'userns', ...located },
  ]);
});

nri('a pod that is refused leaves nothing, and the next attempt gets a sandbox', async () => {
  await using running = await start();
  const { driver, cri, hostRoot } = running;
  let problem: string | undefined = 'no such port';
  await plugged(
    running,
    ({ enrolled, proceed }) => {
      enrolled?.();
      proceed?.(problem);
    },
    async () => {
      const pod = driver.pod('refused');
      await assert.rejects(driver.run(pod), /no redirect rules for the pod: no such port/);
      assert.deepEqual(await cri.sandboxes('ready'), []);
      assert.deepEqual(readdirSync(join(hostRoot, 'run/netns')), []);
      problem = undefined;
      const id = await driver.run(pod, 1);
      assert.deepEqual(
        (await cri.sandboxes('ready')).map((sandbox) => sandbox.id),
        [id],
      );
    },
  );
});

const events = suite('CRI-O, events');
events.needs(...NEEDS);

for (const cniMs of [0, 500, 1500]) {
  events(`inotify: at most 50 ms late after CNI plugins that take ${cniMs} ms`, async () => {
    await using running = await start();
    const { driver, crio, cri, hostRoot } = running;
    crio.cniMs = cniMs;
    await listening({ cri, hostRoot, sources: sourcesFor('inotify') }, async (listener) => {
      const late: number[] = [];
      for (let run = 0; run < 3; run++) {
        const pod = driver.pod(`run-${run}`);
        const reported = listener.next(pod.uid);
        await driver.run(pod);
        const { tick } = listener;
        late.push(((await reported).tick - tick) * 5);
      }
      assert.ok((late.toSorted((a, b) => a - b)[1] ?? 0) <= 50, `${late}`);
    });
  });
}

events("a pod on the node's network does not end the wait for another", async () => {
  await using running = await start();
  const { driver, crio, cri, hostRoot } = running;
  await listening({ cri, hostRoot, sources: sourcesFor('inotify') }, async (listener) => {
    crio.cniMs = 600;
    const pod = driver.pod('slow');
    const made = driver.run(pod);
    await sleep(100);
    for (let at = 0; at < 3; at++) await driver.run(driver.pod(`host-${at}`), 0, 'host');
    const id = await made;
    await listener.of(id, 500);
  });
});

events('a subscriber that does not read keeps the events from all others, so auto does not subscribe', async () => {
  await using running = await start({ podEvents: true });
  const { driver, crio, cri, hostRoot } = running;
  await listening({ cri, hostRoot }, async ({ events }) => {
    assert.equal(events.source, 'inotify');
    assert.match(events.reason, /a stopped controller would keep CRI-O's events from the kubelet/);
    assert.equal(crio.subscriptions, 0);
  });

  // The kubelet, and one that does not read.
  const end = new AbortController();
  const heard: string[] = [];
  const reading = (async () => {
    for await (const { containerId } of cri.containerEvents(end.signal)) heard.push(containerId);
  })().catch((error: RuntimeError) => error.status);
  const deaf = new Cri(`${hostRoot}/run/./crio.sock`);
  const silent = deaf.containerEvents(end.signal);
  const first = silent.next();
  while (crio.subscriptions < 2) await sleep(5);
  const count = 400;
  for (let at = 0; at < count; at++) crio.announce(driver.pod(`pod-${at}`));
  await first;
  await sleep(500);
  assert.ok(heard.length < count, 'the stand-in does not wait for its subscribers');
  await silent.return();
  for (const began = performance.now(); heard.length < count; await sleep(20)) {
    assert.ok(!isOver(began, 5000), `${heard.length} of ${count}`);
  }
  end.abort();
  assert.equal(await reading, 'CANCELLED');
  deaf.close();
});
