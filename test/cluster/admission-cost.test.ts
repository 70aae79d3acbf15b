/**
 * Measures what the chart's admission policies cost the API server, by the length of each list and map in the objects
 * that they evaluate. A pod's creator chooses these lengths. A doubled length may cost about twice as much, but not
 * four times. Each length is doubled twice, so that noise matters less.
 *
 * Two requests that differ in our policies alone are compared, so that the API server's own cost is taken out: one to a
 * namespace that is excluded, or by an account that is not fenced in, and one to a namespace or by an account that is
 * not.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { get, type RequestOptions } from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import type { V1Container, V1ObjectMeta, V1Pod, V1PodSpec, V1PodStatus } from '@kubernetes/client-node';
import { DOMAIN, STATUS } from '../../lib/istio/names.ts';
import type { ApiClient, ApiError } from '../../lib/kube/client.ts';
import { READY } from '../../lib/kube/status.ts';
import { suite } from '../suite.ts';
import { configOf, kubeOf } from '../support/kubeconfig.ts';
import { type ControlPlane, startControlPlane } from './control-plane.ts';
import { istioContainers, volumesOf } from './istiod-webhook.ts';
import { INITIALIZE } from './mesh-pod.ts';
import { until } from './pods.ts';
import { applyPolicy, RELEASE_NAMESPACE } from './policies.ts';

const test = suite('cluster, cost of admission');
test.needs('cluster');

/**
 * A list's length, and that length doubled twice: what grows with the square of the longer one costs a second or more.
 */
const LENGTHS = [2_500, 10_000] as const;
/** Of the cost, for each doubling. */
const DOUBLING_LIMIT = 2.5;
/** What cannot be told from noise: ms, and a part of what the API server costs by itself. */
const NOISE_MS = 15;
const NOISE_PART = 0.25;
const ROUNDS = 12;
const TEST_LIMIT_MS = 300_000;
/** Longer than a busy machine takes for the longest list. */
const REQUEST = { timeoutMs: 60_000 };

const ACCOUNT = 'istio-pod-network-controller';
const NODE = 'one';
/** No policy of ours looks at it. */
const EXCLUDED = 'excluded';
const PLAIN = 'plain';
/** Its annotation enrols its pods. */
const ENROLLED = 'enrolled';
/** Where a policy looks whose cost grows with the square. */
const QUADRATIC = 'quadratic';
const INJECTED = { 'sidecar.istio.io/status': '{}' };

let controlPlane: ControlPlane;
let admin: ApiClient;
/** One is fenced in, the other has the same rights. */
let fenced: ApiClient;
let free: ApiClient;
const clients: ApiClient[] = [];

test.before(async () => {
  // Go's collector would charge one request for the garbage of others: it works only when it is told to, see collect().
  controlPlane = await startControlPlane({
    apiServerFlags: { profiling: 'true' },
    environment: { GOGC: 'off', GOMEMLIMIT: '3GiB' },
  });
  admin = connect(controlPlane.kubeconfig);
  await admin.post('/api/v1/nodes', { metadata: { name: NODE } });
  const larges = LENGTHS.map((length) => ({ length, names: [large(length), large(length, EXCLUDED)] }));
  const annotations = new Map<string, Record<string, string>>([
    ...[EXCLUDED, PLAIN, QUADRATIC, RELEASE_NAMESPACE].map((name) => [name, {}] as const),
    [ENROLLED, { [INITIALIZE]: 'true' }],
    ...larges.flatMap(({ length, names }) => names.map((name) => [name, map(length)] as const)),
  ]);
  for (const [name, each] of annotations) {
    await admin.post('/api/v1/namespaces', { metadata: { name, annotations: each } });
    await admin.post(`/api/v1/namespaces/${name}/serviceaccounts`, { metadata: { name: 'default' } });
  }
  const rbac = '/apis/rbac.authorization.k8s.io/v1';
  const rules = [{ apiGroups: ['*'], resources: ['*'], verbs: ['*'] }];
  await admin.post(`${rbac}/clusterroles`, { metadata: { name: 'all' }, rules });
  const roleRef = { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'all' };
  const accounts = [ACCOUNT, 'free'].map((name) => ({ namespace: RELEASE_NAMESPACE, name }));
  const subjects = accounts.map((account) => ({ kind: 'ServiceAccount', ...account }));
  await admin.post(`${rbac}/clusterrolebindings`, { metadata: { name: 'all' }, roleRef, subjects });
  const connected = accounts.map(async (account) => {
    await admin.post(`/api/v1/namespaces/${RELEASE_NAMESPACE}/serviceaccounts`, { metadata: { name: account.name } });
    return connect(await controlPlane.kubeconfigFor(account, { node: NODE }));
  });
  [fenced, free] = (await Promise.all(connected)) as [ApiClient, ApiClient];

  await applyPolicy(controlPlane, 'templates/fence.yaml');
  const excluded = [EXCLUDED, QUADRATIC, ...larges.map(({ length }) => large(length, EXCLUDED))];
  // It has all that the policy with injection.wait=init has.
  const injectionValues = ['injection.wait=sidecar', `excludeNamespaces={${excluded}}`];
  await applyPolicy(controlPlane, 'templates/injection-policy.yaml', ...injectionValues);
  const policy = { name: QUADRATIC };
  const registration = '/apis/admissionregistration.k8s.io/v1';
  await admin.post(`${registration}/validatingadmissionpolicies`, {
    metadata: policy,
    spec: {
      matchConstraints: {
        namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': QUADRATIC } },
        resourceRules: [{ apiGroups: [''], apiVersions: ['v1'], operations: ['CREATE'], resources: ['pods'] }],
      },
      validations: [
        { expression: "!object.spec.containers.exists(each, each.?args.orValue([]).exists(word, word == 'no'))" },
      ],
    },
  });
  await admin.post(`${registration}/validatingadmissionpolicybindings`, {
    metadata: policy,
    spec: { policyName: QUADRATIC, validationActions: ['Deny'] },
  });
  const long = application();
  Object.assign(long.spec, { volumes: numbered(1001, (name) => ({ name, emptyDir: {} })) });
  const refused = application();
  Object.assign(refused.spec.containers[0] ?? {}, { args: ['no'] });
  const inForce = {
    fence: () => fenced.post(`/api/v1/namespaces/${PLAIN}/pods`, application()),
    'fence of Events': () => fenced.post(EVENTS, event({ labels: { x: 'y' } })),
    'injection, its limit': () => admin.post(podsOf(ENROLLED), long),
    'the policy that is quadratic': () => admin.post(podsOf(QUADRATIC), refused),
  };
  for (const [what, request] of Object.entries(inForce)) {
    const probe = () => request().then(String, (error: ApiError) => error.message);
    await until(`in force: ${what}`, probe, (answer) => answer.includes('ValidatingAdmissionPolicy'));
  }
});
test.after(async () => {
  for (const client of clients) client.close();
  await controlPlane?.stop();
});

function connect(kubeconfig: string): ApiClient {
  const client = kubeOf(kubeconfig);
  clients.push(client);
  return client;
}

const EVENTS = `/apis/events.k8s.io/v1/namespaces/${PLAIN}/events`;
const event = (metadata: V1ObjectMeta) => ({
  metadata: { generateName: 'x-', namespace: PLAIN, ...metadata },
  eventTime: '2026-01-01T00:00:00.000000Z',
  type: 'Normal',
  reason: 'Initialized',
  action: 'Redirect',
  regarding: { apiVersion: 'v1', kind: 'Pod', namespace: PLAIN, name: 'x' },
  reportingController: DOMAIN,
  reportingInstance: NODE,
});
/** A namespace with as many annotations. */
const large = (length: number, kind = PLAIN) => `${kind}-${length}`;
const podsOf = (namespace: string) => `/api/v1/namespaces/${namespace}/pods?dryRun=All`;

/** Processor time of kube-apiserver so far, ms. */
function used(): number {
  const tasks = `/proc/${controlPlane.services.get('kube-apiserver')?.pid()}/task`;
  const times = readdirSync(tasks).map((id) => readFileSync(`${tasks}/${id}/schedstat`, 'utf8').split(' ')[0]);
  return times.reduce((sum, nanoseconds) => sum + Number(nanoseconds), 0) / 1e6;
}

/** Waits until the API server has nothing more to do; resolves with what it has used until then. */
async function settled(): Promise<number> {
  for (let before = used(); ; ) {
    await sleep(20);
    const now = used();
    if (now - before < 3) return now;
    before = now;
  }
}

/** Makes the API server collect its garbage, as an administrator may who asks for its heap's profile. */
async function collect(): Promise<void> {
  const options: RequestOptions = { agent: false };
  await configOf(controlPlane.kubeconfig).applyToHTTPSOptions(options);
  const { resolve, reject, promise } = Promise.withResolvers<number | undefined>();
  get(`${controlPlane.server}/debug/pprof/heap?gc=1`, options, (response) => {
    response.resume();
    response.once('end', () => resolve(response.statusCode));
  }).once('error', reject);
  assert.equal(await promise, 200);
}

/** Whatever the answer is. */
async function costOf(request: () => Promise<unknown>): Promise<number> {
  await collect();
  const before = await settled();
  await request().catch((error: ApiError) => {
    if (error.status === undefined) throw error;
  });
  return (await settled()) - before;
}

interface Pair {
  /** As our policies see it. */
  seen: () => Promise<unknown>;
  /** The same, unseen. */
  unseen: () => Promise<unknown>;
}

/** Processor time of kube-apiserver, ms, for each of LENGTHS: the smallest of all rounds. */
interface Costs {
  seen: [number, number];
  unseen: [number, number];
}

/** How much more the policies cost for each doubling of the length. What cannot be told from noise is no growth. */
function growthOf({ seen, unseen }: Costs): number {
  const [short, long] = [0, 1].map((at) => {
    const noise = Math.max(NOISE_MS, NOISE_PART * (unseen[at] ?? 0));
    return { cost: (seen[at] ?? 0) - (unseen[at] ?? 0), noise };
  });
  if (short === undefined || long === undefined || long.cost < long.noise) return 1;
  return (long.cost / Math.max(short.cost, short.noise)) ** (1 / Math.log2(LENGTHS[1] / LENGTHS[0]));
}

/** In turns, until it is clear that the cost does not grow with the square of the length. */
async function measure(pair: (length: number) => Pair): Promise<Costs> {
  const costs: Costs = { seen: [Infinity, Infinity], unseen: [Infinity, Infinity] };
  for (let round = 0; round < ROUNDS; round++) {
    for (const at of [0, 1] as const) {
      const each = pair(LENGTHS[at]);
      for (const which of ['unseen', 'seen'] as const) {
        costs[which][at] = Math.min(costs[which][at], Math.round(await costOf(each[which])));
      }
    }
    if (growthOf(costs) < DOUBLING_LIMIT) break;
  }
  return costs;
}

async function linear(pair: (length: number) => Pair): Promise<void> {
  const costs = await measure(pair);
  const factor = growthOf(costs);
  assert.ok(
    factor < DOUBLING_LIMIT,
    `twice the length costs ${factor.toFixed(1)} times as much: ${JSON.stringify(costs)}`,
  );
}

const numbered = <T>(length: number, make: (name: string, at: number) => T): T[] =>
  Array.from({ length }, (_, at) => make(`x${at}`, at));
const map = (length: number, value = '') => Object.fromEntries(numbered(length, (name) => [name, value]));

type Body = V1Pod & { metadata: V1ObjectMeta; spec: V1PodSpec };
type Lists<T> = Record<string, (length: number) => Partial<T>>;

const METADATA: Lists<V1ObjectMeta> = {
  annotations: (length) => ({ annotations: map(length) }),
  labels: (length) => ({ labels: map(length) }),
  finalizers: (length) => ({ finalizers: numbered(length, (name) => `example.com/${name}`) }),
  ownerReferences: (length) => ({
    ownerReferences: numbered(length, (uid) => ({ apiVersion: 'v1', kind: 'Node', name: 'x', uid })),
  }),
};
const SPEC: Lists<V1PodSpec> = {
  containers: (length) => ({ containers: numbered(length, (name) => ({ name, image: 'x' })) }),
  initContainers: (length) => ({ initContainers: numbered(length, (name) => ({ name, image: 'x' })) }),
  volumes: (length) => ({ volumes: numbered(length, (name) => ({ name, emptyDir: {} })) }),
  tolerations: (length) => ({ tolerations: numbered(length, (key) => ({ key, operator: 'Exists' })) }),
  readinessGates: (length) => ({ readinessGates: numbered(length, (conditionType) => ({ conditionType })) }),
  nodeSelector: (length) => ({ nodeSelector: map(length) }),
  imagePullSecrets: (length) => ({ imagePullSecrets: numbered(length, (name) => ({ name })) }),
  hostAliases: (length) => ({ hostAliases: numbered(length, (name) => ({ ip: '192.0.2.1', hostnames: [name] })) }),
  schedulingGates: (length) => ({ schedulingGates: numbered(length, (name) => ({ name })) }),
  resourceClaims: (length) => ({ resourceClaims: numbered(length, (name) => ({ name, resourceClaimName: name })) }),
  topologySpreadConstraints: (length) => ({
    topologySpreadConstraints: numbered(length / 4, (topologyKey) => ({
      topologyKey,
      maxSkew: 1,
      whenUnsatisfiable: 'x',
    })),
  }),
  'securityContext.supplementalGroups': (length) => ({
    securityContext: { supplementalGroups: numbered(length, (_, at) => at) },
  }),
  'securityContext.sysctls': (length) => ({
    securityContext: { sysctls: numbered(length, (name) => ({ name, value: '' })) },
  }),
  'dnsConfig.options': (length) => ({ dnsConfig: { options: numbered(length, (name) => ({ name })) } }),
};
/** A quarter where the API server's own cost grows with the square. */
const CONTAINER: Lists<V1Container> = {
  args: (length) => ({ args: numbered(length, (word) => word) }),
  command: (length) => ({ command: numbered(length, (word) => word) }),
  env: (length) => ({ env: numbered(length, (name) => ({ name })) }),
  envFrom: (length) => ({ envFrom: numbered(length, (name) => ({ configMapRef: { name } })) }),
  ports: (length) => ({ ports: numbered(length, (_, at) => ({ containerPort: 1 + at })) }),
  volumeMounts: (length) => ({ volumeMounts: numbered(length / 4, (name) => ({ name, mountPath: name })) }),
  volumeDevices: (length) => ({ volumeDevices: numbered(length / 4, (name) => ({ name, devicePath: name })) }),
  resizePolicy: (length) => ({
    resizePolicy: numbered(length / 4, (resourceName) => ({ resourceName, restartPolicy: 'NotRequired' })),
  }),
  'securityContext.capabilities.add': (length) => ({
    securityContext: { capabilities: { add: numbered(length, (name) => name) } },
  }),
  // The API server's own cost grows with the square of these, so fewer are asked for.
  'resources.limits': (length) => ({ resources: { limits: map(length / 4, '1') } }),
  'resources.requests': (length) => ({ resources: { requests: map(length / 4, '1') } }),
  'resources.claims': (length) => ({ resources: { claims: numbered(length / 4, (name) => ({ name })) } }),
};

function application(annotations: Record<string, string> = {}): Body {
  return {
    metadata: { generateName: 'web-', annotations },
    spec: {
      automountServiceAccountToken: false,
      initContainers: [{ name: 'migrate', image: 'x' }],
      containers: [{ name: 'web', image: 'x' }],
    },
  };
}

/** The gate goes into the sidecar of this one. */
function injected(annotations: Record<string, string> = {}): Body {
  const { init, proxy } = istioContainers(true);
  const body = application({ ...INJECTED, ...annotations });
  Object.assign(body.spec, { initContainers: [init, proxy], volumes: volumesOf(proxy) });
  return body;
}

/** And takes the place of the init container of this one. */
function ordinary(): Body {
  const { init, proxy } = istioContainers(false);
  const body = application(INJECTED);
  Object.assign(body.spec, { initContainers: [init], volumes: volumesOf(proxy) });
  body.spec.containers.push(proxy);
  return body;
}

/** For the other kinds only what our expressions name is grown: the rest is the same to them. */
const KINDS: { kind: string; namespace: string; make: () => Body; every?: boolean }[] = [
  { kind: 'not enrolled', namespace: PLAIN, make: application },
  { kind: 'injected', namespace: PLAIN, make: injected, every: true },
  { kind: 'injected, with an ordinary sidecar', namespace: PLAIN, make: ordinary },
  { kind: 'kept out', namespace: ENROLLED, make: () => injected({ [INITIALIZE]: 'false' }) },
  { kind: 'enrolled by itself', namespace: PLAIN, make: () => application({ [INITIALIZE]: 'true' }) },
  { kind: 'enrolled by its namespace', namespace: ENROLLED, make: application },
];
const NAMED =
  /annotations|labels|spec\.(initContainers|containers|volumes)|args|command|env\b|capabilities|limits|requests/;

/** What is there goes before it. */
function extend<T extends object>(target: T, addition: Partial<T>): void {
  for (const [key, added] of Object.entries(addition) as [keyof T, unknown][]) {
    const before: unknown = target[key];
    const value = Array.isArray(before)
      ? [...before, ...(added as unknown[])]
      : typeof before === 'object'
        ? { ...before, ...(added as object) }
        : added;
    Object.assign(target, { [key]: value });
  }
}

function createdIn(namespace: string, unseen: string, body: Body): Pair {
  const create = (where: string) => () => admin.post(podsOf(where), body, REQUEST);
  return { seen: create(namespace), unseen: create(unseen) };
}

const containersOf = ({ spec }: Body) => [...(spec.initContainers ?? []), ...spec.containers];

for (const { kind, namespace, make, every = false } of KINDS) {
  const grown: [what: string, grow: (body: Body, length: number) => void][] = [
    ...Object.entries(METADATA).map(([list, of]) => {
      return [`metadata.${list}`, (body: Body, length: number) => extend(body.metadata, of(length))] as const;
    }),
    ...Object.entries(SPEC).map(([list, of]) => {
      return [`spec.${list}`, (body: Body, length: number) => extend(body.spec, of(length))] as const;
    }),
  ].map(([what, grow]) => [what, grow]);
  for (const [list, of] of Object.entries(CONTAINER)) {
    const grow = (body: Body, length: number) => {
      for (const container of containersOf(body)) extend(container, of(length / 2));
    };
    grown.push([`${list} of each container`, grow]);
  }
  for (const [what, grow] of grown.filter(([what]) => every || NAMED.test(what))) {
    test(
      `a pod, ${kind}: ${what}`,
      () =>
        linear((length) => {
          const body = make();
          grow(body, length);
          return createdIn(namespace, EXCLUDED, body);
        }),
      { timeoutMs: TEST_LIMIT_MS },
    );
  }
}

test(
  'a pod, enrolled by itself: metadata.annotations of its namespace',
  () =>
    linear((length) => {
      const body = application({ [INITIALIZE]: 'true' });
      return createdIn(large(length), large(length, EXCLUDED), body);
    }),
  { timeoutMs: TEST_LIMIT_MS },
);

test(
  'a policy whose cost grows with the square is found',
  async () => {
    const pair = (length: number) => {
      const body = application();
      extend(body.spec.containers[0] ?? {}, CONTAINER.args?.(2 * length) ?? {});
      return createdIn(QUADRATIC, EXCLUDED, body);
    };
    const costs = await measure(pair);
    assert.ok(growthOf(costs) > 3, JSON.stringify(costs));
  },
  { timeoutMs: TEST_LIMIT_MS },
);

const STATUS_LISTS: Lists<V1PodStatus> = {
  // The API server merges them in time that grows with the square.
  conditions: (length) => ({ conditions: numbered(length / 10, (type) => ({ type, status: 'True' })) }),
  containerStatuses: (length) => ({
    containerStatuses: numbered(length / 4, (name) => ({
      name,
      ready: true,
      restartCount: 0,
      image: '',
      imageID: '',
    })),
  }),
};
const MARK = {
  metadata: { annotations: { [STATUS]: 'initialized' } },
  status: { conditions: [{ type: READY, status: 'True' }] },
};
/** Stored, so that what is too long for etcd cannot be among them. */
const STORED = ['annotations', 'labels', 'ownerReferences'];
const STORED_SPEC = ['containers', 'volumes', 'tolerations', 'readinessGates'];

function marks(what: string, make: (length: number) => { body: Body; status?: Partial<V1PodStatus> }): void {
  test(
    `a mark on a pod: ${what}`,
    async () => {
      const stored = new Map<number, string>();
      for (const length of LENGTHS) {
        const { body, status } = make(length);
        const name = `marked-${length}-${what.toLowerCase().replaceAll('.', '-')}`;
        Object.assign(body.metadata, { name });
        Object.assign(body.spec, { nodeName: NODE });
        await admin.post(`/api/v1/namespaces/${EXCLUDED}/pods`, body);
        const path = `/api/v1/namespaces/${EXCLUDED}/pods/${name}/status`;
        if (status) await admin.patch(path, 'merge', { status });
        stored.set(length, `${path}?dryRun=All`);
      }
      await linear((length) => {
        const mark = (by: ApiClient) => () => by.patch(stored.get(length) ?? '', 'strategic', MARK, REQUEST);
        return { seen: mark(fenced), unseen: mark(free) };
      });
    },
    { timeoutMs: TEST_LIMIT_MS },
  );
}

for (const list of STORED) {
  marks(`metadata.${list}`, (length) => {
    const body = application();
    extend(body.metadata, METADATA[list]?.(length) ?? {});
    return { body };
  });
}
for (const list of STORED_SPEC) {
  marks(`spec.${list}`, (length) => {
    const body = application();
    extend(body.spec, SPEC[list]?.(length / 4) ?? {});
    return { body };
  });
}
for (const [list, of] of Object.entries(STATUS_LISTS)) {
  marks(`status.${list}`, (length) => ({ body: application(), status: of(length) }));
}

for (const [list, of] of Object.entries(METADATA)) {
  test(
    `an Event: metadata.${list}`,
    () =>
      linear((length) => {
        const send = (by: ApiClient) => () => by.post(`${EVENTS}?dryRun=All`, event(of(length)), REQUEST);
        return { seen: send(fenced), unseen: send(free) };
      }),
    { timeoutMs: TEST_LIMIT_MS },
  );
}
