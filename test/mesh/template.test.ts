/**
 * The gate by istiod's own injector: what comes out for each kind of pod, and that a pod starts behind its gate, and only
 * behind it. The policy that puts the gate into the sidecar, and the demo, use the same mesh.
 */
import assert from 'node:assert/strict';
import type { V1Container, V1Pod } from '@kubernetes/client-node';
import { processIo } from '../../lib/cli/output.ts';
import { podRedirect } from '../../lib/istio/redirect.ts';
import { toPodRecord } from '../../lib/kube/pods.ts';
import { ControllerProcess } from '../cluster/controller-process.ts';
import { until } from '../cluster/pods.ts';
import { suite } from '../suite.ts';
import { showMesh } from './demo.ts';
import { type EchoOptions, echoPod, HTTP, request, runEcho } from './echo.ts';
import { type Mesh, OUTSIDE, PRIVILEGED, RESTRICTED, startMesh } from './mesh.ts';
import { usePolicy } from './policy.ts';
import { templateValues } from './template.ts';

const test = suite('mesh, the gate by istiod');
test.needs('mesh', 'gate');

const SLOW = { timeoutMs: 180_000 };
/** Revisions of istiod: as Istio comes, and with each of the chart's values. */
const [OWN, SIDECAR, INIT] = ['default', 'sidecar', 'init'] as const;

/** Its pods get the gate in the sidecar, and may not have any privilege. */
const GATED = 'gated';

let mesh: Mesh;
test.before(async () => {
  mesh = await startMesh({ images: ['toolbox', 'pod-network-gate'] });
  for (const wait of [SIDECAR, INIT]) await mesh.installRevision(wait, await templateValues(wait));
  const labels = { 'istio.io/rev': SIDECAR, 'pod-security.kubernetes.io/enforce': 'restricted' };
  await mesh.apply([{ apiVersion: 'v1', kind: 'Namespace', metadata: { name: GATED, labels } }]);
});
test.after(() => mesh?.stop());

const labels = (revision: string) => (revision === OWN ? {} : { 'istio.io/rev': revision });

/** As it would be stored, with a revision's injector. */
async function injected(revision: string, options: EchoOptions = {}): Promise<V1Pod> {
  const { metadata, spec } = echoPod('web', { ...options, namespace: OUTSIDE });
  const all = { 'sidecar.istio.io/inject': 'true', ...labels(revision), ...options.labels };
  const body = { metadata: { ...metadata, labels: all }, spec: { ...spec, serviceAccountName: 'default' } } as V1Pod;
  const made = await mesh.cluster.core.createNamespacedPod({ namespace: OUTSIDE, body, dryRun: 'All' });
  return JSON.parse(JSON.stringify(made)) as V1Pod;
}

const inits = ({ spec }: V1Pod) => (spec?.initContainers ?? []).map(({ name }) => name);
const proxy = ({ spec }: V1Pod): V1Container | undefined =>
  [...(spec?.initContainers ?? []), ...(spec?.containers ?? [])].find(({ name }) => name === 'istio-proxy');

/** What the controller makes of it, and what the same pod says as Istio injects it. */
async function sameSettings(made: V1Pod, options: EchoOptions = {}): Promise<void> {
  const defaults = { redirect: {}, defaultInboundPorts: '*' } as const;
  const read = (pod: V1Pod) => {
    const copy = structuredClone(pod);
    copy.metadata = { ...copy.metadata, name: 'web', uid: '1', namespace: OUTSIDE };
    return podRedirect(toPodRecord(copy), defaults).spec;
  };
  assert.deepEqual(read(made), read(await injected(OWN, options)));
}

const TRAFFIC = (name: string) => `traffic.sidecar.istio.io/${name}`;
const ANNOTATED: Record<string, Record<string, string>> = {
  'without annotations': {},
  'with every traffic annotation': {
    [TRAFFIC('includeInboundPorts')]: '8080,9090',
    [TRAFFIC('excludeOutboundPorts')]: '3306',
    [TRAFFIC('includeOutboundPorts')]: '5432',
    [TRAFFIC('includeOutboundIPRanges')]: '10.0.0.0/8',
    [TRAFFIC('excludeOutboundIPRanges')]: '10.1.0.0/16',
    [TRAFFIC('excludeInterfaces')]: 'eth7',
    'istio.io/reroute-virtual-interfaces': 'vm0',
  },
  'with excluded inbound ports': { [TRAFFIC('excludeInboundPorts')]: '8081' },
  'with DNS capture': { 'proxy.istio.io/config': '{"proxyMetadata":{"ISTIO_META_DNS_CAPTURE":"true"}}' },
};

for (const [what, annotations] of Object.entries(ANNOTATED)) {
  test(`${what}: the gate is in the sidecar, and says what istio-init would`, async () => {
    const made = await injected(SIDECAR, { annotations });
    assert.deepEqual(inits(made), ['istio-proxy']);
    const { command = [], lifecycle, startupProbe, volumeMounts } = proxy(made) ?? {};
    assert.equal(command[0], '/opt/pod-network-gate/pod-network-gate');
    assert.deepEqual(command.slice(-2), ['--', '/usr/local/bin/pilot-agent']);
    assert.equal(startupProbe, undefined);
    assert.deepEqual(lifecycle?.postStart?.exec?.command, [command[0], '--await-ready', '15021']);
    // Istio's own, which drains the proxy.
    assert.ok(lifecycle?.preStop);
    assert.ok(volumeMounts?.some(({ name }) => name === 'pod-network-gate'));
    await sameSettings(made, { annotations });
  });
}

/** Where the gate is an init container: in the place and under the name of Istio's. */
const AS_INIT: Record<string, { revision: string; options: EchoOptions; names: string[] }> = {
  'injection.wait=init': { revision: INIT, options: {}, names: ['istio-validation', 'istio-proxy'] },
  'an ordinary sidecar': {
    revision: SIDECAR,
    options: { annotations: { 'sidecar.istio.io/nativeSidecar': 'false' } },
    names: ['istio-validation'],
  },
  TPROXY: {
    revision: SIDECAR,
    options: { annotations: { 'sidecar.istio.io/interceptionMode': 'TPROXY' } },
    names: ['istio-validation', 'istio-proxy'],
  },
  'a proxy with a command of its own': {
    revision: SIDECAR,
    options: {
      change: (spec) => {
        spec.initContainers = [
          { name: 'istio-proxy', image: 'auto', command: ['/bin/custom'], restartPolicy: 'Always' },
        ];
      },
    },
    names: ['istio-validation', 'istio-proxy'],
  },
};

for (const [what, { revision, options, names }] of Object.entries(AS_INIT)) {
  test(`${what}: the gate is an init container, in Istio's place`, async () => {
    const made = await injected(revision, options);
    assert.deepEqual(inits(made).sort(), [...names].sort());
    const gate = made.spec?.initContainers?.find(({ name }) => name === 'istio-validation');
    assert.deepEqual(gate?.command, ['/pod-network-gate']);
    assert.equal(gate?.args?.[0], 'istio-iptables');
    const { capabilities, runAsNonRoot, runAsUser } = gate?.securityContext ?? {};
    assert.deepEqual(
      { capabilities, runAsNonRoot, runAsUser },
      { capabilities: { drop: ['ALL'] }, runAsNonRoot: true, runAsUser: 1337 },
    );
    assert.notEqual(proxy(made)?.command?.[0], '/opt/pod-network-gate/pod-network-gate');
    await sameSettings(made, options);
  });
}

test('a pod without redirection has no gate', async () => {
  const made = await injected(SIDECAR, { annotations: { 'sidecar.istio.io/interceptionMode': 'NONE' } });
  assert.deepEqual(inits(made), ['istio-proxy']);
  assert.equal(proxy(made)?.command, undefined);
});

test('a gateway is not touched', async () => {
  const made = await injected(SIDECAR, {
    annotations: { 'inject.istio.io/templates': 'gateway' },
    change: (spec) => {
      spec.containers = [{ name: 'istio-proxy', image: 'auto' }];
    },
  });
  assert.deepEqual(inits(made), []);
  assert.ok(!(made.spec?.volumes ?? []).some(({ name }) => name === 'pod-network-gate'));
});

test(
  'a pod starts behind its gate, under Pod Security restricted, and talks with its identity',
  async () => {
    const { node, kubeconfig } = mesh.cluster;
    await using _controller = await ControllerProcess.start(node, kubeconfig, '--enroll=istio');
    const [one, other] = await Promise.all([
      runEcho(mesh, 'gated-a', { namespace: GATED }),
      runEcho(mesh, 'gated-b', { namespace: GATED }),
    ]);
    assert.equal(one.spec?.initContainers?.[0]?.command?.[0], '/opt/pod-network-gate/pod-network-gate');
    const answer = await request(mesh, one, `http://gated-b.${GATED}:${HTTP}/`);
    assert.equal(answer.status, '200', answer.text);
    assert.match(answer.header('X-Forwarded-Client-Cert') ?? '', /spiffe:.*gated-a/);
    assert.match(await mesh.logs(other, 'istio-proxy'), /open after .* redirect/);
  },
  SLOW,
);

test(
  'the demo shows the identities of two pods without capabilities, a refused outsider, and the stages of three starts',
  async () => {
    await usePolicy(mesh, { only: RESTRICTED, except: [GATED] });
    let text = '';
    const out = (part: string) => {
      text += part;
    };
    const io = { ...processIo, out, err: out, colour: false };
    await showMesh(io, mesh, 'auto');
    const rows = text.split('\n').map((line) => line.trim().split(/ {2,}/));
    const about = (first: string) => rows.filter(([mark, what]) => mark === 'ok' && what === first);
    for (const name of ['web', 'client'])
      assert.deepEqual(
        about(name).map(([, , container, , capabilities]) => `${container}: ${capabilities}`),
        ['pod-network-gate', 'istio-proxy', 'app'].map((container) => `${container}: no capability`),
      );
    for (const name of ['web', 'client'])
      assert.equal(about(`${name} is`)[0]?.[2], `spiffe://cluster.local/ns/${RESTRICTED}/sa/${name}`);
    assert.deepEqual(
      about('before').map(([, , , status]) => status),
      ['200', '200'],
    );
    const [byService, byAddress, member] = about('after').map((row) => row.at(-1));
    for (const status of [byService, byAddress]) assert.match(status ?? '', /^(connection reset|EOF)$/);
    assert.equal(member, '200');
    // Istio's own way, the gate as an init container, and the gate in the sidecar. Istio's has no rules of ours.
    const stages = new Map(rows.map(([stage = '', ...times]) => [stage, times]));
    for (const [stage, starts] of [
      ['bound to the node', 3],
      ['rules are installed', 2],
      ['init container ends, or gate opens', 3],
      ['proxy is ready', 3],
      ['app starts', 3],
      ['pod is ready', 3],
    ] as const)
      assert.equal(stages.get(stage)?.filter((ms) => Number(ms) > 0).length, starts, stage);
    assert.doesNotMatch(text, /WRONG/);
    assert.match(text, /Everything is as expected/);
  },
  SLOW,
);

test(
  'the admission policy with injection.wait=sidecar does the same to what istiod injects',
  async () => {
    const { node, kubeconfig } = mesh.cluster;
    await usePolicy(mesh, { wait: 'sidecar', only: PRIVILEGED, except: [GATED] });
    await using _controller = await ControllerProcess.start(node, kubeconfig, '--enroll=istio');
    const made = await runEcho(mesh, 'by-policy', { namespace: PRIVILEGED });
    assert.deepEqual(inits(made), ['istio-proxy']);
    const { command = [], lifecycle, startupProbe } = proxy(made) ?? {};
    assert.equal(command[0], '/opt/pod-network-gate/pod-network-gate');
    assert.deepEqual(command.slice(-2), ['--', '/usr/local/bin/pilot-agent']);
    assert.ok(lifecycle?.postStart && lifecycle.preStop && !startupProbe);
    await sameSettings(made);
    const answer = await request(mesh, made, `http://by-policy.${PRIVILEGED}:${HTTP}/`);
    assert.equal(answer.status, '200', answer.text);
    assert.match(await mesh.logs(made, 'istio-proxy'), /open after .* redirect/);
  },
  SLOW,
);

test(
  'without the controller no app starts; when it is back the pod does',
  async () => {
    const { node, kubeconfig, core } = mesh.cluster;
    const name = 'held';
    await mesh.apply([{ apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace: GATED } }]);
    await core.createNamespacedPod({ namespace: GATED, body: echoPod(name, { namespace: GATED }) });
    const read = () => core.readNamespacedPod({ namespace: GATED, name });
    const gate = ({ status }: V1Pod) => status?.initContainerStatuses?.[0];
    const failed = await until(
      'ended for lack of rules: the gate',
      read,
      (pod) => (gate(pod)?.restartCount ?? 0) > 0,
      90_000,
    );
    assert.equal(gate(failed)?.lastState?.terminated?.exitCode, 126);
    assert.match(gate(failed)?.lastState?.terminated?.message ?? '', /^not redirected within /);
    assert.equal(failed.status?.containerStatuses?.[0]?.started, false);
    await using _controller = await ControllerProcess.start(node, kubeconfig, '--enroll=istio');
    await until('running: the pod', read, ({ status }) => status?.containerStatuses?.[0]?.ready === true, 120_000);
  },
  SLOW,
);
