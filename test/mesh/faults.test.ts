/**
 * A real mesh whose parts are killed, stopped or changed: an outsider stays refused, and members are served again. The faults
 * that the rules have to survive happen with each backend. Between the two, the controller goes away and comes back with the
 * other one.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { V1Pod } from '@kubernetes/client-node';
import { Cri } from '../../lib/runtime/cri/client.ts';
import { ControllerProcess } from '../cluster/controller-process.ts';
import { isInitialized } from '../cluster/mesh-pod.ts';
import { deletePod, until } from '../cluster/pods.ts';
import { suite } from '../suite.ts';
import { CriDriver } from '../support/cri-driver.ts';
import { inside } from '../support/netns.ts';
import { killCommand, pidsOf } from '../support/proc.ts';
import { BACKENDS, backendsOf } from './backends.ts';
import { echoObjects, echoPod, HTTP, request, requireMutualTls, runEcho } from './echo.ts';
import { type Mesh, OUTSIDE, RESTRICTED, SYSTEM, startMesh } from './mesh.ts';
import { usePolicy } from './policy.ts';

const SLOW = { timeoutMs: 120_000 };
const RECOVERY_MS = 60_000;

const test = suite('mesh, faults');
test.needs('mesh', 'addon', 'gate', 'nft', 'iptables-legacy', 'ip6tables-legacy', 'iptables-legacy-save');

let mesh: Mesh;
let controller: ControllerProcess;
let web: V1Pod;
let client: V1Pod;
let outsider: V1Pod;

const [FIRST, SECOND] = ['nftables', 'iptables-legacy'] as const;

function startController(backend: keyof typeof BACKENDS): Promise<ControllerProcess> {
  const { node, kubeconfig } = mesh.cluster;
  return ControllerProcess.start(node, kubeconfig, '--enroll=istio', '--resync=1s', '--backend', backend);
}

const URL = `http://web.${RESTRICTED}:${HTTP}/`;

test.before(async () => {
  // The outsider tries both families, so the proxies have to serve both.
  const env = { ISTIO_DUAL_STACK: 'true' };
  const values = { env, meshConfig: { defaultConfig: { proxyMetadata: env } } };
  // The proxies are killed again and again, and the kubelet must not wait longer each time.
  const kubeletConfiguration = { crashLoopBackOff: { maxContainerRestartPeriod: '1s' } };
  mesh = await startMesh({ images: ['pod-network-gate'], values, kubeletConfiguration });
});
test.before(async () => {
  [controller, outsider] = await Promise.all([
    startController(FIRST),
    runEcho(mesh, 'outsider', { namespace: OUTSIDE }),
    usePolicy(mesh),
  ]);
  [web, client] = await Promise.all([runEcho(mesh, 'web'), runEcho(mesh, 'client')]);
  await requireMutualTls(mesh, RESTRICTED, outsider, URL);
});
test.after(async () => {
  await controller?.stop();
  await mesh?.stop();
});

const now = (pod: V1Pod) => mesh.cluster.now(pod);

/** Whether web answers this pod, and knows it by its identity. */
async function isServed(from: V1Pod): Promise<boolean> {
  const { status, header } = await request(mesh, from, URL);
  const identity = header('X-Forwarded-Client-Cert') ?? '';
  return status === '200' && identity.endsWith(`URI=spiffe://cluster.local/ns/${RESTRICTED}/sa/${from.metadata?.name}`);
}

/** Calls the addresses that web has now from outside of the mesh, until the work is done. None of them may answer. */
async function refusedDuring(work: () => Promise<unknown>): Promise<void> {
  let over = false;
  const working = work().finally(() => {
    over = true;
  });
  const calling = (async () => {
    let calls = 0;
    while (!over || calls === 0) {
      const { status } = await now(web);
      for (const { ip = '' } of status?.podIPs ?? []) {
        const url = `http://${ip.includes(':') ? `[${ip}]` : ip}:${HTTP}/`;
        const answer = await request(mesh, outsider, url);
        assert.notEqual(answer.status, '200', `${url} answered an outsider: ${answer.text}`);
        calls++;
      }
    }
  })();
  await Promise.all([working, calling]);
}

const recovers = (from: V1Pod) =>
  until(`served again: ${from.metadata?.name}`, () => isServed(from), Boolean, RECOVERY_MS);

async function create(name: string): Promise<V1Pod> {
  await mesh.apply(echoObjects(name));
  return mesh.cluster.core.createNamespacedPod({ namespace: RESTRICTED, body: echoPod(name) });
}

function isRunning({ status }: V1Pod, name: string): boolean {
  const all = [...(status?.initContainerStatuses ?? []), ...(status?.containerStatuses ?? [])];
  return all.some((each) => each.name === name && each.state?.running !== undefined);
}

const isReady = ({ status }: V1Pod) =>
  status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') === true;

async function becomesReady(pod: V1Pod): Promise<void> {
  await until(`ready: ${pod.metadata?.name}`, () => now(pod), isReady, RECOVERY_MS);
  // A kubelet that was restarted takes every pod for not ready at first: web is no endpoint of its Service meanwhile.
  await recovers(pod);
}

async function waitsAtGate(pod: V1Pod): Promise<void> {
  const gated = (each: V1Pod) => isRunning(each, 'pod-network-gate');
  await until(`waiting at its gate: ${pod.metadata?.name}`, () => now(pod), gated, RECOVERY_MS);
}

async function staysAtGate(pod: V1Pod, ms: number): Promise<void> {
  for (const limit = performance.now() + ms; performance.now() < limit; await sleep(100)) {
    const each = await now(pod);
    for (const name of ['istio-proxy', 'app']) assert.ok(!isRunning(each, name), `${name} runs without rules`);
  }
}

async function stopSandbox({ metadata }: V1Pod): Promise<void> {
  const { criSocket, sandbox } = mesh.cluster.node;
  const cri = new Cri(criSocket);
  const driver = new CriDriver(criSocket, sandbox.name);
  try {
    const [ready] = (await cri.sandboxes({ uid: metadata?.uid ?? '' })).filter(({ state }) => state === 'ready');
    await driver.stop(ready?.id ?? '');
  } finally {
    driver.close();
    cri.close();
  }
}

function rulesSurvive(backend: keyof typeof BACKENDS): void {
  test(
    `${backend}: the sandbox of a pod is stopped: nobody gets past the rules of the new one, and members are served again`,
    async () => {
      const before = await mesh.cluster.netns(await now(web));
      await refusedDuring(async () => {
        await stopSandbox(web);
        const found = () => mesh.cluster.now(web).then((pod) => mesh.cluster.netns(pod));
        await until(
          'in a new sandbox: web',
          () => found().catch(() => before),
          ({ cookie }) => cookie !== before.cookie,
          RECOVERY_MS,
        );
        await recovers(client);
      });
      await mesh.cluster.marked(web, isInitialized);
      assert.deepEqual(await backendsOf(mesh, web), [backend]);
    },
    SLOW,
  );

  test(
    `${backend}: the proxies are killed: nobody gets past them, and members are served again`,
    async () => {
      const { node } = mesh.cluster;
      const isProxy = (words: string[]) => words.join(' ').startsWith('/usr/local/bin/pilot-agent proxy sidecar ');
      const two = (accept: (pid: number) => boolean) =>
        until(
          'running: the proxies of web and client',
          async () => pidsOf(isProxy, node.path('/proc')),
          (pids) => pids.length === 2 && pids.every(accept),
          RECOVERY_MS,
        );
      // web is in a new sandbox, and its proxy may not have been started yet.
      const both = await two(() => true);
      await refusedDuring(async () => {
        await node.exec(killCommand(both));
        // Not by the kubelet's count of restarts: it can stay the same if the pod has a new sandbox.
        await two((pid) => !both.includes(pid));
        await recovers(client);
      });
    },
    SLOW,
  );

  test(
    `${backend}: the rules of a pod are removed: the controller writes them again, and the outsider stays refused`,
    async () => {
      const repaired = () => controller.metric('drift_repaired_total');
      const before = await repaired();
      const pod = await now(web);
      const rules = await mesh.cluster.rules(pod);
      const { path } = await mesh.cluster.netns(pod);
      await inside(path, ['sh', '-ec', BACKENDS[backend].remove.join('; ')]);
      await until('repaired: the rules', repaired, (count) => count > before, RECOVERY_MS);
      assert.equal(await mesh.cluster.rules(pod), rules);
      await refusedDuring(() => recovers(client));
    },
    SLOW,
  );
}

rulesSurvive(FIRST);

test(
  'the controller is away: running pods go on, a new one waits at its gate, also over a restart of the kubelet',
  async () => {
    await controller.stop('SIGKILL');
    const late = await create('late');
    assert.ok(await isServed(client));
    await waitsAtGate(late);
    const kubelet = mesh.cluster.node.services.get('kubelet');
    await kubelet?.kill();
    kubelet?.start();
    await staysAtGate(late, 3_000);
    controller = await startController(SECOND);
    await becomesReady(late);
    await deletePod(mesh.cluster.core, 'late', RESTRICTED);
    await recovers(client);
    // It replaces the rules of pods that run.
    await until(
      'in the other backend: the rules of web',
      () => backendsOf(mesh, web),
      (found) => `${found}` === SECOND,
    );
  },
  SLOW,
);

rulesSurvive(SECOND);

test(
  'istiod is away: running pods go on, and a new pod is refused rather than let past the mesh',
  async () => {
    // Without istiod nobody would learn of endpoints that come back.
    await recovers(client);
    await mesh.kubectl('scale', '--namespace', SYSTEM, 'deployment/istiod', '--replicas=0');
    const none = async () => (await mesh.kubectl('get', 'pods', '--namespace', SYSTEM, '--output=name')).trim();
    await until('gone: istiod', none, (names) => names === '', RECOVERY_MS);
    await refusedDuring(async () => {
      for (let times = 0; times < 3; times++) assert.ok(await isServed(client));
    });
    await assert.rejects(create('refused'), /failed calling webhook/);
    await mesh.kubectl('scale', '--namespace', SYSTEM, 'deployment/istiod', '--replicas=1');
    await mesh.rolledOut(SYSTEM, 'deployment/istiod');
    const again = () => create('again').catch(() => undefined);
    const made = await until('injected again: a pod', again, (pod) => pod !== undefined);
    if (made !== undefined) await becomesReady(made);
  },
  SLOW,
);
