/** A pod's netns is found on a real node, in each way, through what happens to sandboxes and to containerd. */
import assert from 'node:assert/strict';
import { readFileSync, renameSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { CoreV1Api, type V1Pod } from '@kubernetes/client-node';
import { type Located, Locator, type RuntimePod } from '../../lib/netns/locate.ts';
import type { RuntimeError } from '../../lib/runtime/channel.ts';
import { taskCreates } from '../../lib/runtime/containerd/events.ts';
import { Cri } from '../../lib/runtime/cri/client.ts';
import { RuntimeEvents } from '../../lib/runtime/events.ts';
import { sourcesFor } from '../../lib/runtime/sources.ts';
import { suite } from '../suite.ts';
import { CriDriver } from '../support/cri-driver.ts';
import { configOf } from '../support/kubeconfig.ts';
import { pidsOf } from '../support/proc.ts';
import { listening, runtimeCases } from '../support/runtime-cases.ts';
import { type ControlPlane, startControlPlane } from './control-plane.ts';
import { type ClusterNode, startNode } from './node.ts';
import { pod, runPod, toolbox, until } from './pods.ts';

const SLOW = { timeoutMs: 120_000 };
const CRI_SOCKET = '/run/containerd/containerd.sock';
/** More for numbers that are to be quoted. */
const RUNS = Number(process.env.IPNC_RUNTIME_RUNS ?? 10);

const test = suite('cluster, runtime');
test.needs('cluster', 'addon', 'toolbox');

let controlPlane: ControlPlane;
let node: ClusterNode;
let core: CoreV1Api;
let cri: Cri;
let driver: CriDriver;
let ways: Record<Exclude<Located['source'], 'hint'>, Locator>;

test.before(async () => {
  controlPlane = await startControlPlane({ controllers: true });
  node = await startNode(controlPlane, { images: ['toolbox'] });
  const config = configOf(controlPlane.kubeconfig);
  core = config.makeApiClient(CoreV1Api);
  cri = new Cri(node.criSocket);
  driver = new CriDriver(node.criSocket, node.sandbox.name);
  const hostRoot = node.path('');
  ways = {
    cri: new Locator({ cri, hostRoot }),
    'containerd-state': new Locator({ criSocket: CRI_SOCKET, hostRoot }),
    proc: new Locator({ hostRoot: '/nonexistent', proc: node.path('/proc') }),
  };
});
test.after(async () => {
  driver?.close();
  cri?.close();
  await controlPlane?.stop();
});

function refOf({ metadata, status }: V1Pod): RuntimePod {
  const { uid = '', namespace = '', name = '' } = metadata ?? {};
  return { uid, namespace, name, ips: status?.podIPs?.map(({ ip }) => ip) ?? [] };
}

/** Where each of the ways finds it; they must agree on the netns. */
async function everyWay(ref: RuntimePod): Promise<Located> {
  const found: Located[] = [];
  for (const [source, locator] of Object.entries(ways)) {
    const answer = await locator.locate(ref);
    if (answer.path === undefined) throw new Error(answer.detail);
    assert.equal(answer.source, source);
    found.push(answer);
  }
  assert.equal(new Set(found.map(({ netns }) => netns.cookie)).size, 1);
  // The sandbox's process becomes pause a moment after RunPodSandbox has returned: before, it does not tell the id.
  assert.equal(new Set(found.flatMap(({ sandboxId }) => sandboxId ?? [])).size, 1);
  return found[0] as Located;
}

async function reasons(ref: RuntimePod): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const [source, locator] of Object.entries(ways)) {
    const answer = await locator.locate(ref);
    found[source] = answer.path === undefined ? answer.reason : answer.path;
  }
  return found;
}

/** Without the kubelet: it would end what it does not know. */
async function withoutKubelet(): Promise<void> {
  await node.services.get('kubelet')?.kill();
}

test(
  'a pod of the kubelet is found in each way, and they agree',
  async () => {
    const server = await runPod(core, pod('server', { containers: [toolbox('server', 'serve', '--tcp', '80')] }));
    const { path, netns } = await everyWay(refOf(server));
    assert.deepEqual(netns.addresses, refOf(server).ips);
    // The CRI names the sandbox's own addresses, and these take precedence over the API's.
    const refused = { cri: path, 'containerd-state': 'other-addresses', proc: 'other-addresses' };
    assert.deepEqual(await reasons({ ...refOf(server), ips: ['192.0.2.1'] }), refused);
  },
  SLOW,
);

test(
  "a pod on the node's network is refused in each way",
  async () => {
    const spec = { hostNetwork: true, containers: [toolbox('server', 'serve', '--tcp', '18080')] };
    const found = await reasons({ ...refOf(await runPod(core, pod('host', spec))), ips: [] });
    assert.equal(found.cri, 'host-network');
    assert.equal(found['containerd-state'], 'host-network');
    assert.equal(found.proc, 'not-reached');
  },
  SLOW,
);

test(
  'a sandbox that was stopped is not taken, the one after it is',
  async () => {
    await withoutKubelet();
    const ref: RuntimePod = { ...driver.pod('replaced'), ips: [] };
    const first = await driver.run(ref);
    const before = await everyWay(ref);
    assert.equal(before.sandboxId, first);
    await driver.stop(first);
    assert.deepEqual(await reasons(ref), { cri: 'stopped', 'containerd-state': 'no-sandbox', proc: 'unavailable' });
    const second = await driver.run(ref, 1);
    const after = await everyWay(ref);
    assert.equal(after.sandboxId, second);
    assert.ok(after.netns.cookie !== before.netns.cookie);
    for (const id of [first, second]) await driver.end(id);
  },
  SLOW,
);

const everything = () => ({ cri, criSocket: CRI_SOCKET, hostRoot: node.path('') });
const byContainerd = () => ({ ...everything(), sources: sourcesFor('containerd') });

runtimeCases(test, ['nri', 'containerd', 'cri', 'inotify'], () => ({
  ...everything(),
  driver,
  whileDown: 'containerd-state',
  kill: async () => node.services.get('containerd')?.kill(),
  start: async () => node.services.get('containerd')?.start(),
}));

test(
  'containerd reports a sandbox before RunPodSandbox returns, and its netns is found then',
  async () => {
    await listening(byContainerd(), async (listener) => {
      const { events, reports } = listener;
      assert.equal(events.source, 'containerd');
      assert.match(events.reason, /^containerd v2/);
      const early: number[] = [];
      const locating: number[] = [];
      const sources: string[] = [];
      const locator = new Locator({ cri, criSocket: CRI_SOCKET, hostRoot: node.path('') });
      for (let run = 0; run < RUNS; run++) {
        const ref: RuntimePod = { ...driver.pod(`run-${run}`), ips: [] };
        let returned = 0;
        const running = driver.run(ref).then((id) => {
          returned = performance.now();
          return id;
        });
        const hint = await listener.next(ref.uid);
        const answer = await locator.locate(ref);
        locating.push(performance.now() - hint.at);
        const id = await running;
        if (answer.path === undefined) throw new Error(answer.detail);
        assert.equal(hint.sandboxId, id);
        assert.ok(hint.netnsPath?.includes('netns/cni-'));
        assert.equal(answer.netns.addresses.length, 2);
        early.push(returned - hint.at);
        sources.push(answer.source);
        await driver.end(id);
      }
      const report = {
        early: spread(early),
        locating: spread(locating),
        first: sources.filter((s) => s === 'cri').length,
      };
      console.log(`from event to return, from event to netns, ms: ${JSON.stringify(report)}`);
      assert.ok((early.sort((a, b) => a - b)[RUNS >> 1] ?? 0) > 0, JSON.stringify(report));
      assert.equal(reports.filter(({ podUid }) => podUid === undefined).length, 0);
    });
  },
  SLOW,
);

test(
  'a bundle reports a sandbox before containerd does, once',
  async () => {
    await listening(byContainerd(), async (listener) => {
      const end = new AbortController();
      const made = new Map<string, number>();
      const following = (async () => {
        for await (const { containerId } of taskCreates(cri.channel, end.signal))
          made.set(containerId, performance.now());
      })();
      // By then those that are there already have been listed.
      await sleep(500);
      let foreseen = 0;
      for (let run = 0; run < RUNS; run++) {
        const ref = driver.pod(`bundle-${run}`);
        const [hint, id] = await Promise.all([listener.next(ref.uid), driver.run(ref)]);
        await until(
          'made',
          async () => made.has(id),
          (is) => is,
        );
        if (hint.at < (made.get(id) ?? 0)) foreseen++;
        await driver.end(id);
      }
      end.abort();
      await following.catch(() => {});
      assert.ok(foreseen > RUNS / 2, `${foreseen} of ${RUNS}`);
      const ours = listener.reports.filter(({ sandboxId }) => made.has(sandboxId));
      assert.equal(new Set(ours.map(({ sandboxId }) => sandboxId)).size, RUNS);
      assert.equal(ours.length, RUNS);
    });
  },
  SLOW,
);

function spread(all: number[]): Record<string, string> {
  const sorted = [...all].sort((a, b) => a - b);
  const at = (share: number) =>
    (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0).toFixed(1);
  return { min: at(0), p50: at(0.5), p99: at(0.99) };
}

test(
  'bundles that are not mounted here: the list is asked',
  async () => {
    await listening({ cri, hostRoot: '/nonexistent' }, async (listener) => {
      assert.equal(listener.events.source, 'containerd');
      const ref = driver.pod('unseen');
      const id = await driver.run(ref);
      assert.equal((await listener.of(id)).podUid, ref.uid);
      await driver.end(id);
    });
  },
  SLOW,
);

test(
  'the socket is away for 4 s: calls fail at once and work again',
  async () => {
    // Under another name, or grpc-js would share the connection that stands.
    const fresh = new Cri(node.path('/run/./containerd/containerd.sock'));
    const away = `${node.criSocket}.away`;
    renameSync(node.criSocket, away);
    try {
      const began = performance.now();
      const failure = await fresh.version().catch((error: unknown) => error);
      assert.equal((failure as RuntimeError).status, 'UNAVAILABLE');
      // What is connected stays so.
      assert.ok((await cri.version()).runtimeName);
      while (performance.now() - began < 4000) {
        await fresh.version().catch(() => {});
        await sleep(50);
      }
    } finally {
      renameSync(away, node.criSocket);
    }
    const back = performance.now();
    await until(
      'answered',
      () => fresh.version().catch(String),
      (answer) => typeof answer === 'object',
      1000,
    );
    console.log(`socket: answered ${(performance.now() - back).toFixed(0)} ms after it was back`);
    fresh.close();
  },
  SLOW,
);

test(
  'a runtime that hangs: calls end at their limit and work again, and who waits for it can leave',
  async () => {
    const impatient = new Cri(node.criSocket, 300);
    await impatient.version();
    const isRuntime = (words: string[]) => words.join(' ').includes(`/containerd --config=${node.sandbox.folder}/`);
    const [containerd = 0] = pidsOf((words) => isRuntime(words) && words[0]?.endsWith('/containerd') === true);
    const [starter = 0] = pidsOf((words) => isRuntime(words) && words[0] === 'nsenter');
    assert.ok(containerd > 0 && starter > 0);
    process.kill(containerd, 'SIGSTOP');
    try {
      await until(
        'stopped: containerd',
        async () => readFileSync(`/proc/${containerd}/stat`, 'utf8'),
        (stat) => / T \d/.test(stat),
        2000,
      );
      const failure = await impatient.version().catch((error: unknown) => error);
      assert.equal((failure as RuntimeError).status, 'DEADLINE_EXCEEDED');
      const answer = await new Locator({ cri: impatient, hostRoot: '/nonexistent' }).locate({
        ...driver.pod('x'),
        ips: [],
      });
      assert.equal(answer.path === undefined && answer.reason, 'unavailable');
      const end = new AbortController();
      const events = new RuntimeEvents({ cri, signal: end.signal });
      await sleep(100);
      end.abort();
      await until(
        'ended',
        async () => events.reason,
        (reason) => reason === 'ended',
        200,
      );
    } finally {
      // nsenter, which started it, stops when it does, and takes it along when it goes on.
      process.kill(starter, 'SIGCONT');
    }
    await until(
      'answered',
      () => impatient.version().catch(String),
      (answer) => typeof answer === 'object',
      2000,
    );
    impatient.close();
  },
  SLOW,
);
