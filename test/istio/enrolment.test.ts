/** Which pods are enrolled, by annotation or by Istio, and each reason not to enroll a pod. */
import assert from 'node:assert/strict';
import { type Decision, decide, type PolicyOptions, SKIP_REASONS, type SkipReason } from '../../lib/istio/enrolment.ts';
import type { NamespaceRecord, PodRecord } from '../../lib/istio/pod.ts';
import { toNamespaceRecord, toPodRecord } from '../../lib/kube/pods.ts';
import { suite } from '../suite.ts';
import { fixture } from '../support/pods.ts';

const test = suite('policy');

const INITIALIZE = 'istio-pod-network-controller/initialize';
type Modes = Record<PolicyOptions['enroll'], string>;

interface Change {
  annotations?: Record<string, string>;
  labels?: Record<string, string>;
  metadata?: object;
  spec?: object;
  status?: object;
}

/** A fixture with some of its fields changed, as the controller sees it. */
function pod(name: string, { annotations, labels, metadata, spec, status }: Change = {}): PodRecord {
  const whole = fixture(name) as Record<'metadata' | 'spec' | 'status', Record<string, object>>;
  Object.assign(whole.metadata, metadata);
  Object.assign(whole.spec, spec);
  Object.assign(whole.status, status);
  whole.metadata.annotations = { ...whole.metadata.annotations, ...annotations };
  whole.metadata.labels = { ...whole.metadata.labels, ...labels };
  return toPodRecord(whole);
}

const proxy = (rest: object) => ({
  initContainers: [],
  containers: [{ name: 'app' }, { name: 'istio-proxy', ...rest }],
});
const env = (value: string) => proxy({ env: [{ name: 'DISABLE_ENVOY', value }] });

function namespace(initialize?: string): NamespaceRecord {
  const annotations = initialize === undefined ? {} : { [INITIALIZE]: initialize };
  return toNamespaceRecord({ metadata: { name: 'bookinfo', annotations } });
}

const options = (enroll: PolicyOptions['enroll']): PolicyOptions => ({
  enroll,
  excludeNamespaces: ['kube-system', 'monitoring'],
  self: { namespace: 'ipnc', name: 'ipnc-x7zq' },
});

/** One word for a decision: who brought it in, why not, or wait. */
function word(decision: Decision): string {
  if (decision.enroll) return decision.by;
  return decision.enroll === undefined ? 'wait' : decision.reason;
}

const inEach = (what: string): Modes => ({ annotation: what, istio: what, both: what });
const byIstio = (what: string): Modes => ({ annotation: 'not-annotated', istio: what, both: what });

interface Case {
  pod: PodRecord;
  /** What the namespace is annotated with; null: it is not known. */
  namespace?: string | null;
  expected: Modes;
}

const yes = { annotations: { [INITIALIZE]: 'true' } };
const no = { annotations: { [INITIALIZE]: 'false' } };
const self = { metadata: { namespace: 'ipnc', name: 'ipnc-x7zq' } };

const cases: Record<string, Case> = {
  // Istio's injection
  'native sidecar, CNI mode': { pod: pod('native-cni'), expected: byIstio('istio') },
  'ordinary sidecar, CNI mode': { pod: pod('container-cni'), expected: byIstio('istio') },
  'on OpenShift': { pod: pod('openshift'), expected: byIstio('istio') },
  'with a user namespace of its own': { pod: pod('user-namespace'), expected: byIstio('istio') },
  'mode NONE': { pod: pod('mode-none'), expected: byIstio('istio') },
  'with our gate': { pod: pod('gate'), expected: byIstio('istio') },
  'istio-init of its own': { pod: pod('own-init'), expected: byIstio('own-init') },
  'gateway, proxy type router': { pod: pod('gateway'), expected: byIstio('not-a-sidecar') },
  'proxy type behind a command': {
    pod: pod('native-cni', { spec: proxy({ command: ['pilot-agent', 'proxy'], args: ['ztunnel'] }) }),
    expected: byIstio('not-a-sidecar'),
  },
  'the gate in front of the proxy': {
    pod: pod('native-cni', {
      spec: proxy({
        command: ['/opt/gate/pod-network-gate', 'istio-iptables', '-z', '15006', '--', '/usr/local/bin/pilot-agent'],
        args: ['proxy', 'sidecar'],
      }),
    }),
    expected: byIstio('istio'),
  },
  'the gate in front of a gateway': {
    pod: pod('native-cni', {
      spec: proxy({
        command: ['/opt/gate/pod-network-gate', '--', '/usr/local/bin/pilot-agent'],
        args: ['proxy', 'router'],
      }),
    }),
    expected: byIstio('not-a-sidecar'),
  },
  'no proxy type': { pod: pod('native-cni', { spec: proxy({}) }), expected: byIstio('istio') },
  DISABLE_ENVOY: { pod: pod('native-cni', { spec: env('true') }), expected: byIstio('envoy-disabled') },
  'DISABLE_ENVOY as Go reads it': { pod: pod('native-cni', { spec: env('T') }), expected: byIstio('envoy-disabled') },
  'DISABLE_ENVOY false': { pod: pod('native-cni', { spec: env('false') }), expected: byIstio('istio') },
  'DISABLE_ENVOY of no meaning': { pod: pod('native-cni', { spec: env('yes') }), expected: byIstio('istio') },
  'inject false, by annotation': {
    pod: pod('native-cni', { annotations: { 'sidecar.istio.io/inject': 'false' } }),
    expected: byIstio('inject-false'),
  },
  'inject false, by label': {
    pod: pod('native-cni', { labels: { 'sidecar.istio.io/inject': 'false' } }),
    expected: byIstio('inject-false'),
  },
  "inject: the label's false goes before the annotation's true": {
    pod: pod('native-cni', {
      annotations: { 'sidecar.istio.io/inject': 'true' },
      labels: { 'sidecar.istio.io/inject': 'false' },
    }),
    expected: byIstio('inject-false'),
  },
  "inject: the label's true goes before the annotation's false": {
    pod: pod('native-cni', {
      annotations: { 'sidecar.istio.io/inject': 'false' },
      labels: { 'sidecar.istio.io/inject': 'true' },
    }),
    expected: byIstio('istio'),
  },
  'inject of no meaning': {
    pod: pod('native-cni', { labels: { 'sidecar.istio.io/inject': 'no' } }),
    expected: byIstio('istio'),
  },
  'a proxy that nobody injected': {
    pod: pod('plain', { spec: proxy({ args: ['proxy', 'sidecar'] }) }),
    expected: byIstio('not-injected'),
  },

  // other meshes, and none
  'no mesh': { pod: pod('plain'), expected: byIstio('no-proxy') },
  linkerd: {
    pod: pod('plain', {
      spec: { initContainers: [{ name: 'linkerd-init' }], containers: [{ name: 'linkerd-proxy' }] },
    }),
    expected: byIstio('no-proxy'),
  },
  kuma: {
    pod: pod('plain', { spec: { initContainers: [{ name: 'kuma-init' }, { name: 'kuma-sidecar' }] } }),
    expected: byIstio('no-proxy'),
  },
  consul: {
    pod: pod('plain', { spec: { containers: [{ name: 'consul-dataplane' }] } }),
    expected: byIstio('no-proxy'),
  },

  // the annotation
  'as the original injects': {
    pod: pod('original'),
    expected: { annotation: 'annotation', istio: 'istio', both: 'annotation' },
  },
  'pod true': { pod: pod('plain', yes), expected: { annotation: 'annotation', istio: 'no-proxy', both: 'annotation' } },
  'pod true, as Go reads it': {
    pod: pod('plain', { annotations: { [INITIALIZE]: '1' } }),
    expected: { annotation: 'annotation', istio: 'no-proxy', both: 'annotation' },
  },
  'pod true, in spite of an istio-init': {
    pod: pod('own-init', yes),
    expected: { annotation: 'annotation', istio: 'own-init', both: 'annotation' },
  },
  'pod true, namespace false': {
    pod: pod('native-cni', yes),
    namespace: 'false',
    expected: { annotation: 'annotation', istio: 'istio', both: 'annotation' },
  },
  'pod true, namespace not known': {
    pod: pod('native-cni', yes),
    namespace: null,
    expected: { annotation: 'annotation', istio: 'istio', both: 'annotation' },
  },
  'pod false': { pod: pod('native-cni', no), expected: inEach('opted-out') },
  'pod false, namespace true': { pod: pod('native-cni', no), namespace: 'true', expected: inEach('opted-out') },
  'pod false, namespace not known': { pod: pod('native-cni', no), namespace: null, expected: inEach('opted-out') },
  'namespace true': {
    pod: pod('native-cni'),
    namespace: 'true',
    expected: { annotation: 'annotation', istio: 'istio', both: 'annotation' },
  },
  'namespace true, a proxy that nobody injected': {
    pod: pod('plain', { spec: proxy({}) }),
    namespace: 'true',
    expected: { annotation: 'annotation', istio: 'not-injected', both: 'annotation' },
  },
  'namespace true, no proxy': { pod: pod('plain'), namespace: 'true', expected: inEach('no-proxy') },
  'namespace true, an istio-init': { pod: pod('own-init'), namespace: 'true', expected: inEach('own-init') },
  'namespace true, a gateway': { pod: pod('gateway'), namespace: 'true', expected: inEach('not-a-sidecar') },
  'namespace true, inject false': {
    pod: pod('native-cni', { labels: { 'sidecar.istio.io/inject': 'false' } }),
    namespace: 'true',
    expected: inEach('inject-false'),
  },
  'namespace false': { pod: pod('native-cni'), namespace: 'false', expected: inEach('opted-out') },
  'namespace not known': { pod: pod('native-cni'), namespace: null, expected: inEach('wait') },
  'a word of no meaning on the pod': {
    pod: pod('native-cni', { annotations: { [INITIALIZE]: 'yes' } }),
    namespace: 'true',
    expected: inEach('invalid-annotation'),
  },
  'a word of no meaning on the namespace': {
    pod: pod('native-cni'),
    namespace: '',
    expected: inEach('invalid-annotation'),
  },

  // never, whatever is annotated, and whether the namespace is known or not
  itself: { pod: pod('native-cni', { ...yes, ...self }), namespace: null, expected: inEach('self') },
  succeeded: { pod: pod('native-cni', { ...yes, status: { phase: 'Succeeded' } }), expected: inEach('finished') },
  failed: { pod: pod('native-cni', { ...yes, status: { phase: 'Failed' } }), expected: inEach('finished') },
  running: { pod: pod('native-cni', { status: { phase: 'Running' } }), expected: byIstio('istio') },
  'being deleted': {
    pod: pod('native-cni', { ...yes, metadata: { deletionTimestamp: '2026-08-11T09:14:02Z' } }),
    namespace: null,
    expected: inEach('terminating'),
  },
  "the host's network": {
    pod: pod('native-cni', { ...yes, spec: { hostNetwork: true } }),
    expected: inEach('host-network'),
  },
  'an excluded namespace': {
    pod: pod('native-cni', { ...yes, metadata: { namespace: 'monitoring' } }),
    expected: inEach('excluded-namespace'),
  },
  deployer: {
    pod: pod('native-cni', { annotations: { ...yes.annotations, 'openshift.io/deployer-pod-for.name': 'shop-1' } }),
    expected: inEach('openshift-deployer'),
  },
  'deployer, by label': {
    pod: pod('native-cni', { ...yes, labels: { 'openshift.io/deployer-pod-for.name': 'shop-1' } }),
    expected: inEach('openshift-deployer'),
  },
  build: {
    pod: pod('native-cni', { annotations: { ...yes.annotations, 'openshift.io/build.name': 'shop-1' } }),
    expected: inEach('openshift-build'),
  },
};

for (const [name, { pod, namespace: initialize, expected }] of Object.entries(cases)) {
  const record = initialize === null ? undefined : namespace(initialize);
  for (const [mode, what] of Object.entries(expected) as [PolicyOptions['enroll'], string][]) {
    test(`${name}: ${mode}`, () => {
      const decision = decide(pod, record, options(mode));
      assert.equal(word(decision), what);
      if (!decision.enroll) assert.match(decision.message, /\w/);
    });
  }
}

test('each reason has a case', () => {
  const covered = new Set(Object.values(cases).flatMap(({ expected }) => Object.values(expected)));
  assert.deepEqual(
    (Object.keys(SKIP_REASONS) as SkipReason[]).filter((reason) => !covered.has(reason)),
    [],
  );
});

test('itself, by uid or by name', () => {
  const { uid, namespace: place, name } = pod('native-cni').metadata;
  const reasonFor = (self: PolicyOptions['self']) => {
    return word(decide(pod('native-cni'), namespace(), { ...options('both'), self }));
  };
  assert.equal(reasonFor({ uid }), 'self');
  assert.equal(reasonFor({ namespace: place, name }), 'self');
  assert.equal(reasonFor({ uid: 'another', namespace: place, name }), 'istio');
  assert.equal(reasonFor({ namespace: 'another', name }), 'istio');
  assert.equal(reasonFor({}), 'istio');
});

/** The first of two reasons, where both hold. */
const order: [SkipReason, SkipReason, PodRecord][] = [
  ['self', 'finished', pod('plain', { ...self, status: { phase: 'Failed' } })],
  ['finished', 'host-network', pod('plain', { spec: { hostNetwork: true }, status: { phase: 'Failed' } })],
  ['host-network', 'opted-out', pod('plain', { ...no, spec: { hostNetwork: true } })],
  ['own-init', 'inject-false', pod('own-init', { labels: { 'sidecar.istio.io/inject': 'false' } })],
  ['envoy-disabled', 'inject-false', pod('plain', { spec: env('1'), labels: { 'sidecar.istio.io/inject': 'false' } })],
  ['not-a-sidecar', 'inject-false', pod('gateway', { annotations: { 'sidecar.istio.io/inject': 'false' } })],
];
for (const [first, second, pod] of order) {
  test(`${first} is said before ${second}`, () => {
    assert.equal(word(decide(pod, namespace(), options('both'))), first);
  });
}

test('messages name what decided', () => {
  const say = (record: PodRecord, initialize?: string) => {
    const decision = decide(record, namespace(initialize), options('both'));
    return decision.enroll ? '' : decision.message;
  };
  const invalid = `annotation ${INITIALIZE} of the pod: "yes": not a boolean; expected true or false`;
  assert.equal(say(pod('plain', { annotations: { [INITIALIZE]: 'yes' } })), invalid);
  assert.ok(
    say(pod('plain'), 'yes').includes(`annotation ${INITIALIZE} of namespace bookinfo: "yes"`),
    say(pod('plain'), 'yes'),
  );
  assert.ok(
    say(pod('native-cni'), 'false').includes('namespace bookinfo is annotated'),
    say(pod('native-cni'), 'false'),
  );
  assert.ok(say(pod('gateway')).includes('"router"'), say(pod('gateway')));
});
