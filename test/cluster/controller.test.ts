/** The node's controller on a real node: the rules, Events and marks of each kind of pod, and pods that it ignores. */
import assert from 'node:assert/strict';
import type { V1Pod } from '@kubernetes/client-node';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { BOOT_ID, inside } from '../support/netns.ts';
import { CAPABILITIES, ControllerProcess, controllerPod, SYSTEM } from './controller-process.ts';
import { INITIALIZE, isInitialized, Mesh, meshPod, NAMESPACE, plainPod, rulesIn } from './mesh-pod.ts';
import { deletePod, pod, runPod, toolbox, until } from './pods.ts';

const SLOW = { timeoutMs: 60_000 };
const OURS = /ISTIO_|istio-proxy-/;
const PORTS = 'traffic.sidecar.istio.io/includeInboundPorts';

const test = suite('cluster, controller');
test.needs('cluster', 'addon', 'toolbox', 'iptables-legacy-save', 'nft');

let mesh: Mesh;
let controller: ControllerProcess;
/** Not enrolled; the other end of connections. */
let peer: V1Pod;

test.before(async () => {
  mesh = await Mesh.start(['toolbox', 'istio-pod-network-controller']);
  peer = await mesh.run(plainPod('peer'));
});
test.after(async () => {
  await controller?.stop();
  await mesh?.stop();
});

/** All that a pod of each kind is to get; `prefix` for the names. */
async function everyKind(prefix: string): Promise<void> {
  const [plain, shared, owned] = await Promise.all([
    mesh.run(plainPod(`${prefix}-plain`)),
    mesh.runInitialized(meshPod(`${prefix}-mesh`)),
    mesh.runInitialized(meshPod(`${prefix}-userns`, { hostUsers: false })),
  ]);
  await mesh.expectCaptured(shared, peer);
  await mesh.expectCaptured(owned, peer);
  await mesh.expectDirect(plain, peer);
  const [inPlain, inShared, inOwned] = await Promise.all([plain, shared, owned].map(async (each) => mesh.rules(each)));
  assert.ok(!OURS.test(inPlain ?? ''), inPlain);
  assert.deepEqual(await mesh.marks(plain), {});
  assert.ok(inShared?.includes(':ISTIO_OUTPUT') && !inShared.includes('istio-proxy-'), inShared);
  assert.ok(inOwned?.includes('istio-proxy-nat') && !inOwned.includes('ISTIO_OUTPUT -'), inOwned);
  for (const each of [shared, owned]) {
    const { cookie } = await mesh.netns(each);
    assert.equal((await mesh.marks(each)).netns, `${BOOT_ID}:${cookie}`);
  }
}

test(
  'as a pod of three capabilities and a read-only file system, it serves pods that have none',
  async () => {
    const daemon = await runPod(mesh.core, controllerPod(mesh.node, 'controller'), SYSTEM);
    await everyKind('daemon');
    const log = await mesh.core.readNamespacedPodLog({ namespace: SYSTEM, name: 'controller' });
    assert.match(log, /"events":"containerd"/);
    assert.ok(!/"level":"(warn|error)"/.test(log), log);
    assert.equal((await mesh.now(daemon)).status?.containerStatuses?.[0]?.restartCount, 0);
    await deletePod(mesh.core, 'controller', SYSTEM);
  },
  SLOW,
);

/** How a pod of the controller ended, and what it said. */
async function outcome(name: string, options: Parameters<typeof controllerPod>[2]) {
  await mesh.core.createNamespacedPod({ namespace: SYSTEM, body: controllerPod(mesh.node, name, options) });
  const { status } = await until(
    `over: ${name}`,
    () => mesh.core.readNamespacedPod({ namespace: SYSTEM, name }),
    ({ status }) => status?.phase === 'Failed' || status?.phase === 'Succeeded',
  );
  const text = await mesh.core.readNamespacedPodLog({ namespace: SYSTEM, name });
  return { code: status?.containerStatuses?.[0]?.state?.terminated?.exitCode, text };
}

for (const missing of CAPABILITIES) {
  test(
    `without CAP_${missing} the controller and doctor end at once, and name it`,
    async () => {
      const name = `without-${missing.toLowerCase().replace('_', '-')}`;
      const capabilities = CAPABILITIES.filter((each) => each !== missing);
      const [run, doctor] = await Promise.all([
        outcome(name, { capabilities }),
        outcome(`doctor-${name}`, { capabilities, args: ['doctor'] }),
      ]);
      assert.deepEqual([run.code, doctor.code], [1, 1]);
      assert.match(run.text, new RegExp(`CAP_${missing}: not effective`));
      for (const each of CAPABILITIES) {
        const word = each === missing ? 'missing' : 'ok';
        assert.match(doctor.text, new RegExp(`^${word} +CAP_${each} `, 'm'));
        if (each !== missing) assert.ok(!run.text.includes(`CAP_${each}:`), run.text);
      }
    },
    SLOW,
  );
}

test(
  "doctor in the controller's pod finds nothing missing, and names the source of runtime events",
  async () => {
    const { code, text } = await outcome('doctor', { command: ['ipnc'], args: ['doctor'] });
    assert.equal(code, 0, text);
    assert.match(text, /^ok +runtime events +containerd: containerd v?2/m);
    assert.ok(!text.includes('missing  '), text);
  },
  SLOW,
);

for (const source of ['containerd', 'cri', 'inotify', 'off']) {
  test(
    `runtime events, ${source}: in the log at the start, in a metric and in doctor`,
    async () => {
      const named = source === 'off' ? 'none' : source;
      const events = ['--runtime-events', source];
      await using started = await ControllerProcess.start(mesh.node, mesh.kubeconfig, ...events);
      assert.equal(started.lines.find(({ msg }) => msg === 'started')?.events, named);
      const { text } = await started.get('/metrics');
      const metric = text.split('\n').filter((line) => /^\w+runtime_event_source\{/.test(line));
      assert.deepEqual(metric, [`istio_pod_network_controller_runtime_event_source{source="${named}"} 1`]);
      const environment = { IPNC_RUNTIME_EVENTS: source, IPNC_HOST_ROOT: mesh.node.path('/') };
      const { stdout } = await ipnc(['doctor'], { environment });
      assert.match(stdout, new RegExp(`^(ok|warn) +runtime events +${source}\\b`, 'm'));
    },
    SLOW,
  );
}

test('doctor without a runtime reports that there are no runtime events', async () => {
  for (const [socket, why] of [
    [mesh.node.criSocket.replace('.sock', '.gone'), 'UNAVAILABLE'],
    [undefined, 'no CRI socket'],
  ]) {
    const environment = { IPNC_HOST_ROOT: '/nowhere', ...(socket && { IPNC_CRI_SOCKET: socket, IPNC_HOST_ROOT: '/' }) };
    const { code, stdout } = await ipnc(['doctor'], { environment });
    assert.equal(code, 0);
    assert.match(stdout, new RegExp(`^warn +runtime events +none: .*${why}`, 'm'));
  }
});

test(
  'as a process of the node, with only the necessary rights, it does the same',
  async () => {
    controller = await ControllerProcess.start(mesh.node, mesh.kubeconfig, '--resync', '1s');
    await until(
      'ready',
      () => controller.get('/readyz'),
      ({ status }) => status === 200,
    );
    await everyKind('process');
    const pods = await controller.pods();
    assert.equal(pods.get('process-mesh')?.backend, 'iptables-legacy');
    assert.equal(pods.get('process-userns')?.backend, 'nftables');
    const { reason, state } = pods.get('peer') ?? {};
    assert.deepEqual({ reason, state }, { reason: 'no-proxy', state: 'skipped' });
  },
  SLOW,
);

/** Whose word counts: the pod's annotation, its namespace's, and what the pod is. */
const enrolment = [
  { name: 'own-word', of: plainPod, own: 'true', space: undefined, captured: true },
  { name: 'own-no', of: plainPod, own: 'false', space: 'true', captured: false },
  { name: 'own-no-mesh', of: meshPod, own: 'false', space: undefined, captured: false },
  { name: 'space-mesh', of: meshPod, own: undefined, space: 'true', captured: true },
  { name: 'space-plain', of: plainPod, own: undefined, space: 'true', captured: false },
  { name: 'space-no', of: meshPod, own: undefined, space: 'false', captured: false },
];

test(
  'the annotation on the pod goes before that on its namespace, and that before what Istio says',
  async () => {
    for (const space of new Set(enrolment.map((each) => each.space))) {
      await mesh.annotateNamespace({ [INITIALIZE]: space ?? null });
      const cases = enrolment.filter((each) => each.space === space);
      const running = await Promise.all(
        cases.map(({ name, of, own }) =>
          mesh.run(of(name, own === undefined ? {} : { annotations: { [INITIALIZE]: own } })),
        ),
      );
      const found = await until(
        `looked at: ${cases.map(({ name }) => name)}`,
        async () => {
          const views = await controller.pods();
          return cases.map(({ name }) => ({ name, state: views.get(name)?.state }));
        },
        (states) => states.every(({ state }) => state === 'initialized' || state === 'skipped'),
      );
      assert.deepEqual(
        found,
        cases.map(({ name, captured }) => ({ name, state: captured ? 'initialized' : 'skipped' })),
      );
      for (const [at, { captured }] of cases.entries()) {
        assert.equal(OURS.test(await mesh.rules(running[at] as V1Pod)), captured);
      }
    }
    await mesh.annotateNamespace({ [INITIALIZE]: null });
  },
  SLOW,
);

test(
  'a pod that is opted out while it runs is cleaned, and its marks go; opted in again, it is installed again',
  async () => {
    const web = await mesh.runInitialized(meshPod('leaves'));
    const before = await mesh.rules(web);
    await mesh.annotate(web, { [INITIALIZE]: 'false' });
    await mesh.marked(web, (marks) => Object.keys(marks).length === 0);
    assert.ok(!OURS.test(await mesh.rules(web)));
    await mesh.expectDirect(web, peer);
    await mesh.annotate(web, { [INITIALIZE]: null });
    await mesh.marked(web, isInitialized);
    assert.equal(await mesh.rules(web), before);
    assert.ok((await mesh.events(web)).some((event) => event.startsWith('Normal Cleaned ')));
  },
  SLOW,
);

test(
  'a pod whose own istio-init wrote rules is left alone, in the mesh or opted out',
  async () => {
    const body = meshPod('own-init');
    const [first] = body.spec?.initContainers ?? [];
    if (first) first.name = 'istio-init';
    const web = await mesh.run(body);
    const netns = await mesh.netns(web);
    await inside(netns.path, ['iptables-legacy-restore', '--noflush'], '*nat\n:ISTIO_REDIRECT -\nCOMMIT\n');
    const before = await rulesIn(netns);
    for (const [word, reason] of [
      [null, 'own-init'],
      ['false', 'opted-out'],
    ] as const) {
      await mesh.annotate(web, { [INITIALIZE]: word });
      await until(
        `skipped for ${reason}`,
        async () => (await controller.pods()).get('own-init'),
        (view) => view?.state === 'skipped' && view.reason === reason,
      );
      assert.equal(await rulesIn(netns), before);
    }
    assert.deepEqual(await mesh.marks(web), {});
  },
  SLOW,
);

test(
  'a changed annotation takes effect on the running pod; one that cannot be honoured changes nothing, and heals',
  async () => {
    const web = await mesh.runInitialized(plainPod('changes', { annotations: { [INITIALIZE]: 'true' } }));
    const netns = await mesh.netns(web);
    const { rules } = await mesh.marks(web);
    await mesh.annotate(web, { [PORTS]: '8080' });
    await mesh.marked(web, (marks) => marks.rules !== rules);
    const narrow = await rulesIn(netns);
    assert.match(narrow, /-A ISTIO_INBOUND -p tcp -m tcp --dport 8080 -j ISTIO_IN_REDIRECT/);

    await mesh.annotate(web, { [PORTS]: '80,http' });
    const bad = await mesh.marked(web, ({ status }) => status?.startsWith('failed') === true);
    assert.equal(bad.condition, 'False ConfigInvalid');
    assert.equal(bad.netns, undefined);
    assert.match(bad.status ?? '', /includeInboundPorts.*"http"|includeInboundPorts.*"80,http"/);
    assert.equal(await rulesIn(netns), narrow);
    await until(
      'told: the Event',
      () => mesh.events(web),
      (events) => events.some((event) => /^Warning ConfigInvalid .*includeInboundPorts.*http/.test(event)),
    );
    await mesh.annotate(web, { [PORTS]: null });
    const healed = await mesh.marked(web, isInitialized);
    assert.equal(healed.rules, rules);
    assert.ok(
      (await mesh.events(web)).some((event) =>
        event.startsWith('Normal Initialized the controller installed the redirect rules with '),
      ),
    );
  },
  SLOW,
);

const damage = [
  { backend: 'iptables-legacy', hostUsers: true, command: 'iptables-legacy -t nat -F ISTIO_OUTPUT' },
  { backend: 'nftables', hostUsers: false, command: 'nft delete table inet istio-proxy-nat' },
];
for (const { backend, hostUsers, command } of damage) {
  test(
    `rules of ${backend} that somebody deletes are put right within a sweep, and another's stay`,
    async () => {
      const name = `drifts-${backend}`;
      const web = await mesh.runInitialized(meshPod(name, { hostUsers }));
      const netns = await mesh.netns(web);
      const others = 'iptables-legacy -A INPUT -s 192.0.2.1 -j DROP; nft add table inet theirs';
      await inside(netns.path, ['sh', '-ec', others]);
      const before = await rulesIn(netns);
      const repairs = await controller.metric('drift_repaired_total');
      await inside(netns.path, ['sh', '-ec', command]);
      // The next resync may repair the damage before it can be read here; the counted repair proves that there was damage.
      const sorted = (text: string) => text.split(/(?=^table |^\*)/m).sort();
      await until(
        'counted: the repair',
        () => controller.metric('drift_repaired_total'),
        (count) => count > repairs,
        2_500,
      );
      assert.equal(sorted(await rulesIn(netns)).join(''), sorted(before).join(''));
      await until(
        'told: the Event',
        () => mesh.events(web),
        (events) => events.some((event) => event.startsWith('Warning DriftRepaired ')),
      );
      assert.equal(await controller.metric('drift_repaired_total'), repairs + 1);
      // The controller's output may be read later than the API server's answers.
      await until(
        'written: the line of the repair',
        async () => controller.told(`${NAMESPACE}/${name}`, 'repaired').length,
        (lines) => lines === 1,
      );
      await mesh.expectCaptured(web, peer);
    },
    SLOW,
  );
}

test(
  'pods of the host, of excluded namespaces, and the controller itself are skipped, and /pods says why',
  async () => {
    const annotations = { [INITIALIZE]: 'true' };
    const host = pod('host', { hostNetwork: true, containers: [toolbox('app', 'serve', '--tcp', '18080')] });
    host.metadata = { ...host.metadata, annotations };
    const flags = ['--pod-namespace', NAMESPACE, '--pod-name', 'itself', '--exclude-namespaces', 'kube-system,default'];
    await using other = await ControllerProcess.start(mesh.node, mesh.kubeconfig, ...flags);
    await controller.stop();
    await runPod(mesh.core, host, SYSTEM);
    await runPod(mesh.core, plainPod('excluded', { annotations }));
    const itself = await mesh.run(plainPod('itself', { annotations }));
    const reasons = await until(
      'skipped',
      async () => {
        const views = await other.pods();
        return ['host', 'excluded', 'itself'].map((name) => views.get(name)?.reason);
      },
      (found) => found.every((reason) => reason !== undefined),
    );
    assert.deepEqual(reasons, ['host-network', 'excluded-namespace', 'self']);
    assert.ok(!OURS.test(await mesh.rules(itself)));
    assert.ok(!OURS.test(await mesh.node.exec(['sh', '-c', 'iptables-legacy-save; nft list ruleset'])));
  },
  SLOW,
);
