/**
 * The fence restricts the controller's account, although the test gives the account more rights than the chart does.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import type { CoreV1Api, V1BoundObjectReference, V1Pod } from '@kubernetes/client-node';
import type { Failure } from '../../lib/errors.ts';
import { DOMAIN, NETNS, STATUS } from '../../lib/istio/names.ts';
import { type ApiClient, ApiError } from '../../lib/kube/client.ts';
import { EventRecorder } from '../../lib/kube/events.ts';
import { failed, type MarkedPod, PodStatusWriter, READY } from '../../lib/kube/status.ts';
import { suite } from '../suite.ts';
import { kubeOf } from '../support/kubeconfig.ts';
import { type ControlPlane, coreApi, startControlPlane } from './control-plane.ts';
import { controllerPod, SYSTEM } from './controller-process.ts';
import { INITIALIZE, isInitialized, Mesh, meshPod, NAMESPACE, plainPod } from './mesh-pod.ts';
import { writeKubeconfig } from './pki.ts';
import { pod, runPod, toolbox, until } from './pods.ts';
import { applyPolicy, RELEASE_NAMESPACE, renderPolicy } from './policies.ts';

const test = suite('cluster, fence');
test.needs('cluster');

const ACCOUNT = 'istio-pod-network-controller';
const TEMPLATE = 'templates/fence.yaml';
const namespace = 'default';
const KUBELETS = {
  phase: 'Running',
  conditions: [
    { type: 'PodScheduled', status: 'True', lastTransitionTime: '2026-01-01T00:00:00Z' },
    { type: 'Ready', status: 'True', lastTransitionTime: '2026-01-01T00:00:01Z' },
  ],
  containerStatuses: [{ name: 'toolbox', ready: true, restartCount: 0, image: 'toolbox', imageID: '' }],
};

let controlPlane: ControlPlane;
let admin: ApiClient;
let core: CoreV1Api;
/** Its token is what the kubelet of node `one` mounts in the controller's pod. */
let controller: ApiClient;
let controllersCore: CoreV1Api;
let unbound: ApiClient;
const kubes: ApiClient[] = [];

test.before(async () => {
  controlPlane = await startControlPlane();
  admin = connect(controlPlane.kubeconfig);
  core = coreApi(controlPlane.kubeconfig);
  await admin.post('/api/v1/namespaces', { metadata: { name: RELEASE_NAMESPACE } });
  const accounts = [
    [namespace, 'default'],
    [RELEASE_NAMESPACE, ACCOUNT],
    [RELEASE_NAMESPACE, 'other'],
  ];
  for (const [where, name] of accounts) {
    await admin.post(`/api/v1/namespaces/${where}/serviceaccounts`, { metadata: { name } });
  }
  // What RBAC would refuse is for the fence to refuse.
  const rbac = '/apis/rbac.authorization.k8s.io/v1';
  const rules = [{ apiGroups: ['', 'events.k8s.io'], resources: ['*'], verbs: ['*'] }];
  await admin.post(`${rbac}/clusterroles`, { metadata: { name: 'too-wide' }, rules });
  await admin.post(`${rbac}/clusterrolebindings`, {
    metadata: { name: 'too-wide' },
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'too-wide' },
    subjects: [ACCOUNT, 'other'].map((name) => ({ kind: 'ServiceAccount', namespace: RELEASE_NAMESPACE, name })),
  });
  for (const name of ['one', 'two']) await admin.post('/api/v1/nodes', { metadata: { name } });
  await applyPolicy(controlPlane, TEMPLATE);
  const kubeconfig = await tokenOf(ACCOUNT, 'one');
  controller = connect(kubeconfig);
  controllersCore = coreApi(kubeconfig);
  unbound = connect(await tokenOf(ACCOUNT));
  const { name } = await create('first');
  const probe = async () => {
    const labels = { probe: randomUUID() };
    return patch(controller, name, { metadata: { labels } }).catch((error: ApiError) => error.status);
  };
  await until('in force: the fence', probe, (answer) => answer === 422);
  const tell = () =>
    controller.post(EVENTS, event({ reportingInstance: 'two' })).catch((error: ApiError) => error.status);
  await until('in force: the fence of Events', tell, (answer) => answer === 422);
});
test.after(async () => {
  for (const kube of kubes) kube.close();
  await controlPlane?.stop();
});

function connect(kubeconfig: string): ApiClient {
  const kube = kubeOf(kubeconfig);
  kubes.push(kube);
  return kube;
}

/** As the kubelet asks for it: bound to a pod, and so to the pod's node. */
async function tokenOf(account: string, node?: string): Promise<string> {
  let boundObjectRef: V1BoundObjectReference | undefined;
  if (node !== undefined) {
    const body = pod(`${account}-${node}`, { nodeName: node, containers: [toolbox('toolbox', 'help')] });
    body.spec = { ...body.spec, containers: body.spec?.containers ?? [], serviceAccountName: account };
    const holder = (await admin.post(`/api/v1/namespaces/${RELEASE_NAMESPACE}/pods`, body)) as V1Pod;
    const { name = '', uid = '' } = holder.metadata ?? {};
    boundObjectRef = { apiVersion: 'v1', kind: 'Pod', name, uid };
  }
  const { status } = await core.createNamespacedServiceAccountToken({
    namespace: RELEASE_NAMESPACE,
    name: account,
    body: { spec: { audiences: [], ...(boundObjectRef && { boundObjectRef }) } },
  });
  const file = `${controlPlane.sandbox.folder}/${account}-${node}.kubeconfig`;
  return writeKubeconfig(file, controlPlane.server, controlPlane.authority.cert, { token: status?.token ?? '' });
}

/** As it stands on its node, with what the kubelet and others wrote. */
async function create(name: string, nodeName = 'one', metadata: V1Pod['metadata'] = {}): Promise<MarkedPod> {
  const body = pod(name, { nodeName, containers: [toolbox('toolbox', 'help')] });
  body.metadata = { ...body.metadata, annotations: { other: 'kept' }, ...metadata };
  const { metadata: made } = (await admin.post(`/api/v1/namespaces/${namespace}/pods`, body)) as V1Pod;
  await patch(admin, name, { status: KUBELETS });
  return { uid: made?.uid ?? '', namespace, name, resourceVersion: made?.resourceVersion ?? '' };
}

const patch = (as: ApiClient, name: string, content: unknown) =>
  as.patch(`/api/v1/namespaces/${namespace}/pods/${name}/status`, 'strategic', content);

/** What client-node knows of it, in JSON. */
const read = async (name: string) =>
  JSON.parse(JSON.stringify(await core.readNamespacedPod({ namespace, name }))) as V1Pod;

/** As the API server answers, or as PodStatusWriter explains that. */
const refused = (reason: RegExp) => (error: Failure) => {
  const { status } = error instanceof ApiError ? error : {};
  assert.ok(error.code === 'ERR_FENCED' || status === 422, error.code);
  assert.match(error.message, /istio-pod-network-controller-fence/);
  assert.match(error.message, reason);
  return true;
};

const EVENTS = `/apis/events.k8s.io/v1/namespaces/${namespace}/events`;

/** As the controller of node `one` sends them. */
const event = (changes: object = {}) => ({
  metadata: { generateName: 'pod-network-controller-', namespace },
  eventTime: '2026-01-01T00:00:00.000000Z',
  type: 'Normal',
  reason: 'Initialized',
  action: 'Redirect',
  note: 'rules',
  regarding: { apiVersion: 'v1', kind: 'Pod', namespace, name: 'main', uid: 'u' },
  reportingController: DOMAIN,
  reportingInstance: 'one',
  ...changes,
});

test('marks, in each of their forms, pass', async () => {
  const marked = await create('marked');
  const marker = new PodStatusWriter(controller);
  assert.equal(await marker.mark(marked, { status: 'initialized', netns: 'boot:7', rules: 'abc' }), 'patched');
  assert.equal((await read('marked')).metadata?.annotations?.[NETNS], 'boot:7');
  assert.equal(await marker.mark(marked, failed(new Error('no netns'))), 'patched');
  assert.equal((await read('marked')).metadata?.annotations?.[STATUS], 'failed: an unexpected error: no netns');
  assert.equal(await marker.unmark(marked), 'patched');
  const { metadata, status } = await read('marked');
  assert.deepEqual(metadata?.annotations, { other: 'kept' });
  assert.equal(status?.conditions?.length, 2);
});

test('a pod without an annotation or condition, and one that is being deleted, are marked too', async () => {
  const bare = await create('bare', 'one', { annotations: {} });
  await patch(admin, 'bare', { status: { conditions: [{ $patch: 'replace' }] } });
  const going = await create('going', 'one', { finalizers: ['example.com/wait'] });
  await admin.post(`/api/v1/namespaces/${namespace}/pods/going/eviction`, { metadata: { name: 'going', namespace } });
  assert.equal(typeof (await read('going')).metadata?.deletionTimestamp, 'string');
  for (const each of [bare, going]) {
    assert.equal(await new PodStatusWriter(controller).mark(each, failed(new Error('late'))), 'patched');
  }
});

test('concurrent writes of other clients do not matter', async () => {
  const busy = await create('busy');
  const others = Array.from({ length: 10 }, (_, at) =>
    patch(admin, 'busy', {
      metadata: { labels: { [`l${at}`]: 'x' } },
      status: { conditions: [{ type: `example.com/${at}`, status: 'True' }] },
    }),
  );
  const mark = new PodStatusWriter(controller).mark(busy, { status: 'initialized', netns: 'boot:7', rules: 'abc' });
  await Promise.all([...others, mark]);
  assert.equal((await read('busy')).status?.conditions?.length, 13);
});

const others: [what: string, content: unknown, reason: RegExp][] = [
  ['a label', { metadata: { labels: { app: 'x' } } }, /not metadata\.labels/],
  ['a label taken away', { metadata: { labels: { app: null } } }, /not metadata\.labels/],
  ['a finalizer', { metadata: { finalizers: ['example.com/x'] } }, /not metadata\.finalizers/],
  ["another's annotation", { metadata: { annotations: { other: 'x' } } }, /annotations .*, not other/],
  ["another's annotation, taken away", { metadata: { annotations: { other: null } } }, /annotations .*, not other/],
  [
    'an annotation of our domain that sets options',
    { metadata: { annotations: { 'pod-network-controller.istio.io/envoy-userid': '0' } } },
    /annotations .*, not pod-network-controller\.istio\.io\/envoy-userid/,
  ],
  ['a long annotation', { metadata: { annotations: { [STATUS]: 'x'.repeat(2049) } } }, /at most 2048 characters/],
  [
    'a long condition',
    { status: { conditions: [{ type: READY, status: 'False', message: 'x'.repeat(2049) }] } },
    /at most 2048 characters/,
  ],
  [
    'more annotations than are compared',
    { metadata: { annotations: Object.fromEntries(Array.from({ length: 1001 }, (_, at) => [`x${at}`, ''])) } },
    /the pod has more than 1000 annotations/,
  ],
  [
    'more conditions than are compared',
    { status: { conditions: Array.from({ length: 101 }, (_, at) => ({ type: `x${at}`, status: 'True' })) } },
    /the pod has more than 100 conditions/,
  ],
  [
    'a new annotation, beside ours',
    { metadata: { annotations: { [STATUS]: 'initialized', 'pod-network-controller.istio.io.example/x': 'y' } } },
    /annotations .*, not pod-network-controller\.istio\.io\.example\/x/,
  ],
  ['the phase', { status: { phase: 'Failed' } }, /not status\.phase/],
  ['an address', { status: { podIP: '10.0.0.9', podIPs: [{ ip: '10.0.0.9' }] } }, /not status\.podIP/],
  [
    'a container',
    { status: { containerStatuses: [{ name: 'toolbox', ready: false }] } },
    /not status\.containerStatuses/,
  ],
  ['no containers', { status: { containerStatuses: null } }, /not status\.containerStatuses/],
  [
    "the kubelet's condition",
    { status: { conditions: [{ type: 'Ready', status: 'False' }] } },
    /condition .*, not Ready/,
  ],
  [
    "the kubelet's condition, taken away",
    { status: { conditions: [{ type: 'Ready', $patch: 'delete' }] } },
    /condition .*, not Ready/,
  ],
  [
    'a new condition, beside ours',
    {
      status: {
        conditions: [
          { type: READY, status: 'True' },
          { type: 'example.com/x', status: 'True' },
        ],
      },
    },
    /condition .*, not example\.com\/x/,
  ],
  [
    'another condition of our domain',
    { status: { conditions: [{ type: `${READY}-to-be`, status: 'True' }] } },
    /condition .*, not pod-network-controller\.istio\.io\/ready-to-be/,
  ],
];
for (const [what, content, reason] of others) {
  test(`refused: ${what}`, async () => {
    const name = `not-${others.findIndex(([each]) => each === what)}`;
    await create(name);
    const before = await read(name);
    await assert.rejects(patch(controller, name, content), refused(reason));
    assert.deepEqual(await read(name), before);
    await patch(admin, name, content);
  });
}

test('refused: a further field manager, where there are a hundred', async () => {
  const crowded = await create('crowded');
  const manager = (at: number) => ({
    manager: `m${at}`,
    operation: 'Apply',
    apiVersion: 'v1',
    time: '2026-01-01T00:00:00Z',
    fieldsType: 'FieldsV1',
    fieldsV1: { 'f:metadata': { 'f:labels': { 'f:app': {} } } },
  });
  const managedFields = Array.from({ length: 100 }, (_, at) => manager(at));
  await admin.patch(`/api/v1/namespaces/${namespace}/pods/crowded`, 'merge', { metadata: { managedFields } });
  const mark = new PodStatusWriter(controller).mark(crowded, failed(new Error('late')));
  await assert.rejects(mark, refused(/may not add to metadata\.managedFields if it has more than 100 entries/));
});

test('a pod as large as etcd takes cannot be marked, and that is known for good', async () => {
  const path = `/api/v1/namespaces/${namespace}/pods`;
  const body = (size: number) => pod('huge', { nodeName: 'one', containers: [toolbox('toolbox', 'x'.repeat(size))] });
  let size = 1.5 * 2 ** 20;
  let made: V1Pod | undefined;
  for (; made === undefined; size -= 128) {
    made = (await admin.post(path, body(size)).catch((error: ApiError) => {
      assert.equal(error.code, 'ERR_API_TOO_LARGE');
      return undefined;
    })) as V1Pod | undefined;
  }
  const huge = { uid: made.metadata?.uid ?? '', namespace, name: 'huge' };
  const mark = new PodStatusWriter(controller).mark(huge, failed(new Error('x'.repeat(1000))));
  await assert.rejects(mark, (error: Failure) => error.code === 'ERR_API_TOO_LARGE' && error.retry === 'no');
});

test('names as long as they can be are no obstacle', async () => {
  const long = await create(`${'x'.repeat(250)}.yz`, 'one', { labels: {} });
  assert.equal(await new PodStatusWriter(controller).mark(long, failed(new Error('y'.repeat(5000)))), 'patched');
  await controller.post(EVENTS, event({ regarding: { ...event().regarding, name: long.name } }));
});

test('conditions in another order are no change', async () => {
  await create('order');
  const conditions = [...KUBELETS.conditions].reverse();
  const path = `/api/v1/namespaces/${namespace}/pods/order/status`;
  await controller.patch(path, 'merge', {
    status: { conditions: [{ type: READY, status: 'True' }, ...conditions] },
  });
  assert.deepEqual(
    (await read('order')).status?.conditions?.map(({ type }) => type),
    [READY, 'Ready', 'PodScheduled'],
  );
});

test('the spec and the owner are not changed through the status: the API server puts both back', async () => {
  await create('spec');
  const before = await read('spec');
  const ownerReferences = [{ apiVersion: 'v1', kind: 'Node', name: 'one', uid: before.metadata?.uid }];
  await patch(controller, 'spec', {
    metadata: { ownerReferences },
    spec: { containers: [{ name: 'toolbox', image: 'evil' }], activeDeadlineSeconds: 1 },
  });
  const { metadata, spec } = await read('spec');
  assert.deepEqual([metadata?.ownerReferences, spec], [before.metadata?.ownerReferences, before.spec]);
});

test('refused: a pod of another node, one of no node, and a token of no node', async () => {
  const mark = (as: ApiClient, of: MarkedPod) => new PodStatusWriter(as).mark(of, failed(new Error('late')));
  await assert.rejects(
    mark(controller, await create('elsewhere', 'two')),
    refused(/the controller on node one .* this pod is on node two/),
  );
  const nowhere = await create('nowhere', '');
  await assert.rejects(mark(controller, nowhere), refused(/the controller on node one .* this pod is on node none/));
  await assert.rejects(mark(unbound, await create('unbound')), refused(/token is not bound to a node/));
  await assert.rejects(mark(unbound, nowhere), refused(/token is not bound to a node/));
  assert.equal(await mark(connect(await tokenOf(ACCOUNT, 'two')), await create('there', 'two')), 'patched');
});

test('refused: whatever else a role that is too wide would let it do to pods', async () => {
  const { uid } = await create('main');
  const path = `/api/v1/namespaces/${namespace}/pods`;
  const metadata = { name: 'main', namespace };
  const nothingElse = (what: string) => refused(new RegExp(`may only mark .*, but the request is ${what}`));
  const annotations = { [STATUS]: 'initialized' };
  await assert.rejects(
    controller.patch(`${path}/main`, 'merge', { metadata: { annotations } }),
    nothingElse('UPDATE pods$'),
  );
  const another = pod('made', { containers: [toolbox('toolbox', 'help')] });
  await assert.rejects(controller.post(path, another), nothingElse('CREATE pods$'));
  await assert.rejects(controller.post(`${path}/main/eviction`, { metadata }), nothingElse('CREATE pods/eviction$'));
  const target = { apiVersion: 'v1', kind: 'Node', name: 'one' };
  await assert.rejects(
    controller.post(`${path}/main/binding`, { metadata, target }),
    nothingElse('CREATE pods/binding$'),
  );
  const ephemeralContainers = [{ name: 'debug', image: 'x', terminationMessagePolicy: 'File' }];
  await assert.rejects(
    controller.patch(`${path}/main/ephemeralcontainers`, 'strategic', { spec: { ephemeralContainers } }),
    nothingElse('UPDATE pods/ephemeralcontainers$'),
  );
  await assert.rejects(
    controller.list(`${path}/main/exec`, { command: 'id', stdout: true }, {}),
    nothingElse('CONNECT pods/exec$'),
  );
  assert.equal((await read('main')).metadata?.uid, uid);
});

test('Events, as the controller sends them, pass', async () => {
  const errors: unknown[] = [];
  const recorder = new EventRecorder({ requests: controller, node: 'one', onError: (error) => errors.push(error) });
  const subject = { uid: 'u', namespace, name: 'main' };
  recorder.record(subject, { reason: 'ConfigInvalid', note: 'no port: "x"' });
  await recorder.settled();
  assert.deepEqual(errors, []);
});

const FOREIGN_EVENTS: [what: string, changes: object, reason: RegExp][] = [
  ["in another's name", { reportingController: 'kubelet' }, /only under its own name/],
  ['of another node', { reportingInstance: 'two' }, /on node one .* only Events of that node/],
  ['about a node', { regarding: { apiVersion: 'v1', kind: 'Node', name: 'one' } }, /only Events about a pod/],
  ['about nothing', { regarding: undefined }, /only Events about a pod/],
  ['about another object too', { related: { apiVersion: 'v1', kind: 'Node', name: 'one' } }, /only Events about a pod/],
];
for (const field of ['labels', 'annotations']) {
  const metadata = { ...event().metadata, [field]: { x: 'y' } };
  FOREIGN_EVENTS.push([`with ${field}`, { metadata }, new RegExp(`may not create Events with metadata\\.${field}`)]);
}
FOREIGN_EVENTS.push([
  'that nobody can delete',
  { metadata: { ...event().metadata, finalizers: ['example.com/x'] } },
  /may not create Events with metadata\.finalizers/,
]);
for (const [what, changes, reason] of FOREIGN_EVENTS) {
  test(`refused: an Event ${what}`, () => assert.rejects(controller.post(EVENTS, event(changes)), refused(reason)));
}

test('refused: an Event of the older group in the name of the kubelet, and of a token of no node', async () => {
  const involvedObject = { apiVersion: 'v1', kind: 'Pod', namespace, name: 'main', uid: 'u' };
  const metadata = { generateName: 'x-', namespace };
  const older = { metadata, involvedObject, reason: 'Started', message: 'x', source: { component: 'kubelet' } };
  await assert.rejects(
    controller.post(`/api/v1/namespaces/${namespace}/events`, older),
    refused(/only under its own name/),
  );
  await assert.rejects(unbound.post(EVENTS, event()), refused(/token is not bound to a node/));
});

test('refused: to change or to delete an Event', async () => {
  const { metadata } = (await admin.post(EVENTS, event({ reportingController: 'example.com/other' }))) as V1Pod;
  const name = metadata?.name ?? '';
  const nothingElse = (what: string) => new RegExp(`only create Events, but the request is ${what}`);
  const change = { series: { count: 2, lastObservedTime: '2026-01-01T00:00:01.000000Z' } };
  await assert.rejects(controller.patch(`${EVENTS}/${name}`, 'merge', change), refused(nothingElse('UPDATE')));
  await assert.rejects(controllersCore.deleteNamespacedEvent({ namespace, name }), nothingElse('DELETE'));
});

test('others are not fenced in', async () => {
  const foreign = connect(await tokenOf('other', 'two'));
  await foreign.post(EVENTS, event({ reportingController: 'example.com/other' }));
  await create('open', 'two');
  const other = connect(await tokenOf('other', 'one'));
  await patch(other, 'open', { metadata: { labels: { app: 'x' } }, status: { phase: 'Failed' } });
  assert.equal((await read('open')).status?.phase, 'Failed');
});

test('for an API server without such policies the chart fails with the reason', async () => {
  await assert.rejects(
    renderPolicy(TEMPLATE, [], ['--kube-version', '1.29']),
    /fence\.enabled: true: this API server has no ValidatingAdmissionPolicy .*; expected false/,
  );
  await assert.rejects(renderPolicy(TEMPLATE, ['fence.enabled=false'], []), /could not find template/);
});

const whole = suite('cluster, fence and controller');
whole.needs('cluster', 'addon', 'toolbox');

whole(
  'the controller, as a pod whose token the kubelet brings, does its work behind the fence',
  async () => {
    const mesh = await Mesh.start(['toolbox', 'istio-pod-network-controller']);
    try {
      await mesh.admin.post(`/api/v1/namespaces/${SYSTEM}/serviceaccounts`, { metadata: { name: ACCOUNT } });
      await mesh.admin.post('/apis/rbac.authorization.k8s.io/v1/clusterrolebindings', {
        metadata: { name: ACCOUNT },
        roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'agent' },
        subjects: [{ kind: 'ServiceAccount', namespace: SYSTEM, name: ACCOUNT }],
      });
      await applyPolicy(mesh.controlPlane, TEMPLATE, `Namespace=${SYSTEM}`);
      const account = { namespace: SYSTEM, name: ACCOUNT };
      const agent = connect(await mesh.controlPlane.kubeconfigFor(account, { node: mesh.node.name }));
      const first = await mesh.run(plainPod('first'));
      const path = `/api/v1/namespaces/${NAMESPACE}/pods/first/status`;
      const probe = () =>
        agent
          .patch(path, 'merge', { metadata: { labels: { probe: randomUUID() } } })
          .catch((error: ApiError) => error.status);
      await until('in force: the fence', probe, (answer) => answer === 422);
      const body = controllerPod(mesh.node, 'controller');
      Object.assign(body.spec ?? {}, { serviceAccountName: ACCOUNT });
      await runPod(mesh.core, body, SYSTEM);
      const served = await mesh.runInitialized(meshPod('served'));
      await mesh.expectCaptured(served, first);
      await mesh.annotate(served, { [INITIALIZE]: 'false' });
      await mesh.marked(served, (marks) => !isInitialized(marks));

      // Its mark is refused for good, and its rules are not left to themselves.
      const annotations = Object.fromEntries(Array.from({ length: 1001 }, (_, at) => [`x${at}`, '']));
      const crowded = await mesh.run(meshPod('crowded', { annotations }));
      await mesh.expectCaptured(crowded, first);
      const events = async () =>
        (await mesh.core.listNamespacedEvent({ namespace: NAMESPACE })).items.filter(
          ({ involvedObject, reason }) => involvedObject.name === 'crowded' && reason === 'MarkFailed',
        );
      const [event] = await until('reported: the mark', events, ({ length }) => length > 0);
      assert.match(event?.message ?? '', /the pod has more than 1000 annotations/);
      assert.equal(
        (await mesh.core.readNamespacedPod({ namespace: NAMESPACE, name: 'crowded' })).metadata?.annotations?.[STATUS],
        undefined,
      );
      const log = await mesh.core.readNamespacedPodLog({ namespace: SYSTEM, name: 'controller' });
      assert.ok(!/"level":"(warn|error)"/.test(log), log);
    } finally {
      await mesh.stop();
    }
  },
  { timeoutMs: 60_000 },
);
