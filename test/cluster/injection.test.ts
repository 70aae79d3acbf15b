/** The policy that puts the gate into pods, alone and together with a webhook that injects as istiod does. */
import assert from 'node:assert/strict';
import type { ApiException, CoreV1Api, V1Container, V1Pod } from '@kubernetes/client-node';
import { GATE } from '../../chart/image/files.ts';
import { isGate } from '../../lib/istio/containers.ts';
import { decide } from '../../lib/istio/enrolment.ts';
import { optionList } from '../../lib/istio/options.ts';
import { plan } from '../../lib/istio/plan.ts';
import { podSources } from '../../lib/istio/pod-sources.ts';
import { podRedirect } from '../../lib/istio/redirect.ts';
import type { Source } from '../../lib/istio/sources.ts';
import type { ApiClient } from '../../lib/kube/client.ts';
import { toNamespaceRecord, toPodRecord } from '../../lib/kube/pods.ts';
import { native } from '../../lib/native/addon.ts';
import { familiesOf } from '../../lib/netns/families.ts';
import { formOf } from '../../lib/ruleset/form.ts';
import { suite } from '../suite.ts';
import { GateHome } from '../support/gate.ts';
import { kubeOf } from '../support/kubeconfig.ts';
import { Farm, INSTALL_NEEDS, inside } from '../support/netns.ts';
import { fixture } from '../support/pods.ts';
import { type CONSTRAINTS, refusals } from '../support/scc.ts';
import { type ControlPlane, coreApi, startControlPlane } from './control-plane.ts';
import { injection, istioContainers, startIstiod, volumesOf } from './istiod-webhook.ts';
import { until } from './pods.ts';
import { applyPolicy, RELEASE_NAMESPACE, renderPolicy } from './policies.ts';
import { programs } from './programs.ts';
import { output } from './sandbox/sandbox.ts';

const test = suite('cluster, injection policy');
test.needs('cluster', 'gate', 'setpriv', ...INSTALL_NEEDS);

const TEMPLATE = 'templates/injection-policy.yaml';
const INITIALIZE = 'istio-pod-network-controller/initialize';
const RESTRICTED = { 'pod-security.kubernetes.io/enforce': 'restricted' };
/** Namespaces that are told apart by what stands on them; each has a twin that the policy passes over. */
const NAMESPACES: Record<string, { labels?: Record<string, string>; annotations?: Record<string, string> }> = {
  shop: { labels: { ...injection('enabled'), ...RESTRICTED } },
  free: { labels: injection('enabled') },
  twice: { labels: { ...injection('twice'), ...RESTRICTED } },
  cni: { labels: injection('cni') },
  gateways: { labels: injection('gateway'), annotations: { [INITIALIZE]: 'true' } },
  none: { labels: injection('none') },
  bare: {},
  wanted: { annotations: { [INITIALIZE]: 'true' } },
  ranged: { annotations: { 'openshift.io/sa.scc.uid-range': '1000660000/10000' } },
  again: { labels: injection('twice') },
  unwanted: { labels: injection('enabled'), annotations: { [INITIALIZE]: 'false' } },
};
const twin = (namespace: string) => `${namespace}-passed-over`;
const PASSED_OVER = `excludeNamespaces={${['kube-system', ...Object.keys(NAMESPACES).map(twin)]}}`;
const OPENSHIFT = 'kubernetesDistribution=OpenShift';

let controlPlane: ControlPlane;
let admin: ApiClient;
let core: CoreV1Api;
let farm: Farm;
let home: GateHome;

test.before(async () => {
  farm = new Farm('policy');
  home = new GateHome();
  controlPlane = await startControlPlane({
    controllers: true,
    apiServerFlags: { 'runtime-config': 'admissionregistration.k8s.io/v1beta1=true' },
  });
  admin = kubeOf(controlPlane.kubeconfig);
  core = coreApi(controlPlane.kubeconfig);
  await startIstiod(controlPlane, admin);
  for (const [name, metadata] of Object.entries(NAMESPACES)) {
    for (const each of [name, twin(name)]) await createNamespace(each, metadata);
  }
  await createNamespace(RELEASE_NAMESPACE);
  await applyPolicy(controlPlane, TEMPLATE, PASSED_OVER, 'image.repository=example.com/ipnc', 'image.tag=test');
  const probe = () => create('bare', annotated({ [INITIALIZE]: 'true' }));
  await until('in force: the policy', probe, ({ spec }) => spec?.initContainers !== undefined);
});
test.after(async () => {
  home?.[Symbol.dispose]();
  await farm?.[Symbol.asyncDispose]();
  admin?.close();
  await controlPlane?.stop();
});

async function createNamespace(name: string, metadata: object = {}): Promise<void> {
  await admin.post('/api/v1/namespaces', { metadata: { name, ...metadata } });
  const made = () =>
    core.readNamespacedServiceAccount({ namespace: name, name: 'default' }).then(
      () => true,
      () => false,
    );
  await until(`made: the account of ${name}`, made, (is) => is);
}

/** As it would be stored. */
async function create(namespace: string, body: V1Pod): Promise<V1Pod> {
  // Without the client's classes, which assert.deepEqual() sees.
  return JSON.parse(JSON.stringify(await core.createNamespacedPod({ namespace, body, dryRun: 'All' }))) as V1Pod;
}

/** As `restricted` demands it. */
const app = (): V1Pod => ({
  metadata: { generateName: 'web-', labels: { app: 'web' } },
  spec: {
    automountServiceAccountToken: false,
    securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
    containers: [application('web')],
  },
});

function application(name: string): V1Container {
  const securityContext = { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] }, runAsUser: 1000 };
  return { name, image: 'example.com/web', securityContext };
}

type Change = (spec: NonNullable<V1Pod['spec']>, metadata: NonNullable<V1Pod['metadata']>) => unknown;

function changed(made: V1Pod, ...changes: Change[]): V1Pod {
  const body = structuredClone(made);
  for (const change of changes) change(body.spec ?? { containers: [] }, body.metadata ?? {});
  return body;
}

const annotated = (annotations: Record<string, string>, made = app()) =>
  changed(made, (_, metadata) => {
    metadata.annotations = { ...metadata.annotations, ...annotations };
  });

const labelled = (labels: Record<string, string>, made = app()) =>
  changed(made, (_, metadata) => {
    metadata.labels = { ...metadata.labels, ...labels };
  });

/** As istioctl kube-inject writes it into a Deployment. */
function injected({ native = true } = {}): V1Pod {
  const { init, proxy } = istioContainers(native);
  return changed(app(), (spec, metadata) => {
    metadata.annotations = { 'sidecar.istio.io/status': '{}' };
    spec.initContainers = native ? [init, proxy] : [init];
    if (!native) spec.containers.push(proxy);
    spec.volumes = volumesOf(proxy);
  });
}

const ofProxy = (change: (proxy: V1Container) => unknown, made: V1Pod) =>
  changed(made, ({ initContainers = [], containers }) => {
    for (const each of [...initContainers, ...containers]) if (each.name === 'istio-proxy') change(each);
  });

const ofInit = (change: (init: V1Container) => unknown, made: V1Pod) =>
  changed(made, ({ initContainers = [] }) => {
    for (const each of initContainers) if (each.name === 'istio-init') change(each);
  });

const names = ({ spec }: V1Pod) => (spec?.initContainers ?? []).map(({ name }) => name);

function container(name: string, { spec }: V1Pod): V1Container {
  const found = [...(spec?.initContainers ?? []), ...(spec?.containers ?? [])].filter((each) => each.name === name);
  assert.equal(found.length, 1, `one ${name}`);
  return found[0] ?? application(name);
}

const gateOf = (made: V1Pod) => container('pod-network-gate', made);

const idsOf = (made: V1Pod) => {
  const { runAsUser, runAsGroup } = gateOf(made).securityContext ?? {};
  return [runAsUser, runAsGroup];
};

/** Whether the controller would serve it. */
async function isEnrolled(namespace: string, made: V1Pod): Promise<boolean> {
  const place = toNamespaceRecord(await core.readNamespace({ name: namespace }));
  const excludeNamespaces = ['kube-system', ...Object.keys(NAMESPACES).map(twin)];
  return decide(toPodRecord(made), place, { enroll: 'both', excludeNamespaces, self: {} }).enroll === true;
}

/** What the policy made of it: the controller serves it, and nothing changes when it is created once more. */
async function gated(namespace: string, body: V1Pod): Promise<V1Pod> {
  const made = await create(namespace, body);
  assert.ok(await isEnrolled(namespace, made), 'enrolled');
  assert.ok(!names(made).includes('istio-init'));
  assert.equal((made.spec?.volumes ?? []).filter(({ name }) => name === 'pod-network-gate').length, 1);
  const { uid: _, resourceVersion: __, managedFields: ___, name: ____, ...metadata } = made.metadata ?? {};
  // Where no webhook is asked. An early gate takes its user from the range of its namespace.
  const place = namespace === 'ranged' ? 'ranged' : 'bare';
  const stored = { metadata: { ...metadata, namespace: place }, spec: made.spec } as V1Pod;
  const again = await create(place, annotated({ [INITIALIZE]: 'true' }, stored));
  assert.deepEqual(again.spec, made.spec, 'idempotent');
  return made;
}

/** As a pod of a dual-stack cluster has them. */
const ADDRESSES = `
ip link add eth0 type veth peer name peer0
ip address add 10.244.1.2/24 dev eth0
ip address add fd00:10:244:1::2/64 dev eth0 nodad
ip link set eth0 up`;

/** Installs the rules that the controller would install, then runs the pod's gate as the pod would. Its last line. */
async function gateSays(made: V1Pod, defaults: Record<string, string> = {}): Promise<string> {
  const source: Source = {};
  for (const [key, { flag }] of optionList) {
    const text = defaults[flag];
    if (text !== undefined) source[key] = { text, field: flag, source: 'default' };
  }
  const redirect = podRedirect(toPodRecord(made), { redirect: source, defaultInboundPorts: '*' });
  const netns = await farm.add();
  try {
    await inside(netns, ['sh', '-ec', ADDRESSES]);
    const identity = await native().identify(netns);
    const ruleset = plan(redirect.spec, familiesOf(identity, redirect));
    const compiled = await native().compile(formOf(ruleset, 'iptables-legacy', { counters: false }));
    await compiled.apply(identity);
    const { command = [], args = [], env = [], securityContext } = gateOf(made);
    const words = [...command.slice(1), ...args];
    const environment = Object.fromEntries(env.map(({ name, value = '' }) => [name, value]));
    const { runAsUser: uid = 0, runAsGroup: gid = 0 } = securityContext ?? {};
    const ended = await home.start(netns, words, { uid, gid, environment: { ...environment, IPNC_TIMEOUT: '5s' } })
      .ended;
    return ended.line.replace(/^open after \S+ \S+: /, '').replace(/; .*/, '');
  } finally {
    await farm.del(netns);
  }
}

/** The policy leaves it as it would be without it. */
async function untouched(namespace: string, body: V1Pod, { enrolled = false } = {}): Promise<void> {
  const made = await create(namespace, body);
  assert.deepEqual(made.spec, (await create(twin(namespace), body)).spec);
  assert.equal(await isEnrolled(namespace, made), enrolled);
}

const refused = (reason: RegExp) => (error: ApiException<unknown>) => {
  assert.equal(error.code, 403);
  // It has the answer as a string in a string.
  assert.match(error.message.replaceAll('\\', ''), reason);
  return true;
};

test('what istiod injects is replaced, and all of it that is not privileged stays', async () => {
  const { init, proxy } = istioContainers(true);
  const made = await gated('shop', app());
  assert.deepEqual(names(made), ['pod-network-gate', 'istio-proxy']);
  assert.deepEqual(gateOf(made), {
    name: 'pod-network-gate',
    image: 'example.com/ipnc-gate:test',
    imagePullPolicy: 'IfNotPresent',
    command: [GATE],
    args: init.args,
    resources: init.resources,
    securityContext: {
      runAsUser: 1337,
      runAsGroup: 1337,
      runAsNonRoot: true,
      privileged: false,
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
      seccompProfile: { type: 'RuntimeDefault' },
    },
    terminationMessagePath: '/dev/termination-log',
    terminationMessagePolicy: 'File',
    volumeMounts: [{ name: 'pod-network-gate', mountPath: '/etc/podinfo', readOnly: true }],
  });
  assert.deepEqual(container('istio-proxy', made).securityContext, proxy.securityContext);
  const fieldRef = { apiVersion: 'v1', fieldPath: 'metadata.annotations' };
  assert.deepEqual(made.spec?.volumes?.find(({ name }) => name === 'pod-network-gate')?.downwardAPI?.items, [
    { path: 'pod_annotations', fieldRef },
  ]);
  assert.ok(isGate(gateOf(made)));
});

test('without the policy Pod Security refuses that pod', async () => {
  await assert.rejects(create(twin('shop'), app()), refused(/violates PodSecurity .*NET_ADMIN/));
});

test('the controller reads the same configuration from the gate as from istio-init', async () => {
  const body = ofInit(({ args }) => args?.push('-o', '5432', '--redirect-dns'), injected());
  const made = await gated('bare', body);
  const texts = (pod: V1Pod) =>
    Object.fromEntries(
      podSources(toPodRecord(pod), {})
        .flatMap((source) => Object.entries(source))
        .map(([key, { text }]) => [key, text])
        .reverse(),
    );
  assert.deepEqual(texts(made), texts(await create(twin('bare'), body)));
});

test('an ordinary istio-proxy', async () => {
  const made = await gated('shop', annotated({ 'sidecar.istio.io/nativeSidecar': 'false' }));
  assert.deepEqual(names(made), ['pod-network-gate']);
  assert.deepEqual(
    made.spec?.containers.map(({ name }) => name),
    ['web', 'istio-proxy'],
  );
});

test("the application's own init containers are behind the gate of a native sidecar, and before that of an ordinary one", async () => {
  const inits = ['migrate', 'warm-up'].map(application);
  const body = changed(app(), (spec) => Object.assign(spec, { initContainers: inits }));
  assert.deepEqual(names(await gated('shop', body)), ['pod-network-gate', 'istio-proxy', 'migrate', 'warm-up']);
  // istio-init is the last init container there. A gate that an annotation has added first goes away.
  for (const annotations of [{}, BY_ANNOTATION]) {
    const ordinary = annotated({ ...annotations, 'sidecar.istio.io/nativeSidecar': 'false' }, body);
    assert.deepEqual(names(await gated('shop', ordinary)), ['migrate', 'warm-up', 'pod-network-gate']);
  }
});

test('of a pod with traffic annotations the gate has the arguments that istiod makes of them', async () => {
  const said = traffic({ includeInboundPorts: '8080', excludeInboundPorts: '9000', excludeOutboundPorts: '5432' });
  for (const annotations of [said, { ...said, ...BY_ANNOTATION }]) {
    const { args = [] } = gateOf(await gated('shop', annotated(annotations)));
    assert.deepEqual(
      ['-b', '-d', '-o'].map((flag) => args[args.indexOf(flag) + 1]),
      ['8080', '15090,15021,9000,15020', '5432'],
    );
    assert.equal(args.filter((word) => word === '-b').length, 1);
  }
});

test('injected by hand, where no webhook is', async () => {
  assert.deepEqual(names(await gated('bare', injected())), ['pod-network-gate', 'istio-proxy']);
  assert.deepEqual(names(await gated('bare', injected({ native: false }))), ['pod-network-gate']);
  const wrapped = ofProxy((proxy) => Object.assign(proxy, { args: ['--wrapped'] }), injected());
  assert.deepEqual(names(await gated('bare', wrapped)), ['pod-network-gate', 'istio-proxy']);
});

test('the environment, the resources and the mounts of istio-init stay', async () => {
  const env = [{ name: 'ISTIO_META_DNS_CAPTURE', value: 'true' }];
  const resources = { limits: { cpu: '200m' }, requests: { cpu: '100m' } };
  const volumeMounts = [{ name: 'istio-data', mountPath: '/data' }];
  const made = await gated(
    'bare',
    ofInit((init) => Object.assign(init, { env, resources, volumeMounts }), injected()),
  );
  assert.deepEqual([gateOf(made).env, gateOf(made).resources], [env, resources]);
  assert.deepEqual(
    gateOf(made).volumeMounts?.map(({ mountPath }) => mountPath),
    ['/data', '/etc/podinfo'],
  );
});

test('a command of istio-init goes before its arguments', async () => {
  const body = ofInit(
    (init) => Object.assign(init, { command: ['/usr/local/bin/istio-iptables', '-m', 'REDIRECT'], args: ['-u', '7'] }),
    injected(),
  );
  const made = await gated('bare', body);
  assert.deepEqual(gateOf(made).command, [GATE]);
  assert.deepEqual(gateOf(made).args, ['/usr/local/bin/istio-iptables', '-m', 'REDIRECT', '-u', '7']);
  assert.deepEqual(idsOf(made), [7, 1337]);
});

test("the proxy's user and group, as OpenShift gives them, and as an annotation says", async () => {
  const range = ofProxy(
    (proxy) => Object.assign(proxy.securityContext ?? {}, { runAsUser: 1000670001, runAsGroup: 1000670002 }),
    ofInit(
      (init) => Object.assign(init, { args: init.args?.map((word) => (word === '1337' ? '1000670001' : word)) ?? [] }),
      injected(),
    ),
  );
  assert.deepEqual(idsOf(await gated('bare', range)), [1000670001, 1000670002]);
  const unsaid = ofInit((init) => Object.assign(init, { args: ['istio-iptables', '-m', 'REDIRECT'] }), range);
  assert.deepEqual(idsOf(await gated('bare', unsaid)), [1000670001, 1000670002]);
  const list = ofInit((init) => Object.assign(init, { args: ['istio-iptables', '-u', '7,8', '-g', '9'] }), range);
  assert.deepEqual(idsOf(await gated('bare', list)), [7, 9]);
  const domain = 'pod-network-controller.istio.io';
  const own = annotated({ [`${domain}/envoy-userid`]: '2102', [`${domain}/envoy-groupid`]: '2103' }, range);
  assert.deepEqual(idsOf(await gated('bare', own)), [2102, 2103]);
});

const BY_ANNOTATION = { [INITIALIZE]: 'true' };
/** A pod that istiod has injected in a way that leaves no init container of its own. */
const withoutInit = (made: V1Pod) =>
  changed(made, (spec) => Object.assign(spec, { initContainers: spec.initContainers?.slice(1) ?? [] }));
const servesBoth = (made: V1Pod) =>
  ofProxy((proxy) => proxy.env?.push({ name: 'ISTIO_DUAL_STACK', value: 'true' }), made);
const asUser = (id: number, made: V1Pod) =>
  ofProxy((proxy) => Object.assign(proxy.securityContext ?? {}, { runAsUser: id, runAsGroup: id }), made);
const traffic = (values: Record<string, string>) =>
  Object.fromEntries(Object.entries(values).map(([key, value]) => [`traffic.sidecar.istio.io/${key}`, value]));

const FOUR = 'IPv4 is redirected to 15006';
const BOTH = 'IPv4 and IPv6 are redirected to 15006';
const RUN: [what: string, body: () => V1Pod, says: string][] = [
  ['one that is added', () => annotated(BY_ANNOTATION), FOUR],
  [
    'one that is added for a proxy of another user',
    () => annotated(BY_ANNOTATION, asUser(2102, withoutInit(injected()))),
    FOUR,
  ],
  [
    'one that is added, with a captured loopback range and excluded ports',
    () => {
      const ranges = traffic({ includeOutboundIPRanges: '127.0.0.0/8,10.0.0.0/8', excludeOutboundPorts: '80, 443\n' });
      return annotated({ ...BY_ANNOTATION, ...ranges }, withoutInit(injected()));
    },
    FOUR,
  ],
  ['one that replaces istio-init', injected, FOUR],
  [
    'one that replaces istio-init, of several users',
    () => ofInit((init) => Object.assign(init, { args: ['istio-iptables', '-u', '64535,1337'] }), injected()),
    FOUR,
  ],
  [
    "one that replaces an istio-init that says no user, where the proxy's is another one",
    () =>
      asUser(
        3001,
        ofInit((init) => Object.assign(init, { args: ['istio-iptables', '-m', 'REDIRECT'] }), injected()),
      ),
    FOUR,
  ],
  [
    "one that replaces istio-init, with this project's annotation of a user",
    () => annotated({ 'pod-network-controller.istio.io/envoy-userid': '2102' }, injected()),
    FOUR,
  ],
  ['of a proxy that serves both families', () => servesBoth(injected()), BOTH],
  ['one that is added for such a proxy', () => annotated(BY_ANNOTATION, servesBoth(withoutInit(injected()))), BOTH],
  [
    'where istio-init says something else about families',
    () => {
      const env = [{ name: 'ISTIO_DUAL_STACK', value: 'false' }];
      return servesBoth(ofInit((init) => Object.assign(init, { env }), injected()));
    },
    FOUR,
  ],
];
for (const [what, body, says] of RUN) {
  test(`the gate opens with the rules of the controller: ${what}`, async () => {
    assert.equal(await gateSays(await gated('bare', body())), says);
  });
}

test("the pod's user and group where the proxy has none, and not where there is no proxy", async () => {
  const ofPod = (made: V1Pod) =>
    changed(made, (spec) => Object.assign(spec.securityContext ?? {}, { runAsUser: 3001, runAsGroup: 3002 }));
  const body = ofInit(
    (init) => Object.assign(init, { args: ['istio-iptables'] }),
    ofProxy((proxy) => Object.assign(proxy, { securityContext: {} }), injected()),
  );
  assert.deepEqual(idsOf(await gated('bare', ofPod(body))), [3001, 3002]);
  assert.deepEqual(idsOf(await gated('bare', ofPod(annotated({ [INITIALIZE]: 'true' })))), [1337, 1337]);
});

/** OpenShift sets what the application leaves open. */
const onOpenShift = (made: V1Pod) =>
  changed(made, (spec) => {
    delete spec.securityContext;
    for (const { name, securityContext } of spec.containers) if (name === 'web') delete securityContext?.runAsUser;
  });

const RANGE = { 'openshift.io/sa.scc.uid-range': '1000660000/10000' };
/** What Istio gives its proxy in a namespace with that range. */
const LAST = 1000669999;
const ofUid = (uid: number) =>
  onOpenShift(
    ofProxy(
      (proxy) => Object.assign(proxy.securityContext ?? {}, { runAsUser: uid, runAsGroup: uid }),
      ofInit(
        (init) => Object.assign(init, { args: init.args?.map((word) => (word === '1337' ? `${uid}` : word)) ?? [] }),
        injected(),
      ),
    ),
  );
const userNamespace = (made: V1Pod) => changed(made, (spec) => Object.assign(spec, { hostUsers: false }));
const early = () => onOpenShift(annotated({ [INITIALIZE]: 'true' }));

/** `refused`: by the constraints, and why; absent if they admit the pod with its gate. */
const constraints: {
  by: keyof typeof CONSTRAINTS;
  what: string;
  body: () => V1Pod;
  namespace?: string;
  annotations?: Record<string, string>;
  refused?: RegExp;
}[] = [
  { by: 'restricted-v2', what: 'the last uid of the range', body: () => ofUid(LAST), annotations: RANGE },
  {
    by: 'restricted-v2',
    what: 'the last uid of the range, written as both ends',
    body: () => ofUid(LAST),
    annotations: { 'openshift.io/sa.scc.uid-range': '1000660000-1000669999' },
  },
  {
    by: 'restricted-v2',
    what: 'one more than the last uid',
    body: () => ofUid(LAST + 1),
    annotations: RANGE,
    refused: /^pod-network-gate: user 1000670000 is not from 1000660000 to 1000669999/,
  },
  {
    by: 'restricted-v2',
    what: 'a namespace without a range',
    body: () => ofUid(LAST),
    refused: /^the namespace has no/,
  },
  { by: 'nonroot-v2', what: 'uid 1337', body: () => ofUid(1337), annotations: RANGE },
  { by: 'nonroot-v2', what: 'uid 1337 in a namespace without a range', body: () => ofUid(1337) },
  { by: 'restricted-v3', what: 'uid 1337 in a user namespace', body: () => userNamespace(ofUid(1337)) },
  {
    by: 'restricted-v3',
    what: 'uid 1337 without a user namespace',
    body: () => ofUid(1337),
    refused: /^the pod has no user namespace/,
  },
  {
    by: 'restricted-v3',
    what: 'a uid of the range',
    body: () => userNamespace(ofUid(LAST)),
    annotations: RANGE,
    refused: /^pod-network-gate: user 1000669999 is not from 1000 to 65534/,
  },
  { by: 'nonroot-v2', what: "an early gate by the pod's annotation", body: early, annotations: RANGE },
  {
    by: 'restricted-v2',
    what: "a gate added before a proxy, by the namespace's annotation",
    body: () =>
      changed(ofUid(LAST), (spec) => Object.assign(spec, { initContainers: spec.initContainers?.slice(1) ?? [] })),
    namespace: 'wanted',
    annotations: RANGE,
  },
  {
    by: 'restricted-v2',
    what: "an early gate by the pod's annotation, in a namespace with a range",
    body: early,
    namespace: 'ranged',
    annotations: RANGE,
  },
  { by: 'anyuid', what: 'uid 1337', body: () => ofUid(1337) },
  { by: 'anyuid', what: "an early gate by the pod's annotation", body: early },
];
test('for OpenShift the policy is in force', async () => {
  // helm asks this API server for SecurityContextConstraints, which it does not have, unless a version is given.
  const values = [
    'injection.wait=init',
    'image.repository=example.com/openshift',
    'image.tag=test',
    OPENSHIFT,
    PASSED_OVER,
  ];
  const input = await renderPolicy(TEMPLATE, values, ['--kube-version', '1.36']);
  const kubectl = (await programs(['kubectl'])).path('kubectl');
  const apply = ['apply', '--server-side', '--force-conflicts', '--filename', '-'];
  await output([kubectl, '--kubeconfig', controlPlane.kubeconfig, ...apply], { input });
  await inForce('openshift');
});
for (const { by, what, body, namespace = 'bare', annotations = {}, refused } of constraints) {
  test(`OpenShift's ${by} ${refused ? 'refuses' : 'admits'} a pod with its gate: ${what}`, async () => {
    const made = await gated(namespace, body());
    // The API server mounts the account's token later than the constraints are asked.
    const found = refusals(by, made, annotations);
    if (refused === undefined) assert.deepEqual(found, []);
    else assert.match(found.join('; '), refused);
  });
}

test('on OpenShift an early gate opens, and has the seccomp profile that the application has', async () => {
  const made = await gated('ranged', early());
  assert.deepEqual(idsOf(made), [LAST, 1337]);
  assert.equal(await gateSays(made), FOUR);
  assert.equal(gateOf(made).securityContext?.seccompProfile, undefined);
  const seccompProfile = { type: 'RuntimeDefault' };
  const profiled = changed(early(), ({ containers: [web] }) =>
    Object.assign(web?.securityContext ?? {}, { seccompProfile }),
  );
  assert.deepEqual(gateOf(await gated('ranged', profiled)).securityContext?.seccompProfile, seccompProfile);
});

test('for Kubernetes the policy is in force again', () => applyAnew('ipnc', PASSED_OVER));

const capabilities = (...add: string[]) => ({ capabilities: { drop: ['ALL'], add } });

test('NET_ADMIN and NET_RAW are taken from the proxy, and nothing else', async () => {
  for (const native of [true, false]) {
    const body = ofProxy(
      (proxy) => Object.assign(proxy.securityContext ?? {}, capabilities('NET_ADMIN', 'NET_BIND_SERVICE', 'NET_RAW')),
      injected({ native }),
    );
    const { securityContext } = container('istio-proxy', await gated('bare', body));
    assert.deepEqual(securityContext?.capabilities, { drop: ['ALL'], add: ['NET_BIND_SERVICE'] });
  }
});

test('with TPROXY the proxy keeps its capabilities, and the gate is still unprivileged', async () => {
  const root = { runAsUser: 0, runAsGroup: 1337, runAsNonRoot: false, ...capabilities('NET_ADMIN') };
  const body = ofProxy(
    (proxy) => Object.assign(proxy.securityContext ?? {}, root),
    ofInit(
      (init) => Object.assign(init, { args: init.args?.map((word) => (word === 'REDIRECT' ? 'TPROXY' : word)) ?? [] }),
      injected(),
    ),
  );
  const made = await gated('bare', body);
  assert.deepEqual(container('istio-proxy', made).securityContext?.capabilities?.add, ['NET_ADMIN']);
  assert.deepEqual(idsOf(made), [1337, 1337]);
  assert.equal(gateOf(made).securityContext?.capabilities?.add, undefined);
});

test("a proxy that runs as root does not name the proxy's uid", async () => {
  const body = ofInit(
    (init) => Object.assign(init, { args: ['istio-iptables'] }),
    ofProxy((proxy) => Object.assign(proxy.securityContext ?? {}, { runAsUser: 0, runAsGroup: 0 }), injected()),
  );
  const asRoot = ofProxy((proxy) => Object.assign(proxy.securityContext ?? {}, { runAsNonRoot: false }), body);
  assert.deepEqual(idsOf(await gated('bare', asRoot)), [1337, 1337]);
});

test('TPROXY is known from the annotation and from the environment too', async () => {
  const silent = ofInit(
    (init) => Object.assign(init, { args: ['istio-iptables', '-u', '1337'] }),
    ofProxy((proxy) => Object.assign(proxy.securityContext ?? {}, capabilities('NET_ADMIN')), injected()),
  );
  const env = [{ name: 'ISTIO_META_INTERCEPTION_MODE', value: 'TPROXY' }];
  const told = [
    annotated({ 'sidecar.istio.io/interceptionMode': 'TPROXY' }, silent),
    ofProxy((proxy) => Object.assign(proxy, { env }), silent),
  ];
  for (const body of told) {
    const { securityContext } = container('istio-proxy', await gated('bare', body));
    assert.deepEqual(securityContext?.capabilities?.add, ['NET_ADMIN']);
  }
});

test('enrolled by its own annotation, a pod without Istio has the gate before all others', async () => {
  const resources = { limits: { cpu: '1', memory: '1Gi', 'example.com/gpu': '1' }, requests: { cpu: '500m' } };
  const body = changed(annotated({ [INITIALIZE]: 'true' }), (spec) => {
    spec.containers = [{ ...application('web'), resources }];
    spec.initContainers = [application('migrate')];
  });
  const made = await gated('bare', body);
  assert.deepEqual(names(made), ['pod-network-gate', 'migrate']);
  const { args, command } = gateOf(made);
  assert.deepEqual([command, args], [[GATE], ['--expect=auto', 'istio-iptables', '-u', '1337']]);
  assert.deepEqual(gateOf(made).resources, {
    limits: { cpu: '1', memory: '1Gi' },
    requests: { cpu: '500m', memory: '1Gi' },
  });
  assert.deepEqual(idsOf(made), [1337, 1337]);
});

test('it gets the known mode and port', async () => {
  const known = {
    'sidecar.istio.io/interceptionMode': 'TPROXY',
    'pod-network-controller.istio.io/envoy-port': '15011',
  };
  const made = await gated('bare', annotated({ [INITIALIZE]: 'true', ...known }));
  assert.deepEqual(gateOf(made).args, ['--expect=auto', 'istio-iptables', '-m', 'TPROXY', '-u', '1337', '-p', '15011']);
});

test('its quality of service stays what it was', async () => {
  const wanted = annotated({ [INITIALIZE]: 'true' });
  assert.equal((await gated('bare', wanted)).status?.qosClass, 'BestEffort');
  const limits = { cpu: '100m', memory: '64Mi' };
  const containers = [{ ...application('web'), resources: { limits } }];
  const guaranteed = changed(wanted, (spec) => Object.assign(spec, { containers }));
  assert.equal((await gated('bare', guaranteed)).status?.qosClass, 'Guaranteed');
});

test('annotated and injected by the webhook afterwards, it has one gate, and that with the arguments of the mesh', async () => {
  const made = await gated('shop', annotated({ [INITIALIZE]: 'true' }));
  assert.deepEqual(names(made), ['pod-network-gate', 'istio-proxy']);
  assert.deepEqual(gateOf(made).args, istioContainers(true).init.args);
});

test('the gate is taken back where the webhook then says that Istio waits itself, or that nothing is captured', async () => {
  const names = { cni: ['istio-validation', 'istio-proxy'], none: ['istio-proxy'] };
  for (const [namespace, inits] of Object.entries(names)) {
    const made = await create(namespace, annotated({ [INITIALIZE]: 'true' }));
    assert.deepEqual(
      made.spec?.initContainers?.map(({ name }) => name),
      inits,
    );
    assert.deepEqual(made.spec, (await create(twin(namespace), annotated({ [INITIALIZE]: 'true' }))).spec);
  }
});

test('the gate is taken back from a gateway, of which only the webhook says that it is one', async () => {
  // As the gateway chart has it: istiod writes image and arguments.
  const containers = [{ ...application('istio-proxy'), image: 'auto' }];
  const body = changed(app(), (spec) => Object.assign(spec, { containers }));
  const made = await create('gateways', body);
  assert.deepEqual(made.spec, (await create(twin('gateways'), body)).spec);
  assert.deepEqual(container('istio-proxy', made).args?.slice(0, 2), ['proxy', 'router']);
});

test('a gate that was added early is made anew for the proxy that the webhook adds', async () => {
  const { metadata, spec } = await gated('bare', annotated(BY_ANNOTATION));
  const later = asUser(2102, withoutInit(injected()));
  const both = {
    metadata: { generateName: 'web-', annotations: metadata?.annotations ?? {} },
    spec: {
      ...spec,
      initContainers: [...(spec?.initContainers ?? []), ...(later.spec?.initContainers ?? [])],
      volumes: [...(spec?.volumes ?? []), ...(later.spec?.volumes ?? [])],
    },
  };
  const made = await gated('bare', both as V1Pod);
  assert.deepEqual(idsOf(made), [2102, 2102]);
  assert.equal(await gateSays(made), FOUR);
});

test("an application's container with a name of Istio's keeps no gate away", async () => {
  const inits = [application('istio-validation')];
  const body = changed(annotated(BY_ANNOTATION), (spec) => Object.assign(spec, { initContainers: inits }));
  assert.deepEqual(names(await gated('bare', body)), ['pod-network-gate', 'istio-validation']);
});

test('a pod takes the gate off the word of its namespace only with a proxy', async () => {
  const withProxy = ofInit((init) => Object.assign(init, { name: 'gone' }), injected());
  const proxied = changed(withProxy, (spec) =>
    Object.assign(spec, { initContainers: spec.initContainers?.slice(1) ?? [] }),
  );
  assert.deepEqual(names(await gated('wanted', proxied)), ['pod-network-gate', 'istio-proxy']);
  await untouched('wanted', app());
});

test('the word of the pod goes before that of its namespace', async () => {
  await gated('unwanted', annotated({ [INITIALIZE]: 'true' }));
  await untouched('unwanted', app());
  await untouched('wanted', annotated({ [INITIALIZE]: 'false' }, injected()));
});

test('pods of a Deployment and of a Job', async () => {
  const { metadata, spec } = changed(app(), (spec) => Object.assign(spec, { restartPolicy: 'Always' }));
  const template = { metadata: { labels: metadata?.labels }, spec };
  const selector = { matchLabels: metadata?.labels };
  const pods = async () => (await core.listNamespacedPod({ namespace: 'shop' })).items;
  await admin.post('/apis/apps/v1/namespaces/shop/deployments', {
    metadata: { name: 'web' },
    spec: { selector, template },
  });
  await admin.post('/apis/batch/v1/namespaces/shop/jobs', {
    metadata: { name: 'job' },
    spec: { template: { ...template, spec: { ...spec, restartPolicy: 'Never' } } },
  });
  const made = await until('made: two pods', pods, (items) => items.length === 2);
  assert.deepEqual(made.map(({ metadata }) => metadata?.ownerReferences?.[0]?.kind).sort(), ['Job', 'ReplicaSet']);
  for (const each of made) assert.deepEqual(names(each), ['pod-network-gate', 'istio-proxy']);
});

const ALONE: [what: string, namespace: string, body: V1Pod, enrolled?: boolean][] = [
  ['a pod of nobody', 'bare', app()],
  [
    "a pod of the host's network",
    'bare',
    changed(annotated({ [INITIALIZE]: 'true' }, injected()), (spec) => Object.assign(spec, { hostNetwork: true })),
  ],
  ['one that is kept out', 'free', annotated({ [INITIALIZE]: 'false' })],
  ['one with a word that is none', 'free', annotated({ [INITIALIZE]: 'yes' })],
  ['a gateway', 'bare', ofProxy((proxy) => Object.assign(proxy, { args: ['proxy', 'router'] }), injected())],
  [
    'one whose proxy is off',
    'bare',
    ofProxy((proxy) => proxy.env?.push({ name: 'DISABLE_ENVOY', value: 'true' }), injected()),
  ],
  ['one labelled not to be injected', 'bare', labelled({ 'sidecar.istio.io/inject': 'false' }, injected())],
  ['one annotated not to be injected', 'bare', annotated({ 'sidecar.istio.io/inject': 'false' }, injected())],
  [
    'istio-init without a proxy',
    'bare',
    changed(injected(), (spec) => Object.assign(spec, { initContainers: spec.initContainers?.slice(0, 1) ?? [] })),
  ],
  [
    'one that Istio did not inject',
    'bare',
    changed(injected(), (_, metadata) => Object.assign(metadata, { annotations: {} })),
  ],
  ["somebody else's istio-init", 'bare', ofInit((init) => Object.assign(init, { args: ['sh'] }), injected())],
  ['a deployer of OpenShift', 'bare', labelled({ 'openshift.io/deployer-pod-for.name': 'x' }, injected())],
  ['a build of OpenShift', 'bare', annotated({ 'openshift.io/build.name': 'x', [INITIALIZE]: 'true' }, injected())],
  ["Istio's CNI mode", 'bare', without(fixture('native-cni') as V1Pod), true],
  ['mode NONE', 'bare', annotated({ [INITIALIZE]: 'true', 'sidecar.istio.io/interceptionMode': 'NONE' }), true],
  ['the gate, known by its program', 'bare', renamedGate({ name: 'waiter' }), true],
  ['the gate, known by its name', 'bare', renamedGate({ command: ['/bin/waiter'] }), true],
  ["the original controller's gate", 'bare', without(fixture('original') as V1Pod), true],
];
for (const [what, namespace, body, enrolled = false] of ALONE) {
  test(`left alone: ${what}`, () => untouched(namespace, body, { enrolled }));
}

function renamedGate(changes: Partial<V1Container>): V1Pod {
  const [gate = application('gate'), ...rest] = (fixture('gate') as V1Pod).spec?.initContainers ?? [];
  const initContainers = [{ ...gate, ...changes }, ...rest];
  return annotated(
    { [INITIALIZE]: 'true' },
    without(changed(fixture('gate') as V1Pod, (spec) => Object.assign(spec, { initContainers }))),
  );
}

/** A fixture as its author sent it. */
function without(stored: V1Pod): V1Pod {
  return changed(stored, (spec, metadata) => {
    for (const each of [...(spec.initContainers ?? []), ...spec.containers]) delete each.volumeMounts;
    spec.automountServiceAccountToken = false;
    delete spec.nodeName;
    delete spec.serviceAccount;
    delete spec.serviceAccountName;
    delete spec.priority;
    for (const key of ['namespace', 'ownerReferences', 'uid', 'resourceVersion'] as const) delete metadata[key];
  });
}

test("left alone: the controller's own pods, mirrors of files on a node, and kube-system", async () => {
  const body = annotated({ [INITIALIZE]: 'true' });
  const account = { metadata: { name: 'istio-pod-network-controller' } };
  await admin.post(`/api/v1/namespaces/${RELEASE_NAMESPACE}/serviceaccounts`, account);
  const own = changed(body, (spec) => Object.assign(spec, { serviceAccountName: 'istio-pod-network-controller' }));
  assert.deepEqual(names(await create(RELEASE_NAMESPACE, own)), []);
  assert.deepEqual(names(await create(RELEASE_NAMESPACE, body)), ['pod-network-gate']);
  const mirror = changed(annotated({ 'kubernetes.io/config.mirror': 'x' }, body), (spec) =>
    Object.assign(spec, { nodeName: 'one' }),
  );
  assert.deepEqual(names(await create('bare', mirror)), []);
  assert.deepEqual(names(await create('kube-system', body)), []);
});

test('where istiod is asked twice, its istio-init comes back, and Pod Security refuses it', async () => {
  await assert.rejects(create('twice', app()), refused(/violates PodSecurity .*container "istio-init"/));
});

test('and where Pod Security is not enforced, our policy refuses it, and says what to do', async () => {
  for (const native of ['true', 'false']) {
    const body = annotated({ 'sidecar.istio.io/nativeSidecar': native });
    await assert.rejects(create('again', body), (error: ApiException<unknown>) => {
      assert.equal(error.code, 422);
      assert.match(error.message, /both the gate .* and istio-init: .*reinvocationPolicy of istiod to Never/);
      return true;
    });
  }
});

test('a pod as large as one can be', async () => {
  const env = Array.from({ length: 400 }, (_, at) => ({ name: `VARIABLE_${at}`, value: 'x'.repeat(20) }));
  const args = Array.from({ length: 400 }, (_, at) => `--argument-number=${at}`);
  const many = Array.from({ length: 40 }, (_, at) => ({ ...application(`c${at}`), env, args }));
  const body = changed(app(), (spec) => {
    spec.initContainers = many.map((each) => ({ ...each, name: `init-${each.name}` }));
    spec.containers = many;
  });
  assert.ok(JSON.stringify(body).length > 1_000_000);
  assert.equal(names(await gated('shop', body)).length, 42);
});

const LIMIT = 1000;
const many = <T>(length: number, make: (name: string) => T): T[] => Array.from({ length }, (_, at) => make(`x${at}`));
const withVolumes = (length: number, made: V1Pod) =>
  changed(made, (spec) => {
    spec.volumes = [...(spec.volumes ?? []), ...many(length, (name) => ({ name, emptyDir: {} }))];
  });
const withContainers = (length: number, made: V1Pod) =>
  changed(made, (spec) => spec.containers.push(...many(length, application)));
const withInits = (length: number, made: V1Pod) =>
  changed(made, (spec) => {
    const inits = many(length, (name) => application(`init-${name}`));
    spec.initContainers = [...(spec.initContainers ?? []), ...inits];
  });

const TOO_LONG: [what: string, namespace: string, body: V1Pod, reason: RegExp][] = [
  [
    'its containers',
    'bare',
    withContainers(LIMIT, annotated({ [INITIALIZE]: 'true' })),
    /spec\.containers has 1001 entries, expected at most 1000/,
  ],
  [
    'its init containers, with istio-init among them',
    'bare',
    withInits(LIMIT, injected()),
    /spec\.initContainers has 1002 entries, expected at most 1000/,
  ],
  [
    'its volumes, which istiod adds to',
    'free',
    withVolumes(LIMIT, app()),
    /spec\.volumes has 10\d\d entries, expected at most 1000/,
  ],
  [
    'its containers, where its namespace enrols it',
    'wanted',
    withContainers(LIMIT, app()),
    /spec\.containers has 1001 entries, .* annotate the pod istio-pod-network-controller\/initialize: "false"/,
  ],
];
for (const [what, namespace, body, reason] of TOO_LONG) {
  test(`an enrolled pod that is too large for the policy is refused: ${what}`, async () => {
    await assert.rejects(create(namespace, body), (error: ApiException<unknown>) => {
      assert.equal(error.code, 422);
      const message = error.message.replaceAll('\\', '');
      assert.match(message, /the pod is enrolled in the mesh, but too large for the policy that adds its gate: /);
      assert.match(message, reason);
      return true;
    });
  });
}

test('a pod that is not enrolled is let in, however large it is', async () => {
  const large = (made: V1Pod) => withContainers(LIMIT, withInits(LIMIT, withVolumes(LIMIT, made)));
  await untouched('bare', large(app()));
  await untouched('unwanted', large(app()));
  await untouched('wanted', large(annotated({ [INITIALIZE]: 'false' })));
  await untouched('shop', large(labelled({ 'sidecar.istio.io/inject': 'false' })));
});

test('at the limit, a pod has its gate', async () => {
  const rest = { containers: LIMIT - 1, volumes: LIMIT - 1 - volumesOf(istioContainers(true).proxy).length };
  const body = withContainers(rest.containers, withVolumes(rest.volumes, injected()));
  const made = await gated('bare', body);
  assert.equal(made.spec?.containers.length, LIMIT);
  assert.equal(made.spec?.volumes?.length, LIMIT);
});

test('arguments, environment, resources and capabilities have no limit: the policy adds the gate among thousands', async () => {
  const words = many(5000, (name) => name);
  const env = many(5000, (name) => ({ name }));
  const limits = Object.fromEntries(many(1000, (name) => [`example.com/${name}`, '1']));
  const busy = changed(annotated({ [INITIALIZE]: 'true' }), (spec) => {
    spec.containers = [{ ...application('web'), args: words, env, resources: { limits: { ...limits, cpu: '1' } } }];
    spec.initContainers = [{ ...application('migrate'), args: words }];
  });
  assert.deepEqual(gateOf(await gated('bare', busy)).resources?.limits, { cpu: '1' });
  const off = { name: 'DISABLE_ENVOY', value: 'true' };
  await untouched(
    'bare',
    ofProxy((proxy) => Object.assign(proxy, { env: [...env, off] }), injected()),
  );
  const able = ['NET_RAW', ...many(LIMIT, (name) => name)];
  const capable = ofProxy((proxy) => Object.assign(proxy.securityContext ?? {}, capabilities(...able)), injected());
  const { securityContext } = container('istio-proxy', await gated('bare', capable));
  assert.deepEqual(securityContext?.capabilities, { drop: ['ALL'] });
  const wordy = ofInit(
    (init) => Object.assign(init, { args: [...words, '/usr/bin/istio-iptables', '-u', '7'] }),
    injected(),
  );
  assert.deepEqual(idsOf(await gated('bare', wordy)), [7, 1337]);
});

test('a word made up to look like the gate leaves istio-init as it is, and Pod Security refuses it', async () => {
  const body = ofInit((init) => init.args?.push('x\u0001/pod-network-gate\u0001'), injected());
  await untouched('bare', body);
  const by = changed(body, (_, metadata) =>
    Object.assign(metadata, { labels: { 'sidecar.istio.io/inject': 'false' } }),
  );
  await assert.rejects(create('shop', by), refused(/violates PodSecurity .*NET_ADMIN/));
});

test('ephemeral containers are not read', async () => {
  const body = changed(annotated({ [INITIALIZE]: 'true' }), (_, metadata) =>
    Object.assign(metadata, { name: 'debugged' }),
  );
  const path = '/api/v1/namespaces/bare/pods';
  await admin.post(path, body);
  const { init } = istioContainers(true);
  const ephemeralContainers = [{ ...init, resources: {}, volumeMounts: [] }];
  await admin.patch(`${path}/debugged/ephemeralcontainers`, 'strategic', { spec: { ephemeralContainers } });
  const made = await core.readNamespacedPod({ namespace: 'bare', name: 'debugged' });
  assert.equal(made.spec?.ephemeralContainers?.[0]?.name, 'istio-init');
  assert.deepEqual(names(made), ['pod-network-gate']);
  assert.ok(await isEnrolled('bare', made));
});

/** Returns when it counts. `name` is that of the image. */
async function applyAnew(name: string, ...values: string[]): Promise<void> {
  await applyPolicy(controlPlane, TEMPLATE, ...values, `image.repository=example.com/${name}`, 'image.tag=test');
  await inForce(name);
}

async function inForce(name: string): Promise<void> {
  const probe = () => create('shop', annotated({ [INITIALIZE]: 'true' }));
  const image = `example.com/${name}-gate:test`;
  await until(`in force: ${name}`, probe, ({ spec }) => spec?.initContainers?.[0]?.image === image);
}

test("the cluster's defaults come last, and no namespace has to be excluded", async () => {
  const config = {
    'proxy-uid': '1000650000',
    'proxy-gid': '2103',
    'envoy-port': '15011',
    'inbound-capture-port': '16006',
    'loopback-cidr': '127.0.0.0/8',
    'ip-families': '4,6',
    'unserved-families': 'block',
  };
  const { 'unserved-families': unserved, ...others } = config;
  const values = Object.entries(others).map(([key, value]) => `config.${key}=${value.replaceAll(',', '\\,')}`);
  await applyAnew('defaults', 'excludeNamespaces=null', `unservedFamilies=${unserved}`, ...values);
  const made = await gated('bare', annotated(BY_ANNOTATION));
  assert.deepEqual(
    [gateOf(made).args, ...idsOf(made)],
    [['--expect=auto', 'istio-iptables', '-u', '1000650000'], 1000650000, 2103],
  );
  assert.deepEqual(
    gateOf(made).command?.slice(1).sort(),
    Object.entries(config)
      .map(([flag, value]) => `--${flag}=${value}`)
      .sort(),
  );
  assert.equal(await gateSays(made, config), 'IPv4 and IPv6 are redirected to 16006');
  // The cluster's defaults have changed since: the gate's count.
  assert.equal(await gateSays(made, { 'inbound-capture-port': '17006' }), 'IPv4 and IPv6 are redirected to 16006');
  const replaced = await gated('bare', injected());
  assert.deepEqual(idsOf(replaced), [1337, 1337]);
  assert.equal(await gateSays(replaced, config), 'IPv4 and IPv6 are redirected to 15006');
  assert.equal(names(await create('kube-system', annotated({ [INITIALIZE]: 'true' })))[0], 'pod-network-gate');
});

test('enroll: only what Istio injected, or only what is annotated', async () => {
  const effect = async (enroll: string) => {
    await applyAnew(enroll, `enroll=${enroll}`);
    const made = [
      create('bare', annotated({ [INITIALIZE]: 'true' })),
      create('free', app()),
      create('wanted', injected()),
      create('unwanted', app()),
    ];
    return (await Promise.all(made)).map((each) => names(each)[0]);
  };
  const gate = 'pod-network-gate';
  assert.deepEqual(await effect('istio'), [undefined, gate, gate, 'istio-init']);
  assert.deepEqual(await effect('annotation'), [gate, 'istio-init', gate, 'istio-init']);
});

/** Of the gate in the sidecar. */
const MOUNT = '/opt/pod-network-gate';
const MOUNTED = `${MOUNT}/pod-network-gate`;
const proxyCommand = (made: V1Pod) => container('istio-proxy', made).command;

/** The gate is in the sidecar, and no init container is left of Istio's or ours. */
async function gatedInSidecar(namespace: string, body: V1Pod): Promise<V1Pod> {
  const made = await gated(namespace, body);
  assert.equal(proxyCommand(made)?.[0], MOUNTED);
  assert.deepEqual(
    names(made).filter((name) => /^(istio-(init|validation)|pod-network-gate)$/.test(name)),
    [],
  );
  return made;
}

test('with injection.wait=sidecar the gate is in front of the proxy of a native sidecar', async () => {
  const values = ['injection.wait=sidecar', 'image.repository=example.com/ipnc', 'image.tag=test'];
  await applyPolicy(controlPlane, TEMPLATE, ...values);
  const probe = () => create('free', app());
  await until('in force: injection.wait=sidecar', probe, (made) => proxyCommand(made) !== undefined);
  const { init, proxy } = istioContainers(true);
  const made = await gatedInSidecar('shop', app());
  assert.deepEqual(names(made), ['istio-proxy']);
  const { command, lifecycle, startupProbe, volumeMounts, ...rest } = container('istio-proxy', made);
  assert.deepEqual(command, [MOUNTED, ...(init.args ?? []), '--', '/usr/local/bin/pilot-agent']);
  const postStart = { exec: { command: [MOUNTED, '--await-ready', '15021'] } };
  assert.deepEqual(lifecycle, { ...proxy.lifecycle, postStart });
  assert.equal(startupProbe, undefined);
  const mount = { name: 'pod-network-gate', mountPath: MOUNT, readOnly: true };
  assert.deepEqual(volumeMounts, [...(proxy.volumeMounts ?? []), mount]);
  const { lifecycle: _, startupProbe: __, volumeMounts: ___, ...before } = proxy;
  assert.deepEqual(rest, JSON.parse(JSON.stringify(before)));
  assert.deepEqual(made.spec?.volumes?.find(({ name }) => name === 'pod-network-gate')?.image, {
    reference: 'example.com/ipnc-gate:test',
    pullPolicy: 'IfNotPresent',
  });
});

test('in the sidecar it has the arguments of istio-init, and the controller reads the same settings', async () => {
  const env = [{ name: 'ISTIO_META_DNS_CAPTURE', value: 'true' }];
  const body = ofProxy(
    (proxy) => proxy.env?.push(...env),
    ofInit((init) => Object.assign(init, { args: [...(init.args ?? []), '-o', '5432'], env }), injected()),
  );
  const made = await gatedInSidecar('bare', body);
  const spec = (pod: V1Pod) => podRedirect(toPodRecord(pod), { redirect: {}, defaultInboundPorts: '*' }).spec;
  assert.deepEqual(spec(made), spec(await create(twin('bare'), body)));
  assert.deepEqual(spec(made).outbound.excludePorts, [{ first: 5432, last: 5432 }]);
  assert.notEqual(spec(made).dns, 'off');
});

test("the place of istio-validation, of OpenShift's range, and of a gate that came before the webhook", async () => {
  assert.deepEqual(names(await gatedInSidecar('cni', app())), ['istio-proxy']);
  const range = ofProxy(
    (proxy) => Object.assign(proxy.securityContext ?? {}, { runAsUser: 1000670001 }),
    ofInit((init) => {
      init.args = init.args?.map((word) => (word === '1337' ? '1000670001' : word)) ?? [];
    }, injected()),
  );
  await gatedInSidecar('bare', range);
  for (const namespace of ['shop', 'cni']) {
    const inits = [application('migrate')];
    const early = changed(annotated({ [INITIALIZE]: 'true' }), (spec) =>
      Object.assign(spec, { initContainers: inits }),
    );
    assert.deepEqual(names(await gatedInSidecar(namespace, early)), ['istio-proxy', 'migrate']);
  }
  const capable = ofProxy(
    (proxy) => Object.assign(proxy.securityContext ?? {}, capabilities('NET_ADMIN', 'NET_BIND_SERVICE')),
    injected(),
  );
  const { securityContext } = container('istio-proxy', await gatedInSidecar('bare', capable));
  assert.deepEqual(securityContext?.capabilities, { drop: ['ALL'], add: ['NET_BIND_SERVICE'] });
  const bare = ofProxy((proxy) => {
    delete proxy.lifecycle;
    delete proxy.startupProbe;
    delete proxy.volumeMounts;
  }, injected());
  await gatedInSidecar(
    'bare',
    changed(bare, (spec) => {
      delete spec.volumes;
    }),
  );
});

const AS_INIT: [what: string, body: V1Pod][] = [
  ['an ordinary sidecar', injected({ native: false })],
  [
    'TPROXY',
    ofInit((init) => {
      init.args = init.args?.map((word) => (word === 'REDIRECT' ? 'TPROXY' : word)) ?? [];
    }, injected()),
  ],
  ['a proxy with a command', ofProxy((proxy) => Object.assign(proxy, { command: ['/bin/custom'] }), injected())],
  [
    'a proxy with a postStart hook',
    ofProxy(
      (proxy) => Object.assign(proxy, { lifecycle: { postStart: { exec: { command: ['pilot-agent', 'wait'] } } } }),
      injected(),
    ),
  ],
  [
    'another user than the proxy has',
    annotated({ 'pod-network-controller.istio.io/envoy-userid': '2102' }, injected()),
  ],
  [
    'an environment that the proxy has not',
    ofInit((init) => Object.assign(init, { env: [{ name: 'ISTIO_META_DNS_CAPTURE', value: 'true' }] }), injected()),
  ],
  [
    'an init container between the two',
    changed(injected(), ({ initContainers = [] }) => initContainers.splice(1, 0, application('between'))),
  ],
  [
    'a command in front of istio-iptables',
    ofInit((init) => Object.assign(init, { command: ['/usr/local/bin/pilot-agent'] }), injected()),
  ],
];
for (const [what, body] of AS_INIT) {
  test(`with injection.wait=sidecar the gate stays an init container: ${what}`, async () => {
    const made = await gated('bare', body);
    assert.equal(names(made)[0], 'pod-network-gate');
    assert.notEqual(proxyCommand(made)?.[0], MOUNTED);
    assert.equal(container('istio-proxy', made).startupProbe === undefined, false);
  });
}

test('with injection.wait=sidecar istio-validation stays where the sidecar cannot have the gate', async () => {
  const body = annotated({ 'sidecar.istio.io/nativeSidecar': 'false' });
  await untouched('cni', body, { enrolled: true });
});

test('the older version of the API takes it as well', async () => {
  const { kubeconfig } = controlPlane;
  const beta = 'admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy';
  const text = await renderPolicy(TEMPLATE, [], ['--kube-version', '1.34', '--api-versions', beta]);
  const kubectl = (await programs(['kubectl'])).path('kubectl');
  const apply = ['apply', '--server-side', '--dry-run=server', '--force-conflicts', '--filename', '-'];
  assert.match(await output([kubectl, '--kubeconfig', kubeconfig, ...apply], { input: text }), /serverside-applied/);
});

test('the chart renders the version that the API server serves, and reports if there is none', async () => {
  const render = (values: string[], ...flags: string[]) => renderPolicy(TEMPLATE, values, flags);
  const served = (version: string) => `admissionregistration.k8s.io/${version}/MutatingAdmissionPolicy`;
  assert.match(await render([], '--kube-version', '1.36'), /^apiVersion: admissionregistration.k8s.io\/v1$/m);
  const older = await render([], '--kube-version', '1.34', '--api-versions', served('v1beta1'));
  assert.match(older, /^apiVersion: admissionregistration.k8s.io\/v1beta1$/m);
  await assert.rejects(
    render(['injection.mode=policy'], '--kube-version', '1.33'),
    /injection\.mode: policy: this API server/,
  );
  for (const flags of [
    ['--kube-version', '1.33'],
    ['--set', 'injection.mode=istio'],
    ['--set', 'injection.mode=none'],
  ]) {
    await assert.rejects(render([], ...flags), /could not find template/);
  }
  await assert.rejects(
    render(['injection.mode=istio', 'injection.wait=sidecar'], '--kube-version', '1.30'),
    /injection\.wait: sidecar: Kubernetes v1\.30 has no image volumes/,
  );
});
