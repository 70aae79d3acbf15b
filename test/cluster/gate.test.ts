/** The gate as the first init container of a restricted pod, on a real node with and without its controller. */
import assert from 'node:assert/strict';
import type { V1Container, V1ContainerStatus, V1Pod, V1PodSpec } from '@kubernetes/client-node';
import { Cri } from '../../lib/runtime/cri/client.ts';
import { suite } from '../suite.ts';
import { CriDriver } from '../support/cri-driver.ts';
import { patience } from '../support/patience.ts';
import { ControllerProcess } from './controller-process.ts';
import { type GatedPodOptions, gatedPod, isInitialized, Mesh, NAMESPACE, plainPod } from './mesh-pod.ts';
import { toolbox, until } from './pods.ts';

const SLOW = { timeoutMs: 120_000 };
const OURS = 'istio-pod-network-controller';
const OPEN = /^open after \d+\.\d (ms|s): IPv4 and IPv6 are redirected to 15006; /;

const test = suite('cluster, gate');
test.needs('cluster', 'addon', 'gate', 'toolbox', 'iptables-legacy-save', 'nft');

let mesh: Mesh;
let controller: ControllerProcess | undefined;
let peer: V1Pod;

test.before(async () => {
  mesh = await Mesh.start(['toolbox', 'pod-network-gate', OURS]);
  peer = await mesh.run(plainPod('peer'));
});
test.after.each(async () => {
  await controller?.stop();
  controller = undefined;
});
test.after(() => mesh?.stop());

async function startController(...flags: string[]): Promise<ControllerProcess> {
  controller = await ControllerProcess.start(mesh.node, mesh.kubeconfig, '--resync', '1s', ...flags);
  return controller;
}

function create(body: V1Pod): Promise<V1Pod> {
  return mesh.core.createNamespacedPod({ namespace: NAMESPACE, body });
}

const gateOf = ({ status }: V1Pod): V1ContainerStatus | undefined =>
  status?.initContainerStatuses?.find(({ name }) => name === 'pod-network-gate');
const isReady = ({ status }: V1Pod) =>
  status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') === true;

/** The states of the containers that come after it. */
const after = ({ status }: V1Pod) =>
  [...(status?.initContainerStatuses ?? []), ...(status?.containerStatuses ?? [])]
    .filter(({ name }) => name !== 'pod-network-gate')
    .map(({ state }) => Object.keys(state ?? {})[0]);

const becomes = (of: V1Pod, what: string, right: (pod: V1Pod) => boolean) =>
  until(`${what}: ${of.metadata?.name}`, () => mesh.now(of), right, 60_000);

const kinds: Record<string, GatedPodOptions> = {
  'a restricted pod': {},
  'one with a user namespace of its own': { hostUsers: false },
  "one whose gate comes from the controller's image": { image: OURS, command: ['/usr/local/bin/pod-network-gate'] },
  'one that runs "ipnc init"': { image: OURS, gate: ['init'] },
};
for (const [index, [what, options]] of Object.entries(kinds).entries()) {
  test(
    `with its controller, ${what} gets through`,
    async () => {
      await startController();
      const made = await create(gatedPod(`gated-${index}`, options));
      const running = await becomes(made, 'ready', isReady);
      await mesh.marked(running, isInitialized);
      const ended = gateOf(running)?.state?.terminated;
      assert.equal(ended?.exitCode, 0);
      assert.match(ended?.message ?? '', OPEN);
      assert.equal(gateOf(running)?.restartCount, 0);
      const sidecar = running.status?.initContainerStatuses?.find(({ name }) => name === 'istio-proxy');
      assert.ok(new Date(sidecar?.state?.running?.startedAt ?? 0) >= new Date(ended?.finishedAt ?? 0));
      await mesh.expectCaptured(running, peer);
    },
    SLOW,
  );
}

/** Orders as Istio's injector makes them, and who answers a migration's connection. */
const MIGRATIONS: Record<string, { order: (all: Containers) => Partial<V1PodSpec>; answers: RegExp }> = {
  "an ordinary sidecar after the gate: with the proxy's group": {
    order: ({ migrate, gate, proxy, app }) => ({
      initContainers: [gate, { ...migrate, securityContext: { ...migrate.securityContext, runAsGroup: 1337 } }],
      containers: [proxy, app],
    }),
    answers: /"reply":"peer 8080 /,
  },
  'an ordinary sidecar: before capture begins': {
    order: ({ migrate, gate, proxy, app }) => ({ initContainers: [migrate, gate], containers: [proxy, app] }),
    answers: /"reply":"peer 8080 /,
  },
  'a native sidecar: through the proxy': {
    order: ({ migrate, gate, proxy, app }) => ({
      initContainers: [gate, { ...proxy, restartPolicy: 'Always' }, migrate],
      containers: [app],
    }),
    answers: /"reply":"istio-proxy 15001 /,
  },
};
type Containers = Record<'migrate' | 'gate' | 'proxy' | 'app', V1Container>;

for (const [index, [what, { order, answers }]] of Object.entries(MIGRATIONS).entries()) {
  test(
    `a database migration in an init container has its network, with ${what}`,
    async () => {
      await startController();
      const name = `migrates-${index}`;
      const made = gatedPod(name);
      const [gate, native] = made.spec?.initContainers ?? [];
      const [app] = made.spec?.containers ?? [];
      assert.ok(made.spec && gate && native && app);
      const { restartPolicy: _, ...proxy } = native;
      const dial = toolbox('migrate', 'dial', '--timeout', '3000', 'tcp', peer.status?.podIP ?? '', '8080', 'token');
      const migrate = { ...dial, securityContext: { ...app.securityContext } };
      made.spec = { ...made.spec, ...order({ migrate, gate, proxy, app }) };
      const running = await becomes(await create(made), 'ready', isReady);
      const said = await mesh.core.readNamespacedPodLog({ namespace: NAMESPACE, name, container: 'migrate' });
      assert.match(said, answers);
      assert.match(gateOf(running)?.state?.terminated?.message ?? '', OPEN);
      assert.equal(gateOf(running)?.restartCount, 0);
      await mesh.expectCaptured(running, peer);
    },
    SLOW,
  );
}

test(
  'with --marks failures a pod gets through without a mark and without an Event',
  async () => {
    await startController('--marks', 'failures');
    const running = await becomes(await create(gatedPod('unmarked')), 'ready', isReady);
    assert.match(gateOf(running)?.state?.terminated?.message ?? '', OPEN);
    await mesh.expectCaptured(running, peer);
    assert.equal((await controller?.pods())?.get('unmarked')?.state, 'initialized');
    await controller?.stop();
    assert.deepEqual(
      Object.values(await mesh.marks(running)).filter((mark) => mark !== undefined),
      [],
    );
    assert.deepEqual(
      (await mesh.events(running)).filter((event) => event.includes('Initialized')),
      [],
    );
  },
  SLOW,
);

test(
  'without its controller it waits and says so where "kubectl describe" shows it; with one again it goes on',
  async () => {
    // The kubelet starts the gate again, and its second run must last until the controller has started.
    const seconds = 2 * patience();
    const made = await create(gatedPod('waits', { gate: ['--timeout', `${seconds}s`] }));
    const waiting = await becomes(made, 'waiting', (pod) => gateOf(pod)?.state?.running !== undefined);
    assert.deepEqual([...new Set(after(waiting))], ['waiting']);
    const told = await becomes(made, 'told', (pod) => gateOf(pod)?.lastState?.terminated !== undefined);
    const ended = gateOf(told)?.lastState?.terminated;
    assert.equal(ended?.exitCode, 126);
    assert.match(
      ended?.message ?? '',
      RegExp(
        `^not redirected within ${seconds}\\.0 s: IPv4: the connection to 127\\.0\\.0\\.6:15002 was refused; IPv6: `,
      ),
    );
    assert.match(ended?.message ?? '', /Check that istio-pod-network-controller runs on this node/);
    assert.deepEqual([...new Set(after(told))], ['waiting']);
    const again = await startController();
    const running = await becomes(made, 'ready', isReady);
    assert.match(gateOf(running)?.state?.terminated?.message ?? '', OPEN);
    const { text } = await again.get('/metrics');
    assert.match(text, /^istio_pod_network_controller_gate_failures_total\{reason="controller-away"\} 1$/m);
    await mesh.expectCaptured(running, peer);
  },
  SLOW,
);

test(
  'after its sandbox is made again it waits again, whatever the marks of the earlier one say',
  async () => {
    await startController();
    const made = await create(gatedPod('again', { annotationsMounted: true }));
    const running = await becomes(made, 'ready', isReady);
    const { netns } = await mesh.marked(running, isInitialized);
    await controller?.stop();
    controller = undefined;
    await stopSandbox(made);
    const waiting = await becomes(made, 'waiting again', (pod) => gateOf(pod)?.state?.running !== undefined);
    assert.equal((await mesh.marks(made)).netns, netns, 'the mark is that of the earlier sandbox');
    assert.ok(!isReady(waiting));
    const log = () =>
      mesh.core.readNamespacedPodLog({ namespace: NAMESPACE, name: 'again', container: 'pod-network-gate' });
    await until('said', log, (text) => text.startsWith('waiting up to 300.0 s for IPv4 and IPv6'));
    await startController();
    const again = await becomes(made, 'ready again', isReady);
    assert.match(gateOf(again)?.state?.terminated?.message ?? '', OPEN);
    assert.ok((await mesh.marked(again, (marks) => marks.netns !== netns)).netns);
    await mesh.expectCaptured(again, peer);
  },
  SLOW,
);

test(
  'a pod that cannot be set up: the gate ends at once, with the reason',
  async () => {
    await startController();
    const ports = 'traffic.sidecar.istio.io/excludeInterfaces';
    const made = await create(
      gatedPod('refused', {
        annotationsMounted: true,
        annotations: { 'pod-network-controller.istio.io/envoy-port': '0', [ports]: 'eth0' },
      }),
    );
    const said =
      /^the controller reports for this pod: failed: annotation pod-network-controller\.istio\.io\/envoy-port: "0"/;
    const ended = await becomes(made, 'told', (pod) => {
      const { state, lastState } = gateOf(pod) ?? {};
      return said.test(state?.terminated?.message ?? lastState?.terminated?.message ?? '');
    });
    const { state, lastState } = gateOf(ended) ?? {};
    assert.equal((state?.terminated ?? lastState?.terminated)?.exitCode, 1);
    assert.deepEqual([...new Set(after(ended))], ['waiting']);
  },
  SLOW,
);

async function stopSandbox({ metadata }: V1Pod): Promise<void> {
  const cri = new Cri(mesh.node.criSocket);
  const driver = new CriDriver(mesh.node.criSocket, mesh.node.sandbox.name);
  try {
    const [found] = (await cri.sandboxes({ uid: metadata?.uid ?? '' })).filter(({ state }) => state === 'ready');
    await driver.stop(found?.id ?? '');
  } finally {
    driver.close();
    cri.close();
  }
}
