/** The controller keeps of a Pod what it reads, and gets the same redirect settings from that. */
import assert from 'node:assert/strict';
import { ConfigError } from '../../lib/errors.ts';
import { hasOwnInit } from '../../lib/istio/containers.ts';
import { DISABLE_ENVOY, DOMAIN, INITIALIZE, INJECT, INJECTED, NETNS, RULES, STATUS } from '../../lib/istio/names.ts';
import { plan } from '../../lib/istio/plan.ts';
import { MOST_KEPT, mustBeWhole, type Pod } from '../../lib/istio/pod.ts';
import { podRedirect, type RedirectSpec, redirect } from '../../lib/istio/redirect.ts';
import { flagSource, type Source } from '../../lib/istio/sources.ts';
import { encodingOf } from '../../lib/kube/encoding.ts';
import { toNamespaceRecord, toPodRecord } from '../../lib/kube/pods.ts';
import { READY } from '../../lib/kube/status.ts';
import { MAX_LIST } from '../../lib/options/values.ts';
import { suite } from '../suite.ts';
import { fixture, fixtures } from '../support/pods.ts';
import { envelope, PROTOBUF } from '../support/protobuf.ts';

const trim = suite('trimmed pods');

trim('the whole record of an injected pod', () => {
  const uid = '5f0c7a52-9f0e-4c4e-8a5b-000000000001';
  assert.deepEqual(toPodRecord(fixture('native-cni')), {
    metadata: {
      uid,
      runtimeUid: uid,
      namespace: 'bookinfo',
      name: 'reviews-v1-598b896c9d-cx7zq',
      resourceVersion: '48201',
      labels: {},
      annotations: {
        'sidecar.istio.io/interceptionMode': 'REDIRECT',
        'traffic.sidecar.istio.io/excludeInboundPorts': '15020',
        'traffic.sidecar.istio.io/includeInboundPorts': '*',
        'traffic.sidecar.istio.io/includeOutboundIPRanges': '*',
        'sidecar.istio.io/status': '',
      },
      marks: {},
    },
    spec: {
      hostNetwork: false,
      initContainers: [
        {
          name: 'istio-validation',
          command: [],
          args: (fixture('native-cni') as { spec: { initContainers: { args: string[] }[] } }).spec.initContainers[0]
            ?.args,
          env: [],
        },
        {
          name: 'istio-proxy',
          command: [],
          args: ['proxy', 'sidecar', '--domain', '$(POD_NAMESPACE).svc.cluster.local'],
          env: [{ name: 'ISTIO_META_INTERCEPTION_MODE', value: 'REDIRECT' }],
          securityContext: { runAsUser: 1337, runAsGroup: 1337 },
        },
      ],
      containers: [{ ports: [{ containerPort: 9080 }] }],
    },
    status: { phase: 'Pending', podIPs: ['10.244.1.21', 'fd00:10:244:1::15'], conditions: [] },
  });
});

for (const name of fixtures) {
  trim(`${name}: the record gives the same rules as the whole Pod, and is small`, () => {
    const whole = fixture(name) as Pod;
    const record = toPodRecord(fixture(name));
    const declared = { redirect: {}, defaultInboundPorts: 'declared' } as const;
    assert.deepEqual(redirect({ pod: record }), redirect({ pod: whole }));
    assert.deepEqual(podRedirect(record, declared), podRedirect(whole, declared));
    assert.ok(JSON.stringify(record).length < 1500);
  });
}

trim('what the fixtures do not have', () => {
  const ours = {
    type: 'pod-network-controller.istio.io/ready',
    status: 'True',
    reason: 'Installed',
    message: 'x',
  };
  const ports = [{ containerPort: 80 }, { containerPort: 53, protocol: 'UDP' }, { containerPort: 53, protocol: 'TCP' }];
  const { metadata, spec, status } = toPodRecord({
    metadata: {
      uid: 'u',
      name: 'n',
      deletionTimestamp: '2026-08-11T09:14:02Z',
      labels: { app: 'x', 'sidecar.istio.io/inject': 'true' },
      annotations: { 'pod-network-controller.istio.io/netns': 'b:1', other: 'x' },
    },
    spec: {
      hostNetwork: true,
      securityContext: { runAsUser: 7, fsGroup: 8 },
      readinessGates: [{ conditionType: 'example.com/x' }, { conditionType: ours.type }],
      initContainers: null,
      containers: [{ name: 'app', ports }],
    },
    status: {
      conditions: [
        { ...ours, lastTransitionTime: 'x' },
        { type: 'Ready', status: 'True' },
      ],
    },
  });
  assert.deepEqual(metadata, {
    uid: 'u',
    runtimeUid: 'u',
    namespace: '',
    name: 'n',
    resourceVersion: '',
    deletionTimestamp: '2026-08-11T09:14:02Z',
    labels: { 'sidecar.istio.io/inject': 'true' },
    annotations: {},
    marks: { 'pod-network-controller.istio.io/netns': 'b:1' },
  });
  const containers = {
    initContainers: [],
    containers: [{ name: 'app' }, { ports: [{ containerPort: 80 }, { containerPort: 53 }] }],
  };
  assert.deepEqual(spec, {
    hostNetwork: true,
    securityContext: { runAsUser: 7 },
    readinessGates: [{ conditionType: ours.type }],
    ...containers,
  });
  assert.deepEqual(status, { phase: '', podIPs: [], conditions: [ours] });
});

trim('it is kept after which init container capture begins, and what became of it', () => {
  const gate = { name: 'pod-network-gate', args: ['istio-iptables'] };
  const migrate = { name: 'migrate', command: ['x'] };
  const proxy = { name: 'istio-proxy', restartPolicy: 'Always' };
  const after = (...initContainers: object[]) =>
    toPodRecord({ metadata: { uid: 'u', name: 'n' }, spec: { initContainers } }).spec.captureAfter;
  assert.equal(after(gate), undefined);
  assert.equal(after(gate, migrate), undefined);
  assert.equal(after(migrate), undefined);
  assert.equal(after(migrate, gate), 'migrate');
  assert.equal(after({ name: 'first' }, migrate, gate, { name: 'later' }), 'migrate');
  assert.equal(after({ name: 'istio-validation', args: ['istio-iptables'] }, migrate), undefined);
  assert.equal(after(migrate, { name: 'istio-init', command: ['/pod-network-gate'] }), 'migrate');
  assert.equal(after(migrate, { name: 'istio-init', args: ['istio-iptables'] }), undefined, 'it writes its own rules');
  // Who goes on beside the application is captured from its start.
  assert.equal(after({ name: 'cache', restartPolicy: 'Always' }, migrate, gate), undefined);
  assert.equal(after(proxy, migrate, gate), undefined);

  const before = (...initContainerStatuses: object[]) =>
    toPodRecord({
      metadata: { uid: 'u', name: 'n' },
      spec: { initContainers: [migrate, gate] },
      status: { initContainerStatuses },
    }).status.initBefore;
  const state = (exitCode: number) => ({ terminated: { exitCode } });
  assert.equal(before(), undefined);
  assert.equal(before({ name: 'migrate', state: { waiting: {} } }), undefined);
  const [name, containerID] = ['migrate', 'containerd://a'];
  assert.deepEqual(before({ name, containerID, state: { running: {} } }), { id: containerID, ended: false });
  assert.deepEqual(before({ name, containerID, state: state(1) }), { id: containerID, ended: false });
  assert.deepEqual(before({ name, containerID, state: state(0) }), { id: containerID, ended: true });
  assert.equal(before({ name: 'pod-network-gate', containerID, state: state(0) }), undefined);
});

trim('of the containers that may wait it is kept how the first of them ended', () => {
  const ended = (name: string, terminated?: object) => ({
    name,
    restartCount: 3,
    lastState: terminated && { terminated },
  });
  const finishedAt = '2026-08-11T09:14:02Z';
  const gateEnd = (...initContainerStatuses: object[]) =>
    toPodRecord({ metadata: { uid: 'u', name: 'n' }, status: { initContainerStatuses } }).status.gateEnd;
  const expected = { exitCode: 126, message: true, restarts: 3, at: Date.parse(finishedAt) };
  for (const name of ['istio-proxy', 'istio-init', 'istio-validation', 'pod-network-gate']) {
    const other = ended('migrate', { exitCode: 1, finishedAt });
    const statuses = [other, ended(name, { exitCode: 126, message: 'not redirected', finishedAt })];
    assert.deepEqual(gateEnd(...statuses), expected, name);
    assert.equal(gateEnd(other, ended(name)), undefined);
  }
  const silent = gateEnd(ended('istio-proxy', { exitCode: 0, finishedAt }));
  assert.deepEqual([silent?.exitCode, silent?.message], [0, false]);
});

trim("a static pod's uid in the runtime is its hash", () => {
  const uid = '0d8ee1a3-4f6b-4c5e-9d2a-6b1f0a7c88b1';
  const hash = '3f2b6c1d9e8a7f605142a3b4c5d6e7f8';
  const annotations = { 'kubernetes.io/config.hash': hash };
  const runtimeUid = (annotations?: Record<string, string>) =>
    toPodRecord({ metadata: { name: 'n', uid, annotations } }).metadata.runtimeUid;
  assert.equal(runtimeUid(), uid);
  assert.equal(runtimeUid(annotations), uid, 'anybody can write this annotation');
  const mirror = { 'kubernetes.io/config.mirror': hash, ...annotations };
  assert.equal(runtimeUid(mirror), hash);
  const stolen = { ...mirror, 'kubernetes.io/config.hash': '11111111-4f6b-4c5e-9d2a-6b1f0a7c88b1' };
  assert.equal(runtimeUid(stolen), uid, "anybody can write another pod's");
});

trim("the controller's own annotations are kept apart", () => {
  const own = { [STATUS]: 'initialized', [NETNS]: 'boot:7', [RULES]: 'abc' };
  const { metadata } = toPodRecord({
    metadata: { name: 'n', uid: 'u', annotations: { ...own, [INITIALIZE]: 'true' } },
  });
  assert.deepEqual(metadata.marks, own);
  assert.deepEqual(metadata.annotations, { [INITIALIZE]: 'true' });
});

trim('a namespace', () => {
  const annotations = { 'istio-pod-network-controller/initialize': 'true', other: 'x' };
  const record = toNamespaceRecord({ metadata: { name: 'shop', resourceVersion: '7', annotations }, spec: {} });
  const kept = { 'istio-pod-network-controller/initialize': 'true' };
  assert.deepEqual(record, { metadata: { name: 'shop', resourceVersion: '7', annotations: kept } });
});

trim('a value that is not a Pod is a TypeError', () => {
  for (const object of [undefined, null, 5, 'x', [], {}, { metadata: null }, { metadata: { name: 'n' } }]) {
    assert.throws(() => toPodRecord(object), /not a Pod/, JSON.stringify(object));
  }
  assert.throws(() => toNamespaceRecord({ metadata: {} }), /not a Namespace/);
});

const bounds = suite('what is kept of pods, bounded');

/** Characters of all that is kept. */
const sizeOf = (record: unknown) => JSON.stringify(record).length;
const NAMED = { name: 'n', uid: 'u', namespace: 'default' };
const RANGES = 'traffic.sidecar.istio.io/includeOutboundIPRanges';
const many = <T>(count: number, make: (at: number) => T) => Array.from({ length: count }, (_, at) => make(at));
const long = 'x'.repeat(200_000);

const large: [what: string, pod: { metadata?: object; spec?: object; status?: object }][] = [
  ['annotations that are not read', { metadata: { annotations: { note: long } } }],
  ['annotations with this domain that are not read', { metadata: { annotations: { [`${DOMAIN}/note`]: long } } }],
  ['annotations of a word', { metadata: { annotations: { [INITIALIZE]: long, [INJECT]: long, [INJECTED]: long } } }],
  ['labels', { metadata: { labels: { 'sidecar.istio.io/inject': long } } }],
  ['containers', { spec: { containers: many(10_000, (at) => ({ name: `c${at}`, image: 'x', args: [long] })) } }],
  ['ports', { spec: { containers: [{ name: 'c', ports: many(65_535, (at) => ({ containerPort: at + 1 })) }] } }],
  [
    'ports of many containers',
    { spec: { containers: many(10_000, (at) => ({ ports: [{ containerPort: at + 1 }] })) } },
  ],
  ['the same port', { spec: { containers: many(10_000, () => ({ ports: [{ containerPort: 1 }] })) } }],
  ['readiness gates', { spec: { readinessGates: many(10_000, (at) => ({ conditionType: `${DOMAIN}/${at}` })) } }],
  [
    "the proxy's arguments",
    { spec: { containers: [{ name: 'istio-proxy', args: many(9, () => long), command: [long] }] } },
  ],
  [
    "the proxy's variables",
    {
      spec: { containers: [{ name: 'istio-proxy', env: many(10_000, () => ({ name: DISABLE_ENVOY, value: long })) }] },
    },
  ],
  ['conditions', { status: { conditions: many(10_000, () => ({ type: READY, message: long })) } }],
  ['addresses', { status: { podIPs: many(10_000, () => ({ ip: long })) } }],
];
for (const [what, pod] of large) {
  bounds(what, () => {
    const record = toPodRecord({ ...pod, metadata: { ...NAMED, ...pod.metadata } });
    assert.ok(sizeOf(record) < MOST_KEPT, `${sizeOf(record)}`);
    mustBeWhole(record);
  });
}

bounds('more ports than a list may have are kept as one more, and refused where they count', () => {
  const declared = (count: number) =>
    toPodRecord({
      metadata: NAMED,
      spec: { containers: [{ ports: many(count, (at) => ({ containerPort: at + 1 })) }] },
    });
  const policy = { redirect: {}, defaultInboundPorts: 'declared' } as const;
  assert.equal(podRedirect(declared(MAX_LIST), policy).spec.inbound.include.length, MAX_LIST);
  assert.throws(
    () => podRedirect(declared(MAX_LIST + 1), policy),
    /declared ports .* too many items in one list; expected at most 1000/,
  );
  assert.equal(podRedirect(declared(60_000), { ...policy, defaultInboundPorts: '*' }).spec.inbound.include, '*');
});

const tooLarge: [what: string, pod: { metadata?: object; spec?: object }, says: string][] = [
  [
    'one annotation',
    { metadata: { annotations: { [RANGES]: long } } },
    `annotation ${RANGES}: the redirect options of the pod's annotations are too long; expected at most 32768 characters in all`,
  ],
  [
    'annotations together',
    {
      metadata: {
        annotations: { [RANGES]: 'x'.repeat(MOST_KEPT - 100), 'traffic.sidecar.istio.io/excludeInterfaces': long },
      },
    },
    'annotation traffic.sidecar.istio.io/excludeInterfaces: ',
  ],
  [
    'arguments of the gate',
    { spec: { initContainers: [{ name: 'pod-network-gate', args: many(20_000, () => 'xxx') }] } },
    "container pod-network-gate: the redirect options of the pod's containers are too long",
  ],
  [
    'empty arguments',
    { spec: { initContainers: [{ name: 'istio-init', args: many(500_000, () => '') }] } },
    'container istio-init: ',
  ],
  [
    'variables of an init container',
    {
      spec: {
        initContainers: [
          { name: 'istio-validation', env: [{ name: 'ISTIO_SERVICE_CIDR', value: long }], args: ['istio-iptables'] },
        ],
      },
    },
    'container istio-validation: ',
  ],
  [
    'many gates',
    { spec: { initContainers: many(10_000, (at) => ({ name: `gate-${at}`, command: ['pod-network-gate'] })) } },
    'container gate-',
  ],
];
for (const [what, pod, says] of tooLarge) {
  bounds(`too large, and refused by name: ${what}`, () => {
    const record = toPodRecord({ ...pod, metadata: { ...NAMED, ...pod.metadata } });
    assert.ok(sizeOf(record) < 3 * MOST_KEPT, `${sizeOf(record)}`);
    assert.throws(
      () => mustBeWhole(record),
      (error: ConfigError) => error.message.startsWith(says) && error.code === 'ERR_CONFIG',
    );
  });
}

bounds('the longest list of addresses that is usual has room', () => {
  const annotations = { [RANGES]: many(1000, (at) => `10.${at >> 8}.${at & 255}.0/24`).join() };
  const record = toPodRecord({ metadata: { ...NAMED, annotations } });
  mustBeWhole(record);
  assert.equal(record.metadata.annotations[RANGES], annotations[RANGES]);
});

bounds('whether the pod writes its own rules is known, however long its init container is', () => {
  const words = many(100_000, () => 'xxx');
  const init = (...args: string[]) =>
    hasOwnInit(toPodRecord({ metadata: NAMED, spec: { initContainers: [{ name: 'istio-init', args }] } }));
  assert.equal(init(...words), true);
  assert.equal(init('init', ...words), false);
  assert.equal(init(...words, '/usr/bin/pod-network-gate'), false);
});

bounds('nothing that is kept holds the bytes that it was read from', () => {
  const { object } = encodingOf(PROTOBUF);
  const pod = fixture('native-cni') as { metadata: { annotations: object } };
  Object.assign(pod.metadata.annotations, { note: 'x'.repeat(1_000_000) });
  const bytes = envelope('Pod', pod);
  const own = Buffer.from(new Uint8Array(bytes));
  const record = toPodRecord(object(own));
  const before = structuredClone(record);
  own.fill(0);
  assert.deepEqual(record, before);
});

const specs = suite('specs of pods');

const port = (first: number, last = first) => ({ first, last });
const cluster = (flags: Record<string, string>): Source => {
  const source = flagSource(new Map(Object.entries(flags)));
  for (const given of Object.values(source)) given.source = 'default';
  return source;
};
const of = (pod: Pod, flags: Record<string, string> = {}, defaultInboundPorts: '*' | 'declared' = '*') =>
  podRedirect(pod, { redirect: cluster(flags), defaultInboundPorts }).spec;
const ofFixture = (name: string, flags: Record<string, string> = {}, inbound: '*' | 'declared' = '*') =>
  of(toPodRecord(fixture(name)), flags, inbound);

const expected: Record<string, Partial<RedirectSpec>> = {
  'native-cni': {
    mode: 'REDIRECT',
    inbound: { include: '*', exclude: [15090, 15021, 15020].map((p) => port(p)) },
    dns: 'off',
  },
  'container-cni': { mode: 'TPROXY', dns: 'all', proxyUids: [1337], proxyGids: [1337] },
  'own-init': { mode: 'REDIRECT', proxyUids: [1337] },
  gate: {
    proxyUids: [2102],
    proxyGids: [2102],
    inbound: { include: [port(8080), port(9000, 9010)], exclude: [15090, 15021, 15020].map((p) => port(p)) },
  },
  original: { proxyPort: 15011, proxyUids: [1337], proxyGids: [1337] },
  openshift: { proxyUids: [1000669999], proxyGids: [1] },
  'mode-none': { mode: 'NONE' },
};
for (const [name, parts] of Object.entries(expected)) {
  specs(name, () => {
    const spec = ofFixture(name);
    for (const [key, value] of Object.entries(parts)) assert.deepEqual(spec[key as keyof RedirectSpec], value, key);
  });
}

specs("the cluster's defaults decide where the pod says nothing, and only there", () => {
  const flags = {
    'envoy-port': '16001',
    'istio-outbound-ports': '443',
    'istio-inbound-ports': '80',
    'proxy-uid': '2000',
  };
  const injected = ofFixture('native-cni', flags);
  assert.deepEqual([injected.proxyPort, injected.inbound.include, injected.proxyUids], [15001, '*', [1337]]);
  assert.deepEqual(injected.outbound.ports, [port(443)]);
  const bare = of({}, flags);
  assert.deepEqual([bare.proxyPort, bare.inbound.include, bare.proxyUids], [16001, [port(80)], [2000]]);
});

specs("a proxy's ids: its own, the cluster's, 1337", () => {
  const ids = (securityContext: object, flags: Record<string, string> = {}) => {
    const { proxyUids, proxyGids } = of({ spec: { containers: [{ name: 'istio-proxy', securityContext }] } }, flags);
    return [...proxyUids, ...proxyGids];
  };
  assert.deepEqual(ids({}), [1337, 1337]);
  assert.deepEqual(ids({}, { 'proxy-uid': '2000' }), [2000, 2000]);
  assert.deepEqual(ids({ runAsUser: 0 }, { 'proxy-uid': '2000' }), [2000, 2000]);
  assert.deepEqual(ids({ runAsUser: 5000 }, { 'proxy-uid': '2000' }), [5000, 1337]);
  assert.deepEqual(ids({ runAsUser: 5000 }, { 'proxy-gid': '3000' }), [5000, 3000]);
  assert.deepEqual(ids({ runAsUser: 5000, runAsGroup: 6000 }, { 'proxy-uid': '1', 'proxy-gid': '2' }), [5000, 6000]);
});

specs('declared ports count where nothing names inbound ports', () => {
  const include = (name: string, flags = {}) => ofFixture(name, flags, 'declared').inbound.include;
  assert.deepEqual(include('original'), [port(9080), port(9081)], 'TCP only, and not those of the proxy');
  assert.deepEqual(include('original', { 'istio-inbound-ports': '1' }), [port(1)]);
  assert.equal(include('native-cni'), '*', 'its arguments say so');
  assert.equal(ofFixture('original').inbound.include, '*');
  const ports = (containerPort: number) => [{ containerPort }];
  const initContainers = [
    { name: 'migrate', ports: ports(1) },
    { name: 'cache', restartPolicy: 'Always', ports: ports(2) },
  ];
  const pod = { spec: { initContainers, containers: [{ name: 'a' }, { name: 'b', ports: ports(2) }] } };
  assert.deepEqual(of(pod, {}, 'declared').inbound.include, [port(2)]);
  assert.deepEqual(of({}, {}, 'declared').inbound.include, []);
});

specs('with TPROXY and no declared port nothing inbound is captured, and there are no TPROXY routes', () => {
  const pod = (...ports: number[]): Pod => ({
    metadata: { annotations: { 'sidecar.istio.io/interceptionMode': 'TPROXY' } },
    spec: { containers: [{ name: 'app', ports: ports.map((containerPort) => ({ containerPort })) }] },
  });
  const planned = (pod: Pod) => {
    const { tables, routes } = plan(of(pod, {}, 'declared'), [4, 6]);
    const chains = tables.flatMap(({ chains }) => chains);
    const targets = chains.flatMap(({ inserts, rules }) => [...inserts, ...rules].map(({ target }) => target));
    const jumps = targets.flatMap((target) => (target.kind === 'jump' ? [target.chain] : []));
    return { tproxy: jumps.includes('ISTIO_TPROXY'), routes, captures: jumps.includes('ISTIO_REDIRECT') };
  };
  assert.deepEqual(planned(pod()), { tproxy: false, routes: { loopback6: true }, captures: true });
  const tproxy = { mark: 1337, table: 133 };
  assert.deepEqual(planned(pod(8080)), { tproxy: true, routes: { loopback6: true, tproxy }, captures: true });
});

specs('servers named for the cluster are those of each pod that captures DNS, unless it asks for all', () => {
  const server = { servers: [{ family: 4, address: '10.96.0.10', prefix: 32 }] };
  const flags = { 'dns-servers': '10.96.0.10' };
  const init = (...args: string[]) =>
    of({ spec: { initContainers: [{ name: 'istio-init', args: ['istio-iptables', ...args] }] } }, flags).dns;
  assert.equal(ofFixture('native-cni', flags).dns, 'off');
  assert.deepEqual(ofFixture('container-cni', flags).dns, server);
  assert.deepEqual(init('--redirect-dns'), server);
  assert.equal(init('--redirect-dns', '--capture-all-dns'), 'all');
  assert.deepEqual(of({}, { ...flags, 'redirect-dns': 'true' }).dns, server);
});

specs("a pod's own families go before the cluster's CIDRs", () => {
  const gate = { name: 'pod-network-gate', args: ['istio-iptables', '--ip-families', '4'] };
  const defaults = { redirect: cluster({ 'istio-service-cidr': 'fd00::/8' }), defaultInboundPorts: '*' } as const;
  assert.deepEqual(podRedirect({ spec: { initContainers: [gate] } }, defaults).families, [4]);
});

specs('the gate goes before the container that it took over from, and Istio is asked where it says nothing', () => {
  const gate = (...args: string[]) => ({ name: 'x', command: ['/usr/bin/pod-network-gate'], args });
  const validation = { name: 'istio-validation', args: ['istio-iptables', '-b', '2'] };
  const include = (...initContainers: object[]) => of({ spec: { initContainers } }).inbound.include;
  assert.deepEqual(include(validation, gate('--timeout', '5m', 'istio-iptables', '-b', '1')), [port(1)]);
  assert.deepEqual(include(gate('--timeout', '5m'), validation), [port(2)]);
});

const bad: [what: string, pod: Pod, says: string][] = [
  [
    'annotation',
    { metadata: { annotations: { 'traffic.sidecar.istio.io/excludeOutboundPorts': '80-' } } },
    'annotation traffic.sidecar.istio.io/excludeOutboundPorts: "80-": not a port or a range',
  ],
  [
    "the gate's argument",
    { spec: { initContainers: [{ name: 'pod-network-gate', args: ['istio-iptables', '-u', 'envoy'] }] } },
    'pod-network-gate args -u: "envoy": not a numeric id',
  ],
  [
    "the gate's unknown flag",
    { spec: { initContainers: [{ name: 'pod-network-gate', args: ['istio-iptables', '--from-tomorrow'] }] } },
    'pod-network-gate args: "--from-tomorrow": an unknown flag; expected a flag of istio-iptables',
  ],
  [
    'a variable by reference',
    { spec: { containers: [{ name: 'istio-proxy', env: [{ name: 'INVALID_DROP', valueFrom: {} }] }] } },
    'INVALID_DROP (env of istio-proxy): "(from a reference)": not a boolean',
  ],
  [
    'the mode in the environment',
    { spec: { containers: [{ name: 'istio-proxy', env: [{ name: 'ISTIO_META_INTERCEPTION_MODE', value: 'BOTH' }] }] } },
    'ISTIO_META_INTERCEPTION_MODE (env of istio-proxy): "BOTH": not a known value; expected one of REDIRECT, TPROXY, NONE',
  ],
];
for (const [what, pod, says] of bad) {
  specs(`bad: ${what}`, () => {
    const record = toPodRecord({ ...pod, metadata: { ...pod.metadata, uid: 'u', name: 'n' } });
    try {
      podRedirect(record, { redirect: {}, defaultInboundPorts: '*' });
    } catch (error) {
      assert.ok(error instanceof ConfigError);
      assert.ok((error as ConfigError).message.startsWith(says), (error as ConfigError).message);
      return;
    }
    assert.fail();
  });
}
