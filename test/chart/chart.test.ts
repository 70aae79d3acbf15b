/** The chart as the real helm renders it. test/cluster/chart.test.ts installs it on a real API server. */

import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { V1ConfigMap, V1DaemonSet, V1Job, V1NetworkPolicy, V1Pod, V1PodSpec } from '@kubernetes/client-node';
import { parse } from 'yaml';
import { runOptionList } from '../../lib/config/options.ts';
import { readConfig } from '../../lib/config/read.ts';
import { optionList } from '../../lib/istio/options.ts';
import { createMetrics } from '../../lib/observe/metrics.ts';
import { suite } from '../suite.ts';
import { CHART, helm, IMAGE, type Manifest, only, render } from '../support/helm.ts';
import { scratchFolder } from '../support/scratch.ts';

const test = suite('chart');
test.needs('helm');

const folder = scratchFolder('chart');
const NAME = 'istio-pod-network-controller';

const chartFile = (name: string) => readFileSync(join(CHART, name), 'utf8');
const MONITORS = ['podMonitor', 'prometheusRule', 'dashboard'].map((name) => `monitoring.${name}.enabled=true`);

function daemonSet(objects: readonly Manifest[]) {
  const { spec } = only(objects, 'DaemonSet') as unknown as V1DaemonSet;
  const pod = spec?.template.spec;
  const [container] = pod?.containers ?? [];
  if (pod === undefined || container === undefined) throw new Error('no container');
  return { spec, template: spec?.template, pod, container };
}

/** What `ipnc run` reads of it. */
function configOf(objects: readonly Manifest[]) {
  const { data } = objects.find(({ kind, metadata }) => {
    return kind === 'ConfigMap' && metadata.name === 'istio-pod-network-controller';
  }) as unknown as V1ConfigMap;
  const { container } = daemonSet(objects);
  const environment = Object.fromEntries(
    (container.env ?? []).map(({ name, value, valueFrom }) => [name, valueFrom ? 'from-the-pod' : value]),
  );
  return readConfig({ flags: new Map(), environment, read: () => data?.['config.yaml'] ?? '' });
}

async function refusal(...args: string[]): Promise<string> {
  try {
    await helm('template', 'mesh', CHART, ...IMAGE, ...args);
  } catch (error) {
    return String((error as { stderr: string }).stderr);
  }
  throw new Error(`taken: ${args.join(' ')}`);
}

const DISTRIBUTIONS = ['Kubernetes', 'OpenShift'];
const RUNTIMES = ['auto', 'containerd', 'crio', 'docker'];
const MODES = ['auto', 'policy', 'istio', 'none'];
const ALWAYS = ['ClusterRole', 'ClusterRoleBinding', 'ConfigMap', 'DaemonSet', 'NetworkPolicy', 'Pod', 'Service'];

for (const distribution of DISTRIBUTIONS) {
  test(
    `${distribution}: each runtime, way of injection and monitor gives what it should and no more`,
    async () => {
      const cases = RUNTIMES.flatMap((runtime) =>
        MODES.flatMap((mode) => [[], MONITORS].map((monitors) => ({ runtime, mode, monitors }))),
      );
      for (const { runtime, mode, monitors } of cases) {
        const set = [`kubernetesDistribution=${distribution}`, `containerRuntime=${runtime}`, `injection.mode=${mode}`];
        const objects = await render([...set, ...monitors], '--namespace', 'istio-system');
        const kinds = new Set(objects.map(({ kind }) => kind));
        for (const kind of ALWAYS) assert.ok(kinds.has(kind), `${kind} with ${set}`);
        assert.equal(kinds.has('SecurityContextConstraints'), distribution === 'OpenShift');
        for (const kind of ['PodMonitor', 'PrometheusRule']) assert.equal(kinds.has(kind), monitors.length > 0);
        for (const { apiVersion, kind, metadata } of objects) {
          const clusterWide = /^Cluster|SecurityContextConstraints|Admission/.test(kind);
          assert.equal(metadata.namespace, clusterWide ? undefined : 'istio-system', `${apiVersion} ${kind}`);
          if (kind !== 'Pod') assert.equal(metadata.labels?.['app.kubernetes.io/instance'], 'mesh');
        }
        assert.equal(configOf(objects).enroll, 'both');
      }
    },
    { timeoutMs: 120_000 },
  );
}

/**
 * Root with these capabilities and nothing else, nothing of the host's namespaces, and OpenShift's constraints for just
 * that.
 */
function assertPrivileges(
  objects: readonly Manifest[],
  pod: V1PodSpec,
  { capabilities, allowed }: { capabilities: string[]; allowed: string[] },
): Manifest {
  const seLinuxOptions = { user: 'system_u', role: 'system_r', type: 'spc_t', level: 's0' };
  assert.deepEqual(pod.containers[0]?.securityContext, {
    runAsUser: 0,
    runAsGroup: 0,
    privileged: false,
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ['ALL'], add: capabilities },
    seLinuxOptions,
  });
  for (const host of ['hostPID', 'hostIPC', 'hostNetwork', 'initContainers'] as const)
    assert.equal(pod[host], undefined);
  const scc = only(objects, 'SecurityContextConstraints');
  assert.deepEqual(scc.allowedCapabilities, capabilities);
  assert.deepEqual(scc.seLinuxContext, { type: 'MustRunAs', seLinuxOptions });
  const allows = Object.keys(scc).filter((key) => key.startsWith('allow') && scc[key] === true);
  assert.deepEqual(allows, allowed);
  return scc;
}

const CAPABILITIES = ['NET_ADMIN', 'NET_RAW', 'SYS_ADMIN'];

for (const runtime of RUNTIMES) {
  test(`${runtime}: root with three capabilities (four for docker), and nothing else`, async () => {
    const objects = await render([`containerRuntime=${runtime}`, 'kubernetesDistribution=OpenShift']);
    const { pod } = daemonSet(objects);
    const capabilities = runtime === 'docker' ? [...CAPABILITIES, 'SYS_PTRACE'] : CAPABILITIES;
    const scc = assertPrivileges(objects, pod, { capabilities, allowed: ['allowHostDirVolumePlugin'] });
    assert.deepEqual(pod.securityContext, { seccompProfile: { type: 'RuntimeDefault' } });
    assert.deepEqual(scc.users, ['system:serviceaccount:istio-system:istio-pod-network-controller']);
    // OpenShift knows volumes by the names of their fields.
    const kinds = (pod.volumes ?? []).flatMap((volume) => Object.keys(volume).filter((key) => key !== 'name'));
    assert.deepEqual([...new Set([...kinds, 'projected'])].sort(), scc.volumes);
  });
}

const mounts: Record<string, { set: string[]; paths: string[]; socket?: string }> = {
  auto: { set: [], paths: ['/run'] },
  containerd: {
    set: ['containerRuntime=containerd'],
    paths: ['/run/netns', '/run/containerd'],
    socket: '/run/containerd/containerd.sock',
  },
  crio: { set: ['containerRuntime=crio'], paths: ['/run/netns', '/run/crio'], socket: '/run/crio/crio.sock' },
  'crio by NRI': {
    set: ['containerRuntime=crio', 'runtimeEvents=nri'],
    paths: ['/run/netns', '/run/crio', '/run/nri'],
    socket: '/run/crio/crio.sock',
  },
  'auto by NRI': { set: ['runtimeEvents=nri'], paths: ['/run'] },
  'containerd by NRI': {
    set: ['containerRuntime=containerd', 'runtimeEvents=nri'],
    paths: ['/run/netns', '/run/containerd', '/run/nri'],
    socket: '/run/containerd/containerd.sock',
  },
  docker: { set: ['containerRuntime=docker'], paths: ['/run', '/proc'], socket: '/run/cri-dockerd.sock' },
  'auto elsewhere': {
    set: ['criSocket=/var/snap/microk8s/common/run/containerd.sock'],
    paths: ['/run', '/var/snap/microk8s/common/run'],
    socket: '/var/snap/microk8s/common/run/containerd.sock',
  },
  'containerd elsewhere': {
    set: ['containerRuntime=containerd', 'criSocket=unix:///var/run/k3s/containerd/containerd.sock'],
    paths: ['/run/netns', '/run/k3s/containerd'],
    socket: '/run/k3s/containerd/containerd.sock',
  },
  'crio elsewhere': {
    set: ['containerRuntime=crio', 'crioSocket=/run/other/crio.sock'],
    paths: ['/run/netns', '/run/other'],
    socket: '/run/other/crio.sock',
  },
  'directly in /run': {
    set: ['containerRuntime=crio', 'criSocket=/run/c.sock'],
    paths: ['/run'],
    socket: '/run/c.sock',
  },
};
for (const [name, { set, paths, socket }] of Object.entries(mounts)) {
  test(`mounts, ${name}: read-only, what is mounted later is seen, and the socket is in one of them`, async () => {
    const objects = await render(set);
    const { pod, container } = daemonSet(objects);
    const host = new Map((pod.volumes ?? []).map(({ name, hostPath }) => [name, hostPath?.path]));
    const found = (container.volumeMounts ?? []).filter(({ name }) => host.get(name) !== undefined);
    assert.deepEqual(
      found.map(({ name, mountPath }) => [host.get(name), mountPath]),
      paths.map((path) => [path === '/run/netns' ? '/var/run/netns' : path, `/host${path}`]),
    );
    for (const { mountPath, readOnly, mountPropagation } of found) {
      assert.equal(readOnly, true);
      assert.equal(mountPropagation, mountPath === '/host/proc' ? undefined : 'HostToContainer');
    }
    assert.equal((pod.volumes ?? []).length, paths.length + 1);
    const { criSocket, hostRoot, runtimeEvents } = configOf(objects);
    assert.equal(runtimeEvents, set.find((each) => each.startsWith('runtimeEvents='))?.split('=')[1] ?? 'auto');
    assert.equal(criSocket, socket);
    assert.equal(hostRoot, '/host');
    if (socket !== undefined) assert.ok(paths.some((path) => socket.startsWith(`${path}/`)));
  });
}

test("the controller's rights are these and no others", async () => {
  const objects = await render();
  assert.deepEqual(only(objects, 'ClusterRole').rules, [
    { apiGroups: [''], resources: ['pods', 'namespaces'], verbs: ['list', 'watch'] },
    { apiGroups: [''], resources: ['pods/status'], verbs: ['patch'] },
    { apiGroups: ['events.k8s.io'], resources: ['events'], verbs: ['create'] },
  ]);
  const { roleRef, subjects } = only(objects, 'ClusterRoleBinding') as { roleRef?: unknown; subjects?: unknown };
  const name = 'istio-pod-network-controller';
  assert.deepEqual(roleRef, { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name });
  assert.deepEqual(subjects, [{ kind: 'ServiceAccount', name, namespace: 'istio-system' }]);
  assert.ok(!objects.some(({ kind }) => kind === 'Role' || kind === 'RoleBinding'));
});

test('it goes to every node, comes back first, and is replaced one node after another', async () => {
  const { spec, pod, container } = daemonSet(await render());
  assert.deepEqual(pod.tolerations, [{ operator: 'Exists' }]);
  assert.equal(pod.priorityClassName, 'system-node-critical');
  assert.deepEqual(spec?.updateStrategy, { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: 1 } });
  const probes = [container.startupProbe, container.livenessProbe, container.readinessProbe];
  assert.deepEqual(
    probes.map((probe) => [probe?.httpGet?.path, probe?.httpGet?.port]),
    [
      ['/livez', 'health'],
      ['/livez', 'health'],
      ['/readyz', 'health'],
    ],
  );
});

test('health has a port of its own, which no policy opens, and metrics are asked for by known names', async () => {
  const objects = await render(['health.port=9999', 'metrics.hosts={metrics.example.com}'], '--namespace', 'mesh');
  const { container } = daemonSet(objects);
  assert.deepEqual(container.ports, [
    { name: 'metrics', containerPort: 9464 },
    { name: 'health', containerPort: 9999 },
  ]);
  const variable = (wanted: string) => container.env?.find(({ name }) => name === wanted)?.value;
  assert.equal(variable('IPNC_HEALTH_ADDRESS'), ':9999');
  const name = 'istio-pod-network-controller';
  assert.equal(variable('IPNC_HTTP_HOSTS'), `${name},${name}.mesh,${name}.mesh.svc,metrics.example.com`);
  const { spec } = only(objects, 'NetworkPolicy') as unknown as V1NetworkPolicy;
  assert.deepEqual(
    spec?.ingress?.flatMap(({ ports = [] }) => ports.map(({ port }) => port)),
    ['metrics'],
  );
  await assert.rejects(render(['health.port=9464']), /metrics.port and health.port are both 9464/);
});

test('another configuration is another pod, and the same one is not', async () => {
  const checksum = async (...set: string[]) =>
    daemonSet(await render(set)).template?.metadata?.annotations?.['checksum/config'];
  const before = await checksum();
  assert.equal(await checksum('maxUnavailable=2'), before);
  assert.notEqual(await checksum('excludeInboundPorts=9000'), before);
});

const namespaces = [
  { flags: [], namespace: 'istio-system' },
  { flags: ['--namespace', 'mesh'], namespace: 'mesh' },
  { flags: ['--namespace', 'mesh', '--set', 'Namespace=other'], namespace: 'other' },
];
for (const { flags, namespace } of namespaces) {
  test(`"helm template ${flags.join(' ')}" is for ${namespace}`, async () => {
    const objects = await render([], ...flags);
    assert.equal(only(objects, 'DaemonSet').metadata.namespace, namespace);
  });
}

test("the original chart's values file is taken as it is, and means the same", async () => {
  const file = join(folder, 'original.yaml');
  writeFileSync(
    file,
    `kubernetesDistribution: OpenShift
Namespace: istio-system
containerRuntime: crio
crioSocket: /var/run/crio/crio.sock
runcRoot: /run/runc
includeIPRanges: "172.30.0.0/16,172.20.0.0/16"
excludeIPRanges: "192.0.2.0/24"
excludeInboundPorts: "80,8080"
LogLevel: warning
image:
  repository: registry.example/istio-pod-network-controller
  tag: v1
  pullPolicy: IfNotPresent
  runAsUser: 1337
resources: {}
ingress:
  enabled: false
nodeSelector: {}
tolerations: []
affinity: {}
`,
  );
  const objects = await render([], '--values', file);
  const { container } = daemonSet(objects);
  assert.equal(container.image, 'registry.example/istio-pod-network-controller:v1');
  const { redirect, logLevel, criSocket } = configOf(objects);
  assert.equal(redirect.outboundCidrs?.text, '172.30.0.0/16,172.20.0.0/16');
  assert.equal(redirect.outboundExcludeCidrs?.text, '192.0.2.0/24');
  assert.equal(redirect.inboundExclude?.text, '80,8080');
  assert.equal(logLevel, 'warn');
  assert.equal(criSocket, '/run/crio/crio.sock');
});

test('every option of "ipnc run" can be given, and the chart knows of no other', async () => {
  const schema = JSON.parse(chartFile('values.schema.json')) as {
    properties: { config: { properties: Record<string, unknown> } };
  };
  // What the DaemonSet says, or a value of its own.
  const elsewhere = new Set([
    'node-name',
    'pod-name',
    'pod-namespace',
    'kubeconfig',
    'host-root',
    'cri-socket',
    'metrics-address',
    'health-address',
    'http-hosts',
    'log-level',
    'enroll',
    'exclude-namespaces',
    'runtime-events',
    'marks',
    'unserved-families',
  ]);
  const options = [...runOptionList, ...optionList].map(([, { flag }]) => flag);
  assert.deepEqual(
    Object.keys(schema.properties.config.properties).sort(),
    options.filter((flag) => !elsewhere.has(flag)).sort(),
  );
  const file = join(folder, 'config.yaml');
  writeFileSync(file, 'config: {redirect-dns: true, resync: 1m, istio-inbound-ports: [80, 443], concurrency: 4}\n');
  const set = ['excludeNamespaces={a,b}', 'enroll=istio', 'marks=failures', 'unservedFamilies=block'];
  const config = configOf(await render(set, '--values', file));
  assert.equal(config.resync, 60_000);
  assert.equal(config.concurrency, 4);
  assert.equal(config.redirect.redirectDns?.text, 'true');
  assert.equal(config.redirect.inboundPorts?.text, '80,443');
  assert.deepEqual(config.excludeNamespaces, ['a', 'b']);
  assert.equal(config.enroll, 'istio');
  assert.equal(config.marks, 'failures');
  assert.equal(config.redirect.unservedFamilies?.text, 'block');
});

test('as a dependency of another chart, with a condition', async () => {
  const parent = join(folder, 'parent');
  mkdirSync(join(parent, 'templates'), { recursive: true });
  const dependency = { name: NAME, version: '*', repository: `file://${CHART}`, condition: `${NAME}.enabled` };
  const chart = { apiVersion: 'v2', name: 'parent', version: '0.1.0', dependencies: [dependency] };
  writeFileSync(join(parent, 'Chart.yaml'), JSON.stringify(chart));
  await helm('dependency', 'build', parent);
  for (const enabled of [true, false]) {
    const values = `${NAME}.enabled=${enabled},${NAME}.image.repository=example.com/ipnc`;
    const text = await helm('template', 'mesh', parent, '--set', values);
    assert.equal(/^kind: DaemonSet$/m.test(text), enabled);
  }
});

const texts: Record<string, [yaml: string, flag: string, text: string]> = {
  'a list with blanks': ['excludeInboundPorts: "80, 443"', 'istio-local-exclude-ports', '80, 443'],
  'a block with a line break': ['includeOutboundPorts: |\n  80,443\n', 'istio-outbound-ports', '80,443\n'],
  'ranges with blanks': [
    'excludeIPRanges: "10.0.0.0/8, fd00::/8"',
    'istio-service-exclude-cidr',
    '10.0.0.0/8, fd00::/8',
  ],
  'a port as a number': ['includeOutboundPorts: 443', 'istio-outbound-ports', '443'],
  'a large number': ['config: {proxy-uid: 1000650000}', 'proxy-uid', '1000650000'],
  'large numbers in a list': ['config: {proxy-uid: [1000650000, 7]}', 'proxy-uid', '1000650000,7'],
  'a boolean': ['config: {dual-stack: true}', 'dual-stack', 'true'],
};
for (const [what, [yaml, flag, expected]] of Object.entries(texts)) {
  test(`in a values file, ${what}`, async () => {
    const file = join(folder, 'texts.yaml');
    writeFileSync(file, yaml);
    const config = configOf(await render([], '--values', file));
    const [key] = optionList.find(([, option]) => option.flag === flag) ?? [];
    assert.equal(key === undefined ? undefined : config.redirect[key]?.text.trim(), expected.trim());
  });
}

test('what the gate is told of the cluster is what the controller is told', async () => {
  const read = ['proxy-uid', 'dual-stack', 'loopback-cidr', 'istio-service-cidr', 'unserved-families'];
  const file = join(folder, 'gate.yaml');
  const config = { 'proxy-uid': 1000650000, 'dual-stack': true, 'loopback-cidr': '127.0.0.0/8', 'drop-invalid': true };
  writeFileSync(file, JSON.stringify({ includeIPRanges: '10.0.0.0/8', unservedFamilies: 'capture', config }));
  for (const mode of ['policy', 'istio']) {
    const objects = await render([`injection.mode=${mode}`], '--values', file, '--kube-version', '1.36');
    const { redirect } = configOf(objects);
    const text = JSON.stringify(objects);
    for (const [key, { flag }] of optionList) {
      const given = read.includes(flag) ? redirect[key]?.text : undefined;
      assert.equal(text.includes(`--${flag}=`), given !== undefined, flag);
      if (given !== undefined) assert.ok(text.includes(`--${flag}=${given}`), flag);
    }
  }
});

test('values that users of other charts look for', async () => {
  const file = join(folder, 'others.yaml');
  const values = {
    imagePullSecrets: [{ name: 'registry.example.com' }],
    priorityClassName: 'node-critical.example.com',
    updateStrategy: { type: 'OnDelete' },
    terminationGracePeriodSeconds: 60,
    env: { NODE_OPTIONS: '--max-old-space-size=128', LIMIT: 1000650000 },
    labels: { team: 'mesh' },
    appArmorProfile: 'runtime/default',
    seccompProfile: { type: 'Localhost', localhostProfile: 'profiles/mesh.json' },
    seLinuxOptions: { type: 'spc_t' },
  };
  writeFileSync(file, JSON.stringify(values));
  const objects = await render([], '--values', file);
  const { spec, pod, container, template } = daemonSet(objects);
  assert.deepEqual(spec?.updateStrategy, values.updateStrategy);
  for (const key of ['imagePullSecrets', 'priorityClassName', 'terminationGracePeriodSeconds'] as const)
    assert.deepEqual(pod[key], values[key]);
  assert.deepEqual(container.env?.slice(-2), [
    { name: 'LIMIT', value: '1000650000' },
    { name: 'NODE_OPTIONS', value: values.env.NODE_OPTIONS },
  ]);
  for (const { kind, metadata } of objects) if (kind !== 'Pod') assert.equal(metadata.labels?.team, 'mesh', kind);
  assert.equal(template?.metadata?.labels?.team, 'mesh');
  const { appArmorProfile, seccompProfile } = pod.securityContext ?? {};
  assert.deepEqual([appArmorProfile, seccompProfile], [{ type: 'RuntimeDefault' }, values.seccompProfile]);
  assert.deepEqual(container.securityContext?.seLinuxOptions, { type: 'spc_t' });
  const scc = only(await render(['kubernetesDistribution=OpenShift'], '--values', file), 'SecurityContextConstraints');
  assert.deepEqual(scc.seccompProfiles, ['localhost/profiles/mesh.json']);
});

for (const [given, type, localhostProfile] of [
  ['RuntimeDefault', 'RuntimeDefault'],
  ['unconfined', 'Unconfined'],
  ['localhost/mesh', 'Localhost', 'mesh'],
  ['mesh', 'Localhost', 'mesh'],
] as const) {
  test(`appArmorProfile=${given}`, async () => {
    const { pod } = daemonSet(await render([`appArmorProfile=${given}`]));
    assert.deepEqual(pod.securityContext?.appArmorProfile, { type, ...(localhostProfile && { localhostProfile }) });
  });
}

test('no object of the schema takes names that it does not list', () => {
  const schema = JSON.parse(chartFile('values.schema.json')) as Record<string, unknown>;
  const open: string[] = [];
  const walk = (node: unknown, at: string): void => {
    if (typeof node !== 'object' || node === null) return;
    if ('properties' in node && (node as Record<string, unknown>).additionalProperties !== false) open.push(at);
    for (const [key, value] of Object.entries(node)) walk(value, `${at}/${key}`);
  };
  walk(schema, '');
  assert.deepEqual(open, []);
});

const refused: [set: string, says: RegExp][] = [
  ['bogus=1', /additional properties 'bogus' not allowed/],
  ['image.tga=v1', /'\/image': additional properties 'tga' not allowed/],
  ['kubernetesDistribution=openshift', /'\/kubernetesDistribution': value must be one of 'Kubernetes', 'OpenShift'/],
  ['containerRuntime=rkt', /'\/containerRuntime': value must be one of 'auto', 'containerd', 'crio', 'docker'/],
  [
    'runtimeEvents=ebpf',
    /'\/runtimeEvents': value must be one of 'auto', 'containerd', 'nri', 'cri', 'inotify', 'off'/,
  ],
  ['config.runtime-events=nri', /'\/config': additional properties 'runtime-events' not allowed/],
  ['injection.mode=webhook', /'\/injection\/mode': value must be one of 'auto', 'policy', 'istio', 'none'/],
  ['marks=changes', /'\/marks': value must be one of 'all', 'failures'/],
  ['injection.failurePolicy=Never', /'\/injection\/failurePolicy': value must be one of 'Fail', 'Ignore'/],
  ['fence.enabled=maybe', /'\/fence\/enabled': got string, want boolean/],
  ['enroll=all', /'\/enroll': value must be one of 'annotation', 'istio', 'both'/],
  ['image.tag=1', /'\/image\/tag': got number, want string/],
  ['image.digest=sha256:abc', /'\/image\/digest': 'sha256:abc' does not match/],
  ['Namespace=Istio_System', /'\/Namespace': 'Istio_System' does not match/],
  ['excludeInboundPorts=http', /'\/excludeInboundPorts': 'http' does not match/],
  ['excludeInboundPorts=70000', /'\/excludeInboundPorts': maximum: got 70,000, want 65,535/],
  ['includeIPRanges=10.0.0.1', /'\/includeIPRanges': '10.0.0.1' does not match/],
  ['config.istio-servce-cidr=*', /'\/config': additional properties 'istio-servce-cidr' not allowed/],
  ['config.node-name=a', /'\/config': additional properties 'node-name' not allowed/],
  ['criSocket=crio.sock', /'\/criSocket': 'crio.sock' does not match/],
  ['metrics.port=80', /'\/metrics\/port': minimum: got 80, want 1,024/],
  ['LogLevel=verbose', /'\/LogLevel': value must be one of 'fatal', 'error', 'warn', 'info'/],
  ['maxUnavailable=0', /'\/maxUnavailable': minimum: got 0, want 1/],
  ['excludeNamespaces=kube-system', /'\/excludeNamespaces': got string, want array/],
  ['tolerations[0].effect=Never', /'\/tolerations\/0\/effect': value must be one of/],
  ['bench.enable=true', /'\/bench': additional properties 'enable' not allowed/],
  ['bench.args=--quick', /'\/bench\/args': got string, want array/],
  ['bench.args={--seed,7}', /'\/bench\/args\/1': got number, want string/],
  ['bench.nodeName=node_1', /'\/bench\/nodeName': 'node_1' does not match/],
  ['bench.image.digest=abc', /'\/bench\/image\/digest': 'abc' does not match/],
  ['bench.image.repository=Bench', /'\/bench\/image\/repository'.*\n.*\n.*'Bench' does not match/],
  ['bench.hostUsers=maybe', /'\/bench\/hostUsers': got string, want boolean/],
  ['bench.tolerations[0].effect=Never', /'\/bench\/tolerations\/0\/effect': value must be one of/],
  ['bench.resources.limit.cpu=1', /'\/bench\/resources': additional properties 'limit' not allowed/],
  ['bench.activeDeadlineSeconds=0', /'\/bench\/activeDeadlineSeconds': minimum: got 0, want 1/],
  ['bench.ttlSecondsAfterFinished=1h', /'\/bench\/ttlSecondsAfterFinished': got string, want integer/],
  ['updateStrategy.rollingUpdate.maxSurge=1', /additional properties 'maxSurge' not allowed/],
  ['seccompProfile.type=runtime/default', /'\/seccompProfile\/type': value must be one of/],
  ['env.IPNC_ENROLL=istio', /env\.IPNC_ENROLL: the chart sets the controller's options itself/],
  ['labels.app\\.kubernetes\\.io/name=x', /labels\.app\.kubernetes\.io\/name: the chart sets this label itself/],
  ['imagePullSecrets[0].name=Registry', /'\/imagePullSecrets\/0\/name': 'Registry' does not match/],
  ['unservedFamilies=drop', /'\/unservedFamilies': value must be one of 'leave', 'capture', 'block'/],
  ['ingress.enabled=true', /'\/ingress\/enabled': value must be false/],
];
for (const [set, says] of refused) {
  test(`refused: ${set}`, async () => {
    assert.match(await refusal('--set', set), says);
  });
}

test('without image.repository helm fails, and says how to build an image', async () => {
  const said = await refusal('--set', 'image.repository=');
  assert.match(said, /image\.repository is empty/);
  assert.match(said, /docker build --tag REGISTRY\/istio-pod-network-controller:\d/);
  assert.match(said, /docs\/quick-start\.md/);
});

test('an option that is set twice is refused', async () => {
  const said = await refusal('--set', 'excludeInboundPorts=80,config.istio-local-exclude-ports=81');
  assert.match(
    said,
    /config\.istio-local-exclude-ports and excludeInboundPorts set the same option: remove one of them/,
  );
});

test('the network policy admits only scrapes, and restricts outgoing traffic if the port of the API server is given', async () => {
  const policy = async (...set: string[]) => only(await render(set), 'NetworkPolicy') as unknown as V1NetworkPolicy;
  assert.deepEqual((await policy()).spec?.ingress, [{ ports: [{ port: 'metrics' }] }]);
  assert.deepEqual((await policy()).spec?.policyTypes, ['Ingress']);
  const narrow = await policy(
    'networkPolicy.apiServerPorts={443,6443}',
    'networkPolicy.from[0].podSelector.matchLabels.a=b',
  );
  assert.deepEqual(narrow.spec?.egress, [{ ports: [{ port: 443 }, { port: 6443 }] }]);
  // The API's own names, where the type has those of TypeScript.
  const [rule] = (narrow.spec?.ingress ?? []) as { from?: unknown }[];
  assert.deepEqual(rule?.from, [{ podSelector: { matchLabels: { a: 'b' } } }]);
});

test('the pod of "helm test" asks for nothing, is not served by the Service, and is new whenever it differs', async () => {
  const objects = await render();
  const pod = only(objects, 'Pod') as unknown as V1Pod;
  const [container] = pod.spec?.containers ?? [];
  assert.deepEqual(container?.securityContext?.capabilities, { drop: ['ALL'] });
  assert.equal(container?.securityContext?.allowPrivilegeEscalation, false);
  assert.equal(pod.spec?.securityContext?.runAsNonRoot, true);
  const service = only(objects, 'Service') as { spec?: { selector: Record<string, string> } };
  const labels = pod.metadata?.labels ?? {};
  assert.ok(!Object.entries(service.spec?.selector ?? {}).every(([key, value]) => labels[key] === value));
  const other = only(await render(['image.tag=other']), 'Pod');
  assert.notEqual(other.metadata.name, pod.metadata?.name);
  // The namespace gives it a uid there.
  const openShift = only(await render(['kubernetesDistribution=OpenShift']), 'Pod') as unknown as V1Pod;
  assert.equal(openShift.spec?.securityContext?.runAsUser, undefined);
  assert.ok(!(await render(['Namespace=kube-system'])).some(({ kind }) => kind === 'Pod'));
});

/** The harness's Job, as rendered by itself. */
async function bench(...set: string[]) {
  const objects = await render(['bench.enabled=true', ...set], '--show-only', 'templates/bench.yaml');
  const job = only(objects, 'Job') as unknown as V1Job;
  const pod = job.spec?.template.spec;
  const [container, ...more] = pod?.containers ?? [];
  if (pod === undefined || container === undefined || more.length > 0) throw new Error('not one container');
  return { objects, job, template: job.spec?.template, pod, container };
}

test('each pod names the SecurityContextConstraints that it needs, on OpenShift alone', async () => {
  const required = async (...set: string[]) => {
    const objects = await render(['bench.enabled=true', ...set]);
    const annotations = (kind: string, name: RegExp) => {
      const found = objects.find(
        (each) => each.kind === kind && name.test(each.metadata.name),
      ) as unknown as V1DaemonSet;
      return (kind === 'Pod' ? found : found.spec?.template)?.metadata?.annotations ?? {};
    };
    return [annotations('DaemonSet', /controller$/), annotations('Pod', /-test-/), annotations('Job', /-bench/)].map(
      (each) => each['openshift.io/required-scc'],
    );
  };
  const own = 'istio-pod-network-controller';
  assert.deepEqual(await required('kubernetesDistribution=OpenShift'), [own, 'restricted-v2', `${own}-bench`]);
  assert.deepEqual(await required(), [undefined, undefined, undefined]);
});

test('bench: nothing of it unless it is asked for; on OpenShift constraints for its account alone', async () => {
  assert.ok(!(await render(['kubernetesDistribution=OpenShift'])).some(({ metadata }) => /bench/.test(metadata.name)));
  const kinds = async (...set: string[]) => (await bench(...set)).objects.map(({ kind }) => kind);
  assert.deepEqual(await kinds(), ['ServiceAccount', 'Job']);
  assert.deepEqual((await kinds('kubernetesDistribution=OpenShift')).sort(), [
    'Job',
    'SecurityContextConstraints',
    'ServiceAccount',
  ]);
});

test('bench: root with six capabilities of a user namespace, no token, nothing of the node', async () => {
  const { objects, job, pod } = await bench('kubernetesDistribution=OpenShift');
  const capabilities = ['SYS_ADMIN', 'NET_ADMIN', 'NET_RAW', 'SETUID', 'SETGID', 'KILL'];
  const scc = assertPrivileges(objects, pod, { capabilities, allowed: [] });
  assert.deepEqual(pod.securityContext, {
    seccompProfile: { type: 'RuntimeDefault' },
    appArmorProfile: { type: 'Unconfined' },
  });
  assert.equal(pod.hostUsers, false);
  assert.equal(pod.automountServiceAccountToken, false);
  assert.deepEqual(pod.volumes, [{ name: 'tmp', emptyDir: {} }]);
  assert.equal(job.spec?.backoffLimit, 0);
  assert.equal(pod.restartPolicy, 'Never');
  assert.deepEqual(scc.volumes, ['emptyDir']);
  assert.deepEqual(scc.users, [`system:serviceaccount:istio-system:${pod.serviceAccountName}`]);
  assert.equal((await bench('bench.hostUsers=true')).pod.hostUsers, true);
});

test('bench: an annotation sets the AppArmor profile if Kubernetes has no field for it', async () => {
  const flags = ['--kube-version', '1.29.0', '--show-only', 'templates/bench.yaml'];
  const { spec } = only(
    await render(['bench.enabled=true', 'fence.enabled=false'], ...flags),
    'Job',
  ) as unknown as V1Job;
  assert.equal(spec?.template.spec?.securityContext?.appArmorProfile, undefined);
  const annotations = spec?.template.metadata?.annotations ?? {};
  assert.equal(annotations['container.apparmor.security.beta.kubernetes.io/bench'], 'unconfined');
});

test("bench: no Service, policy or controller takes its pod for the controller's", async () => {
  const { template } = await bench();
  const labels = template?.metadata?.labels ?? {};
  assert.equal(labels['sidecar.istio.io/inject'], 'false');
  assert.equal(template?.metadata?.annotations?.['istio-pod-network-controller/initialize'], 'false');
  const objects = await render();
  const { spec: service } = only(objects, 'Service') as { spec?: { selector: Record<string, string> } };
  const { spec: policy } = only(objects, 'NetworkPolicy') as unknown as V1NetworkPolicy;
  for (const selector of [
    service?.selector,
    policy?.podSelector?.matchLabels,
    daemonSet(objects).spec?.selector.matchLabels,
  ]) {
    assert.ok(Object.entries(selector ?? {}).some(([key, value]) => labels[key] !== value));
  }
});

const images: [set: string[], image: string][] = [
  [[], 'istio-pod-network-controller:0.1.0-bench'],
  [['image.repository=registry.example/ipnc', 'image.tag=v1'], 'registry.example/ipnc:v1-bench'],
  [['image.tag=v1', 'bench.image.tag=v2'], 'istio-pod-network-controller:v2'],
  [[`image.digest=sha256:${'0'.repeat(64)}`], 'istio-pod-network-controller:0.1.0-bench'],
  [['bench.image.repository=other', `bench.image.digest=sha256:${'1'.repeat(64)}`], `other@sha256:${'1'.repeat(64)}`],
];
for (const [set, image] of images) {
  test(`bench: the image with ${set.join(' ') || 'no word of it'}`, async () => {
    assert.equal((await bench(...set)).container.image, image);
  });
}

test('bench: it goes to the chosen node, and its results to the log', async () => {
  const set = [
    'nodeName=worker-1.example',
    'nodeSelector.disk=ssd',
    'tolerations[0].operator=Exists',
    'args={--only,single}',
  ];
  const { job, pod, container } = await bench(...set.map((each) => `bench.${each}`), 'bench.activeDeadlineSeconds=60');
  assert.equal(pod.nodeName, 'worker-1.example');
  assert.deepEqual(pod.nodeSelector, { 'kubernetes.io/os': 'linux', disk: 'ssd' });
  assert.deepEqual(pod.tolerations, [{ operator: 'Exists' }]);
  assert.deepEqual(container.args, ['--output', '-', '--only', 'single']);
  assert.equal(job.spec?.activeDeadlineSeconds, 60);
  assert.equal(job.spec?.ttlSecondsAfterFinished, 86_400);
  assert.deepEqual((await bench()).container.args, ['--output', '-', '--quick']);
  // Of --set an empty list holds an empty word.
  const everything = await render(['bench.enabled=true'], '--set-json', 'bench.args=[]');
  const { spec } = only(everything, 'Job') as unknown as V1Job;
  assert.deepEqual(spec?.template.spec?.containers[0]?.args, ['--output', '-']);
});

test('bench: another configuration is another Job, for a Job cannot be changed', async () => {
  const name = async (...set: string[]) => (await bench(...set)).job.metadata?.name ?? '';
  const before = await name();
  assert.match(before, /^istio-pod-network-controller-bench-[0-9a-f]{8}$/);
  assert.equal(await name('LogLevel=debug'), before);
  for (const set of ['bench.nodeName=a', 'bench.args={--seed}', 'image.tag=v2', 'bench.resources.limits.memory=1Gi']) {
    assert.notEqual(await name(set), before, set);
  }
});

/** The values for istiod's chart. */
async function istiodValues(...set: string[]) {
  const objects = await render(['injection.mode=istio', ...set]);
  const { data } = objects.find(({ metadata }) => metadata.name.endsWith('-istiod')) as {
    data?: Record<string, string>;
  };
  const { pilot, sidecarInjectorWebhook } = parse(data?.['values.yaml'] ?? '') as {
    pilot: unknown;
    sidecarInjectorWebhook: { defaultTemplates: string[]; templates: Record<string, string> };
  };
  return { pilot, ...sidecarInjectorWebhook, template: sidecarInjectorWebhook.templates['pod-network-gate'] ?? '' };
}

test('istiod gets a template of its own for the gate, and asks for no network attachment', async () => {
  const { pilot, defaultTemplates, template } = await istiodValues('image.repository=r.example/ipnc', 'image.tag=v9');
  assert.deepEqual(pilot, { cni: { enabled: true, provider: 'default' } });
  assert.deepEqual(defaultTemplates, ['sidecar', 'pod-network-gate']);
  assert.match(template, /image: "r\.example\/ipnc-gate:v9"/);
  // Every placeholder of ours is replaced.
  assert.doesNotMatch(template, /@[A-Z]+@/);
});

for (const [set, sidecar] of [
  [['injection.wait=sidecar'], true],
  [['injection.wait=init'], false],
  // helm template sees no node.
  [['injection.wait=auto'], false],
] as const) {
  test(`${set}: the gate is ${sidecar ? '' : 'never '}in the sidecar`, async () => {
    assert.match((await istiodValues(...set)).template, new RegExp(`\\$sidecar := and ${sidecar} `));
  });
}

test("injection.startupProbe: Istio's startup probe stays beside the gate in the sidecar", async () => {
  const probe = async (...set: string[]) => {
    const { template } = await istiodValues('injection.wait=sidecar', ...set);
    const policy = await render(['injection.mode=policy', 'injection.wait=sidecar', ...set], '--kube-version', '1.36');
    const mutating = only(policy, 'MutatingAdmissionPolicy');
    return [/startupProbe: null/.test(template), JSON.stringify(mutating).includes("/startupProbe'")];
  };
  assert.deepEqual(await probe(), [true, true]);
  assert.deepEqual(await probe('injection.startupProbe=true'), [false, false]);
});

test('with other ways of injection istiod gets no values', async () => {
  for (const mode of MODES.filter((mode) => mode !== 'istio')) {
    const objects = await render([`injection.mode=${mode}`]);
    assert.ok(!objects.some(({ metadata }) => metadata.name.endsWith('-istiod')), mode);
  }
});

/** Names of metrics, those of histograms in full. */
async function metricNames(): Promise<Set<string>> {
  const metrics = createMetrics('0', {
    queue: () => ({ waiting: {}, running: 0, backingOff: 0, oldestMs: 0, longestRunMs: 0 }) as never,
    pods: () => ({ pending: 0, initialized: 0, failed: 0, skipped: 0 }),
    preempted: () => 0,
    threads: () => ({ busy: 0, stuck: 0, lost: 0 }),
    watches: () => [],
    events: () => ({}),
    runtimeEvents: () => ({ source: 'none', losses: 0, dropped: 0 }),
  });
  const text = await metrics.text();
  const names = [...text.matchAll(/^# TYPE (\S+) (\S+)/gm)].flatMap(([, name = '', type]) =>
    type === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name],
  );
  return new Set(names);
}

test('alerts, dashboard and docs name metrics that there are', async () => {
  const known = await metricNames();
  assert.ok(known.has('istio_pod_network_controller_init_duration_seconds_bucket'));
  for (const file of ['files/alerts.yaml', 'files/dashboard.json', '../../docs/operate.md']) {
    const named = chartFile(file).match(/\b(istio_pod_network_controller|process)_[a-z_]+/g) ?? [];
    assert.ok(named.length > 0, file);
    for (const name of named) {
      assert.ok(known.has(name) || known.has(`${name}_bucket`), `${file}: ${name}`);
    }
  }
  const documented = chartFile('../../docs/operate.md');
  for (const name of known) {
    if (!name.startsWith('istio_pod_network_controller_')) continue;
    assert.ok(documented.includes(`\`${name.replace(/_(bucket|sum|count)$/, '')}\``), `docs/operate.md: ${name}`);
  }
});

test('docs/troubleshooting.md deletes every binding of the injection policy, by its name', async () => {
  const objects = await render(['injection.mode=policy', 'fence.enabled=false'], '--kube-version', '1.36');
  const bindings = objects.filter(({ kind }) => kind.endsWith('Binding') && kind !== 'ClusterRoleBinding');
  const commands = chartFile('../../docs/troubleshooting.md').matchAll(/^kubectl delete (\w+binding) (\S+)$/gm);
  assert.ok(bindings.length > 0);
  assert.deepEqual(
    [...commands].map(([, kind, name]) => [kind, name]),
    bindings.map(({ kind, metadata }) => [kind.toLowerCase(), metadata.name]),
  );
});

test('each alert has its place in docs/operate.md, and its words left whole by helm', async () => {
  const { groups } = (only(await render([...MONITORS]), 'PrometheusRule') as { spec?: unknown }).spec as {
    groups: { rules: { alert: string; expr: string; annotations: Record<string, string> }[] }[];
  };
  const rules = groups.flatMap(({ rules }) => rules);
  const docs = chartFile('../../docs/operate.md');
  assert.ok(rules.length >= 8);
  for (const { alert, expr, annotations } of rules) {
    assert.ok(docs.includes(`| \`${alert}\` |`), alert);
    assert.ok(annotations.summary && annotations.description, alert);
    for (const [open, close] of ['()', '{}', '[]']) {
      assert.equal(expr.split(open ?? '').length, expr.split(close ?? '').length, `${alert}: ${expr}`);
    }
  }
  assert.match(JSON.stringify(rules), /\{\{ \$labels\.node \}\}/);
  assert.match(JSON.stringify(rules), /daemonset=\\"istio-pod-network-controller\\"/);
});

test('NOTES say how to go on, for each way of injection', async () => {
  const notes = async (...set: string[]) => {
    const flags = ['--dry-run=client', ...set.flatMap((each) => ['--set', each])];
    return (
      (await helm('install', 'mesh', CHART, ...IMAGE, '--namespace', 'istio-system', ...flags)).split('NOTES:')[1] ?? ''
    );
  };
  assert.match(await notes('injection.mode=policy'), /A MutatingAdmissionPolicy replaces/);
  assert.match(await notes('injection.mode=istio'), /helm upgrade istiod .*istiod-values.yaml/);
  const none = await notes('injection.mode=none');
  assert.match(none, /Pods with istio-init keep it, and need its privileges/);
  assert.doesNotMatch(none, /no longer need privileges/);
  const [policy, istio] = await Promise.all(['policy', 'istio'].map((mode) => notes(`injection.mode=${mode}`)));
  for (const told of [policy, istio])
    assert.match(told ?? '', /in an init container: helm template cannot see the nodes/);
  const sidecar = await notes('injection.mode=istio', 'injection.wait=sidecar');
  assert.match(sidecar, /in the container of their native sidecar: injection\.wait=sidecar\.\n +Nodes that join later/);
  assert.match(await notes('marks=failures'), /would wait forever\. Use marks=all/);
  assert.match(await notes('kubernetesDistribution=OpenShift', 'injection.mode=istio'), /nonroot-v2/);
  assert.match(await notes('Namespace=kube-system'), /"helm test" is not available/);
  assert.doesNotMatch(await notes('enroll=istio'), /initialize=true/);
  assert.doesNotMatch(await notes(), /bench/);
  const told = await notes('bench.enabled=true', 'bench.nodeName=worker-1');
  assert.match(told, /runs on worker-1\./);
  assert.ok(told.includes(`logs --follow job/${(await bench('bench.nodeName=worker-1')).job.metadata?.name}\n`), told);
});
