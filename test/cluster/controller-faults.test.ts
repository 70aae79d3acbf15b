/** The node's controller while it, or something that it depends on, is killed, stopped or gives wrong answers. */
import assert from 'node:assert/strict';
import { renameSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { V1Pod } from '@kubernetes/client-node';
import { NETNS } from '../../lib/istio/names.ts';
import { native } from '../../lib/native/addon.ts';
import { Cri } from '../../lib/runtime/cri/client.ts';
import { suite } from '../suite.ts';
import { CriDriver } from '../support/cri-driver.ts';
import { BOOT_ID, inside } from '../support/netns.ts';
import { killCommand } from '../support/proc.ts';
import { ACCOUNT, ControllerProcess } from './controller-process.ts';
import { INITIALIZE, isInitialized, Mesh, meshPod, NAMESPACE, plainPod } from './mesh-pod.ts';
import { until } from './pods.ts';
import type { Service } from './sandbox/service.ts';

const SLOW = { timeoutMs: 90_000 };
const CROWD = 20;
/** What the controller says of a pod before it has done its work. */
const UNDER_WAY = new Set(['waiting', 'the runtime reported a sandbox']);

const test = suite('cluster, controller and faults');
test.needs('cluster', 'addon', 'toolbox', 'iptables-legacy-save', 'nft');

let mesh: Mesh;
let controller: ControllerProcess;
/** What the controller's --runtime-events is. */
let source: 'auto' | 'nri' = 'auto';
let peer: V1Pod;
let web: V1Pod;
/** What stands in a pod of the mesh, once. */
let reference: string;

test.before(async () => {
  mesh = await Mesh.start(['toolbox']);
  controller = await start();
  [peer, web] = await Promise.all([mesh.run(plainPod('peer')), mesh.runInitialized(meshPod('web'))]);
  reference = await mesh.rules(web);
  assert.ok(reference.includes('-A ISTIO_OUTPUT'));
});
// Also after a test that failed.
test.before.each(async () => {
  if (controller.ended) controller = await start();
});
test.after.each(() => {
  for (const thaw of frozen) thaw();
  frozen.clear();
});
test.after(async () => {
  await controller?.stop();
  await mesh?.stop();
});

function start(kubeconfig = mesh.kubeconfig): Promise<ControllerProcess> {
  return ControllerProcess.start(mesh.node, kubeconfig, '--resync', '1s', '--runtime-events', source);
}

/** Marked for the netns that it has, where the rules stand once. */
async function isRight(of: V1Pod): Promise<boolean> {
  const pod = await mesh.now(of);
  const [marks, netns] = await Promise.all([mesh.marks(pod), mesh.netns(pod).catch(() => undefined)]);
  if (netns === undefined || !isInitialized(marks) || marks.netns !== `${BOOT_ID}:${netns.cookie}`) return false;
  return (await mesh.rules(pod)) === reference;
}

function becomesRight(of: V1Pod): Promise<boolean> {
  return until(`right: ${of.metadata?.name}`, () => isRight(of), Boolean, 20_000);
}

/** What lets go on again what was stopped. */
const frozen = new Set<() => void>();

/** Stops a program of the cluster, and returns what lets it go on. */
function freeze(program: string): () => void {
  const { controlPlane, node } = mesh;
  const service = (controlPlane.services.get(program) ?? node.services.get(program)) as Service;
  const thaw = service.freeze();
  frozen.add(thaw);
  return thaw;
}

function apiServer(): Service {
  return mesh.controlPlane.services.get('kube-apiserver') as Service;
}

async function restartApiServer(): Promise<void> {
  apiServer().start();
  await apiServer().ready(async () => (await mesh.core.listNamespace()).items.length > 0);
}

async function sandboxOf({ metadata }: V1Pod): Promise<{ id: string; pid: number }> {
  const cri = new Cri(mesh.node.criSocket);
  try {
    const [found] = (await cri.sandboxes({ uid: metadata?.uid ?? '' })).filter(({ state }) => state === 'ready');
    if (found === undefined) return { id: '', pid: 0 };
    return { id: found.id, pid: (await cri.sandbox(found.id))?.pid ?? 0 };
  } finally {
    cri.close();
  }
}

const ends: Record<string, (pod: V1Pod) => Promise<unknown>> = {
  'is killed': async (pod) => mesh.node.exec(killCommand([(await sandboxOf(pod)).pid])),
  'is stopped': async (pod) => {
    const driver = new CriDriver(mesh.node.criSocket, mesh.node.sandbox.name);
    await driver.stop((await sandboxOf(pod)).id);
    driver.close();
  },
};
for (const [what, end] of Object.entries(ends)) {
  test(
    `a sandbox that ${what} is made again by the kubelet, and programmed again whatever the mark says`,
    async () => {
      const name = `again-${what.replace(' ', '-')}`;
      const pod = await mesh.runInitialized(meshPod(name));
      const { netns } = await mesh.marks(pod);
      await end(pod);
      await mesh.marked(pod, (marks) => marks.netns !== netns);
      await becomesRight(pod);
      const both = [netns, (await mesh.marks(pod)).netns];
      await until(
        `logged: ${both}`,
        async () => [...new Set(controller.told(`${NAMESPACE}/${name}`, 'initialized').map((line) => line.netns))],
        (logged) => `${logged}` === `${both}`,
      );
      const again = await until(
        'running again',
        () => mesh.now(pod),
        ({ status }) => status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') === true,
      );
      await mesh.expectCaptured(again, peer);
    },
    SLOW,
  );
}

/** A pod whose rules are in, while the API server does not answer the request that marks it. */
async function hangingMark(name: string): Promise<{ pod: V1Pod; thaw: () => void }> {
  const thawKubelet = freeze('kubelet');
  const body = meshPod(name);
  if (body.spec) body.spec.nodeName = mesh.node.name;
  const pod = await mesh.core.createNamespacedPod({ namespace: NAMESPACE, body });
  await until(
    'known',
    async () => (await controller.pods()).get(name),
    (view) => view !== undefined,
  );
  const thaw = freeze('kube-apiserver');
  thawKubelet();
  await until(
    'running',
    () => sandboxOf(pod),
    ({ pid }) => pid > 0,
  );
  await until(
    'working on it',
    () => controller.metric('queue_running'),
    (running) => running === 1,
  );
  await sleep(300);
  return { pod, thaw };
}

test(
  'killed between the rules and the mark, its successor marks the pod, and the rules are there once',
  async () => {
    const { pod, thaw } = await hangingMark('half-done');
    assert.equal(await controller.stop('SIGKILL'), 'SIGKILL');
    // With the request that it has, and would answer though nobody listens.
    const killed = apiServer().kill();
    thaw();
    await killed;
    await restartApiServer();
    assert.deepEqual(await mesh.marks(pod), {});
    controller = await start();
    await becomesRight(pod);
    await until(
      'logged: initialized',
      async () => controller.told(`${NAMESPACE}/half-done`, 'initialized').length,
      (lines) => lines > 0,
    );
  },
  SLOW,
);

test(
  'asked to end, it ends what is under way',
  async () => {
    const { pod, thaw } = await hangingMark('under-way');
    const ended = controller.stop('SIGTERM');
    assert.equal(await Promise.race([ended, sleep(1000, 'still there')]), 'still there');
    const words = () => controller.lines.map(({ msg }) => msg).filter((msg) => ['initialized', 'ended'].includes(msg));
    const before = words();
    thaw();
    assert.equal(await ended, 0);
    assert.deepEqual(words(), [...before, 'initialized', 'ended']);
    assert.ok(!before.includes('ended'));
    assert.ok(isInitialized(await mesh.marks(pod)));
    await becomesRight(pod);
    controller = await start();
  },
  SLOW,
);

test(
  'two of them on a node do what one does',
  async () => {
    await using other = await start();
    const names = Array.from({ length: 4 }, (_, at) => `both-${at}`);
    const pods = await Promise.all(names.map((name) => mesh.runInitialized(meshPod(name))));
    const before = (await Promise.all(pods.map((pod) => mesh.now(pod)))).map(
      ({ metadata }) => metadata?.resourceVersion,
    );
    await sleep(2500);
    for (const pod of pods) await becomesRight(pod);
    const after = (await Promise.all(pods.map((pod) => mesh.now(pod)))).map(
      ({ metadata }) => metadata?.resourceVersion,
    );
    assert.deepEqual(after, before, 'they go on writing');
    for (const each of [controller, other]) assert.equal(await each.metric('drift_repaired_total'), 0);
  },
  SLOW,
);

/** What happens, and what ends it. */
const failures: Record<string, { what: string; happen: () => Promise<() => Promise<void>> }> = {
  api: {
    what: 'the API server was killed',
    happen: async () => {
      await apiServer().kill();
      return restartApiServer;
    },
  },
  containerd: {
    what: 'containerd was killed',
    happen: async () => {
      const service = mesh.node.services.get('containerd');
      await service?.kill();
      return async () => service?.start();
    },
  },
  socket: {
    what: "the runtime's sockets were away",
    happen: async () => {
      const sockets = [mesh.node.criSocket, mesh.node.path('/run/nri/nri.sock')];
      for (const socket of sockets) renameSync(socket, `${socket}.away`);
      await sleep(2000);
      return async () => {
        for (const socket of sockets) renameSync(`${socket}.away`, socket);
      };
    },
  },
  token: {
    what: 'its token had ended',
    happen: async () => {
      // A token bound to a node ends with the node; another one takes its place in the file, as the kubelet does it.
      const { controlPlane, core } = mesh;
      const name = 'holds-a-token';
      await core.createNode({ body: { metadata: { name } } });
      const file = await controlPlane.kubeconfigFor(ACCOUNT, { node: name });
      const next = await controlPlane.kubeconfigFor(ACCOUNT);
      assert.equal(await controller.stop(), 0);
      controller = await start(file);
      await until(
        'ready',
        () => controller.get('/readyz'),
        ({ status }) => status === 200,
      );
      await core.deleteNode({ name });
      const pod = await mesh.run(plainPod('told-of'));
      await until(
        'refused',
        async () => {
          await mesh.annotate(pod, { [INITIALIZE]: 'true' });
          await mesh.annotate(pod, { [INITIALIZE]: null });
          return controller.metric('failures_total{reason="ERR_API_CREDENTIALS"}');
        },
        (count) => count > 0,
      );
      return async () => renameSync(next, file);
    },
  },
  start: {
    what: 'it started where the runtime had no sockets',
    happen: async () => {
      assert.equal(await controller.stop(), 0);
      const mend = await failures.socket?.happen();
      controller = await start();
      return async () => mend?.();
    },
  },
};
/** A token does not concern the runtime, and test/cluster/nri.test.ts starts a controller where there is no socket of NRI. */
const WITH_NRI = ['api', 'containerd', 'socket'];
const cases = [
  ...Object.keys(failures).map((name) => ({ name, by: 'auto' as const })),
  ...WITH_NRI.map((name) => ({ name, by: 'nri' as const })),
];
for (const { name, by } of cases) {
  const { what, happen } = failures[name] as (typeof failures)[string];
  test(
    `after ${what}, old pods are right and new ones work${by === 'nri' ? ', with NRI' : ''}`,
    async () => {
      if (source !== by) {
        assert.equal(await controller.stop(), 0);
        source = by;
        controller = await start();
      }
      const before = controller;
      const said = before.lines.length;
      const mend = await happen();
      await sleep(1000);
      // If the case starts another controller, what that one logged about the failure belongs to the case.
      const { lines } = controller;
      const from = controller === before ? said : lines.length;
      await mend();
      await until(
        'connected to the runtime',
        () => controller.metric(`runtime_event_source{source="${by === 'nri' ? 'nri' : 'containerd'}"}`),
        (value) => value === 1,
      );
      const pod = await mesh.runInitialized(meshPod(`after-${name}-${by}`));
      await becomesRight(pod);
      await becomesRight(web);
      await mesh.expectCaptured(pod, peer);
      assert.deepEqual(await mesh.marks(peer), {});
      assert.ok(!(await mesh.rules(peer)).includes('ISTIO_'));
      assert.equal((await controller.get('/readyz')).status, 200);
      assert.deepEqual(
        lines.slice(from).filter(({ level }) => level === 'error'),
        [],
      );
    },
    SLOW,
  );
}

test(
  'of pods that run before it starts none is trusted, and all are right when it is ready',
  async () => {
    const names = Array.from({ length: CROWD }, (_, at) => `crowd-${at}`);
    const pods = await Promise.all(names.map((name) => mesh.runInitialized(meshPod(name))));
    assert.equal(await controller.stop(), 0);
    for (const [at, pod] of pods.entries()) {
      if (at % 3 === 0) continue;
      const netns = await mesh.netns(pod);
      if (at % 3 === 1) {
        // As after a reboot: another netns, and the mark of the old one.
        await native().clean(netns);
        await mesh.annotate(pod, { [NETNS]: `00000000-0000-0000-0000-000000000000:${netns.cookie}` });
      } else await inside(netns.path, ['ip6tables-legacy', '-t', 'nat', '-F', 'ISTIO_OUTPUT']);
      assert.notEqual(await mesh.rules(pod), reference);
    }
    const thaw = freeze('kube-apiserver');
    controller = await start();
    const { status, text } = await controller.get('/readyz');
    thaw();
    assert.equal(status, 503);
    assert.ok(text.includes('pods: first list'), text);
    while ((await controller.get('/readyz')).status !== 200) await sleep(1);
    const views = await controller.pods();
    assert.deepEqual(new Set(names.map((name) => views.get(name)?.state)), new Set(['initialized']));
    assert.deepEqual(await Promise.all(pods.map(isRight)), Array(CROWD).fill(true));
    for (const [at, name] of names.entries()) {
      const said = controller.lines.find(({ pod, msg }) => pod === `${NAMESPACE}/${name}` && !UNDER_WAY.has(msg))?.msg;
      assert.equal(said, at % 3 === 0 ? 'unchanged' : 'initialized', name);
    }
  },
  SLOW,
);
