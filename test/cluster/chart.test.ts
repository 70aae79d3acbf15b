/** The chart on a real cluster: taken by the API server, installed, tested, upgraded and uninstalled by the real helm. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { V1DaemonSet, V1Deployment, V1Pod } from '@kubernetes/client-node';
import { GATE } from '../../chart/image/files.ts';
import { suite } from '../suite.ts';
import { CHART, helm, IMAGE, only, render } from '../support/helm.ts';
import { run } from '../support/process.ts';
import { scratchFolder } from '../support/scratch.ts';
import { imageName } from './images/images.ts';
import { gatedPod, INITIALIZE, isInitialized, Mesh, meshPod, NAMESPACE, plainPod } from './mesh-pod.ts';
import { until } from './pods.ts';
import { programs } from './programs.ts';

const SYSTEM = 'istio-system';
const NAME = 'istio-pod-network-controller';
const SLOW = { timeoutMs: 120_000 };
const CRDS = join(import.meta.dirname, 'fixtures/crds');

const test = suite('cluster, chart');
test.needs('cluster', 'addon', 'toolbox', 'iptables-legacy-save', 'nft');

const folder = scratchFolder('chart');
let mesh: Mesh;
/** Not enrolled; the other end of connections. */
let peer: V1Pod;

test.before(async () => {
  mesh = await Mesh.start(['toolbox', NAME, 'pod-network-gate']);
  await mesh.admin.post('/api/v1/namespaces', { metadata: { name: SYSTEM } });
  await kubectl('apply', '--filename', CRDS);
  await kubectl('wait', '--for=condition=Established', '--filename', CRDS);
  peer = await mesh.run(plainPod('peer'));
});
test.after(async () => {
  await mesh?.stop();
});

async function kubectl(...args: string[]): Promise<string> {
  const flags = ['--kubeconfig', mesh.controlPlane.kubeconfig, '--cache-dir', join(folder, 'cache')];
  const { stdout } = await run((await programs(['kubectl'])).path('kubectl'), [...flags, ...args]);
  return stdout;
}

/** Of the release, with our image. */
function release(verb: string, ...args: string[]): Promise<string> {
  return helm(verb, 'mesh', ...args, '--namespace', SYSTEM, '--kubeconfig', mesh.controlPlane.kubeconfig);
}

function install(verb: 'install' | 'upgrade', ...set: string[]): Promise<string> {
  const [repository, tag] = imageName(NAME).split(':');
  // The proxy of these pods is no Istio's, which a gate in the sidecar would wait for.
  const [gate, gateTag] = imageName('pod-network-gate').split(':');
  const image = [
    ...[
      `image.repository=${repository}`,
      `image.tag=${tag}`,
      `gateImage.repository=${gate}`,
      `gateImage.tag=${gateTag}`,
    ],
    ...['image.pullPolicy=Never', 'injection.wait=init'],
  ];
  const values = [...image, 'config.resync=1s', ...set].flatMap((each) => ['--set', each]);
  return release(verb, CHART, '--wait', '--timeout', '90s', ...values);
}

async function controllers(): Promise<V1Pod[]> {
  const labelSelector = `app.kubernetes.io/name=${NAME}`;
  return (await mesh.core.listNamespacedPod({ namespace: SYSTEM, labelSelector })).items;
}

const MONITORS = ['podMonitor', 'prometheusRule', 'dashboard'].map((name) => `monitoring.${name}.enabled=true`);
const everything = [
  ...MONITORS,
  'resourceQuota.enabled=true',
  'networkPolicy.apiServerPorts={443,6443}',
  'bench.enabled=true',
];

for (const distribution of ['Kubernetes', 'OpenShift']) {
  for (const runtime of ['auto', 'containerd', 'crio', 'docker']) {
    test(
      `the API server takes every object, of ${distribution} with ${runtime}`,
      async () => {
        const set = [`kubernetesDistribution=${distribution}`, `containerRuntime=${runtime}`, ...everything];
        const file = join(folder, 'rendered.yaml');
        // As the original's users install it: no namespace, no release, no hooks that helm would run.
        writeFileSync(file, await helm('template', CHART, ...IMAGE, ...set.flatMap((each) => ['--set', each])));
        const said = await kubectl('apply', '--dry-run=server', '--validate=strict', '--filename', file);
        const taken = said.trim().split('\n');
        assert.ok(
          taken.every((line) => line.endsWith(' created (server dry run)')),
          said,
        );
        for (const kind of [
          'daemonset.apps',
          'podmonitor',
          'prometheusrule',
          'networkpolicy',
          'resourcequota',
          'job.batch',
          'pod/',
        ]) {
          assert.ok(said.includes(kind), kind);
        }
        assert.equal(said.includes('securitycontextconstraints.security.openshift.io/'), distribution === 'OpenShift');
      },
      SLOW,
    );
  }
}

test('what the schemas of OpenShift and of the Prometheus operator do not know is refused', async () => {
  const set = ['kubernetesDistribution=OpenShift', ...MONITORS].flatMap((each) => ['--set', each]);
  const text = await helm('template', CHART, ...IMAGE, ...set);
  for (const [right, wrong] of [
    ['allowHostPID: false', 'allowHostPid: false'],
    ['    - port: metrics\n      interval', '    - name: metrics\n      interval'],
    ['        severity: info', '        severity: [info]'],
  ] as const) {
    assert.ok(text.includes(right), right);
    const file = join(folder, 'wrong.yaml');
    writeFileSync(file, text.replace(right, wrong));
    await assert.rejects(
      kubectl('apply', '--dry-run=server', '--validate=strict', '--filename', file),
      /strict decoding|Invalid value|invalid/,
    );
  }
});

/** As Istio injects it without CNI, its proxy a native sidecar or an ordinary container. */
function initPod(name: string, native: boolean): V1Pod {
  const body = meshPod(name);
  const [first] = body.spec?.initContainers ?? [];
  if (first === undefined) throw new Error('no init container');
  first.name = 'istio-init';
  delete first.command;
  first.args = (first.args ?? []).filter((word) => word !== '--run-validation' && word !== '--skip-rule-apply');
  first.securityContext = {
    allowPrivilegeEscalation: false,
    capabilities: { drop: ['ALL'], add: ['NET_ADMIN', 'NET_RAW'] },
    runAsNonRoot: false,
    runAsUser: 0,
  };
  if (!native && body.spec) {
    const [init, { restartPolicy: _, ...proxy } = { name: '' }] = body.spec.initContainers ?? [];
    body.spec.initContainers = init ? [init] : [];
    body.spec.containers = [...body.spec.containers, proxy];
  }
  return body;
}

const SHAPES = [
  { name: 'native', native: true },
  { name: 'ordinary', native: false },
];

async function deploy({ name, native }: (typeof SHAPES)[number]): Promise<void> {
  const { metadata, spec } = initPod(name, native);
  const selector = { matchLabels: { app: name } };
  const template = { metadata: { ...metadata, name: undefined }, spec };
  const body = { apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name }, spec: { selector, template } };
  const file = join(folder, `${name}.json`);
  writeFileSync(file, JSON.stringify(body));
  await kubectl('apply', '--namespace', NAMESPACE, '--filename', file);
}

async function deployment(name: string): Promise<V1Deployment> {
  return JSON.parse(await kubectl('get', 'deployment', name, '--namespace', NAMESPACE, '--output', 'json'));
}

test('before it, the pods of a Deployment with istio-init are refused where nothing privileged may run', async () => {
  for (const shape of SHAPES) {
    await deploy(shape);
    await until(
      'refused',
      () => deployment(shape.name),
      ({ status }) =>
        status?.conditions?.some(
          ({ type, message }) => type === 'ReplicaFailure' && /violates PodSecurity .*NET_ADMIN/.test(message ?? ''),
        ) === true,
    );
  }
});

test(
  'injection.wait=auto goes by what every node can, and the notes say why',
  async () => {
    const notes = () => release('install', CHART, ...IMAGE, '--dry-run=server');
    assert.match(
      await notes(),
      /in the container of their native sidecar: all nodes supported image volumes at the time of the installation\./,
    );
    const nodes = '/api/v1/nodes';
    const olds = [
      ['v1.36.0', 'containerd://1.7.27', 'has containerd 1.7.27, but image volumes need 2.1'],
      ['v1.36.0', 'docker://28.0.0', 'has the runtime docker, which is not known to support image volumes'],
      ['v1.34.2', 'containerd://2.2.0', 'has the kubelet v1.34.2, but image volumes need 1.35'],
      ['v1.36.0', 'cri-o://1.30.1', 'has cri-o 1.30.1, but image volumes need 1.31'],
    ] as const;
    await mesh.admin.post(nodes, { metadata: { name: 'old' } });
    for (const [kubeletVersion, containerRuntimeVersion, why] of olds) {
      const status = { nodeInfo: { kubeletVersion, containerRuntimeVersion } };
      await mesh.admin.patch(`${nodes}/old/status`, 'merge', { status });
      assert.ok((await notes()).includes(`in an init container: node old ${why}.`), why);
    }
    await kubectl('delete', 'node', 'old');
  },
  SLOW,
);

let web: V1Pod;
let userns: V1Pod;

test(
  '"helm install": ready on each node, and pods without any privilege are captured',
  async () => {
    assert.match(await install('install'), /STATUS: deployed/);
    const [controller, ...more] = await controllers();
    assert.equal(more.length, 0);
    assert.equal(controller?.spec?.priorityClassName, 'system-node-critical');
    [web, userns] = await Promise.all([
      mesh.runInitialized(meshPod('web')),
      mesh.runInitialized(meshPod('userns', { hostUsers: false })),
    ]);
    await mesh.expectCaptured(web, peer);
    await mesh.expectCaptured(userns, peer);
    const log = await kubectl('logs', '--namespace', SYSTEM, `daemonset/${NAME}`);
    assert.match(log, /"events":"containerd"/);
    assert.ok(!/"level":"(warn|error)"/.test(log), log);
  },
  SLOW,
);

test(
  'the Deployments that were refused before come up, with the gate in the place of istio-init, and are captured',
  async () => {
    for (const { name } of SHAPES) {
      // Not before its controller's own next attempt, which may be minutes away.
      await kubectl('rollout', 'restart', '--namespace', NAMESPACE, `deployment/${name}`);
      await kubectl('rollout', 'status', '--namespace', NAMESPACE, `deployment/${name}`, '--timeout=30s');
      const { items } = await mesh.core.listNamespacedPod({ namespace: NAMESPACE, labelSelector: `app=${name}` });
      // The one before the restart may be on its way out.
      const [taken] = items.filter(({ metadata }) => metadata?.deletionTimestamp === undefined);
      if (taken === undefined) throw new Error(`no pod of ${name}`);
      assert.equal(taken.spec?.initContainers?.[0]?.name, 'pod-network-gate');
      await mesh.expectCaptured(taken, peer);
    }
  },
  SLOW,
);

test(
  'a namespace is enrolled by its annotation, and what the controller did is told there',
  async () => {
    await mesh.annotateNamespace({ [INITIALIZE]: 'false' });
    await mesh.marked(web, (marks) => Object.keys(marks).length === 0);
    await mesh.expectDirect(web, peer);
    await mesh.annotateNamespace({ [INITIALIZE]: 'true' });
    await mesh.marked(web, isInitialized);
    await mesh.expectCaptured(web, peer);
    await mesh.told(web, /^Normal Initialized /);
    await mesh.annotateNamespace({ [INITIALIZE]: null });
    await mesh.marked(web, isInitialized);
  },
  SLOW,
);

test('"ipnc doctor" in its pod finds nothing missing', async () => {
  const said = await kubectl('exec', '--namespace', SYSTEM, `daemonset/${NAME}`, '--', 'ipnc', 'doctor');
  assert.ok(!/^missing/m.test(said), said);
  assert.match(said, /ok +(\/host)?\/run\/netns/);
  assert.match(said, /ok +CRI socket +\/run\/containerd\/containerd.sock/);
  assert.match(said, /ok +gate +pods wait in: init: injection\.wait=init; containerd \S+ supports image volumes/);
});

test('"ipnc inspect" in its pod, whose root is read-only, changes the log level and takes a profile', async () => {
  const inspect = (...words: string[]) =>
    kubectl('exec', '--namespace', SYSTEM, `daemonset/${NAME}`, '--', 'ipnc', 'inspect', ...words);
  const before = /^the log level was (\w+), and is debug now\n$/.exec(await inspect('--log-level', 'debug'))?.[1];
  assert.equal(await inspect('--log-level', before ?? ''), `the log level was debug, and is ${before} now\n`);
  const { nodes } = JSON.parse(await inspect('--cpu-profile', '1s')) as { nodes: object[] };
  assert.ok(nodes.length > 0);
});

test('"ipnc verify" in its pod compares one pod with its own configuration, as docs/operate.md says', async () => {
  const { path } = await mesh.netns(web);
  const words = ['verify', '--netns', `/host/run/netns/${basename(path)}`, '--pod', '-', '--counters', 'false'];
  const exec = ['exec', '--stdin', '--namespace', SYSTEM, `daemonset/${NAME}`, '--', 'ipnc', ...words];
  const pod = await kubectl('get', 'pod', 'web', '--namespace', NAMESPACE, '--output', 'yaml');
  const verifying = run((await programs(['kubectl'])).path('kubectl'), [
    '--kubeconfig',
    mesh.controlPlane.kubeconfig,
    ...exec,
  ]);
  verifying.child.stdin?.end(pod);
  assert.match((await verifying).stdout, /^ok: /);
});

test(
  '"helm test" passes: a pod that asks for nothing reaches itself at an address where nobody is',
  async () => {
    const said = await release('test', '--logs', '--timeout', '90s');
    assert.match(said, /Phase: +Succeeded/);
    assert.match(said, /captured: IPv4, IPv6/);
  },
  SLOW,
);

test(
  '"helm upgrade" to another configuration: pods keep their rules, none is repaired, a new one gets the new defaults',
  async () => {
    const rules = await Promise.all([web, userns].map((each) => mesh.rules(each)));
    const marks = await Promise.all([web, userns].map((each) => mesh.marks(each)));
    const [before] = await controllers();
    const upgraded = install('upgrade', 'excludeInboundPorts=9999');
    // Created while the controller is replaced or just before or after; whichever, it is not lost.
    const meanwhile = mesh.runInitialized(meshPod('meanwhile'));
    await upgraded;
    const [after] = await controllers();
    assert.notEqual(after?.metadata?.uid, before?.metadata?.uid);
    await mesh.expectCaptured(await meanwhile, peer);

    const fresh = await mesh.runInitialized(plainPod('fresh', { annotations: { [INITIALIZE]: 'true' } }));
    assert.match(await mesh.rules(fresh), /--dport 9999 -j RETURN/);

    for (const [at, each] of [web, userns].entries()) {
      assert.equal(await mesh.rules(each), rules[at]);
      assert.deepEqual(await mesh.marks(each), marks[at]);
      const { metadata, status } = await mesh.now(each);
      assert.equal(metadata?.uid, each.metadata?.uid);
      for (const { restartCount } of status?.containerStatuses ?? []) assert.equal(restartCount, 0);
      assert.ok(!(await mesh.events(each)).some((event) => event.includes('DriftRepaired')));
      await mesh.expectCaptured(each, peer);
    }
    const log = await kubectl('logs', '--namespace', SYSTEM, `daemonset/${NAME}`);
    assert.ok(!log.includes('"repaired"'), log);
  },
  SLOW,
);

test(
  '"helm upgrade" to the same configuration replaces nothing',
  async () => {
    const [before] = await controllers();
    await install('upgrade', 'excludeInboundPorts=9999');
    const [after] = await controllers();
    assert.equal(after?.metadata?.uid, before?.metadata?.uid);
  },
  SLOW,
);

test(
  'with the runtime named it sees less of the node, and does the same',
  async () => {
    await install('upgrade', 'containerRuntime=containerd');
    const [controller] = await controllers();
    const paths = controller?.spec?.volumes?.flatMap(({ hostPath }) => (hostPath ? [hostPath.path] : []));
    assert.deepEqual(paths, ['/var/run/netns', '/run/containerd']);
    const named = await mesh.runInitialized(meshPod('named'));
    await mesh.expectCaptured(named, peer);
    assert.match(await kubectl('logs', '--namespace', SYSTEM, `daemonset/${NAME}`), /"events":"containerd"/);
  },
  SLOW,
);

test(
  '"helm uninstall" takes away what it brought, and running pods stay captured',
  async () => {
    const rules = await mesh.rules(web);
    await release('uninstall', '--wait', '--timeout', '60s');
    await until('gone: the controllers', controllers, (pods) => pods.length === 0);
    const left = await kubectl('get', 'clusterroles,clusterrolebindings', '--output', 'name');
    assert.ok(!left.includes(NAME), left);
    assert.equal(await mesh.rules(web), rules);
    assert.ok(isInitialized(await mesh.marks(web)));
    await mesh.expectCaptured(web, peer);
    await mesh.expectCaptured(userns, peer);
    // A new one waits, and says for what.
    const late = gatedPod('late', { image: NAME, command: [GATE] });
    await mesh.core.createNamespacedPod({ namespace: NAMESPACE, body: late });
    const log = await until(
      'said: what the gate waits for',
      () => kubectl('logs', '--namespace', NAMESPACE, 'late', '--container', 'pod-network-gate').catch(() => ''),
      (text) => text.includes('waiting'),
    );
    assert.match(log, /waiting.*not redirected|redirect/);
    const [state] =
      (await mesh.core.readNamespacedPod({ namespace: NAMESPACE, name: 'late' })).status?.initContainerStatuses ?? [];
    assert.ok(state?.state?.running, JSON.stringify(state));
  },
  SLOW,
);

test(
  'with docker: by /proc and CAP_SYS_PTRACE alone a pod is found, without hostPID and without any socket',
  async () => {
    const file = join(folder, 'docker.yaml');
    const [repository, tag] = imageName(NAME).split(':');
    const set = [
      `image.repository=${repository}`,
      `image.tag=${tag}`,
      'image.pullPolicy=Never',
      'containerRuntime=docker',
    ];
    const objects = await render([...set, 'enroll=both'], '--skip-tests');
    // Here is no Docker: take away what containerd would be found by.
    const { spec } = only(objects, 'DaemonSet') as unknown as V1DaemonSet;
    const pod = spec?.template.spec;
    const [container] = pod?.containers ?? [];
    if (pod === undefined || container === undefined) throw new Error('no container');
    pod.volumes = (pod.volumes ?? []).filter(({ name }) => name !== 'host-run');
    container.volumeMounts = (container.volumeMounts ?? []).filter(({ name }) => name !== 'host-run');
    assert.equal(pod.hostPID, undefined);
    writeFileSync(file, JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects }));
    await kubectl('apply', '--filename', file);
    await kubectl('rollout', 'status', '--namespace', SYSTEM, `daemonset/${NAME}`, '--timeout=60s');
    const found = await mesh.runInitialized(meshPod('by-proc'));
    await mesh.expectCaptured(found, peer);
    await mesh.runInitialized(meshPod('by-proc-userns', { hostUsers: false }));
    await kubectl('delete', '--wait', '--filename', file);
  },
  SLOW,
);
