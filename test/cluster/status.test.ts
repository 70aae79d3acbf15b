/** What the API server makes of our patches and Events: it decides what is merged, what is refused, and with what. */
import assert from 'node:assert/strict';
import { CoreV1Api, EventsV1Api, RbacAuthorizationV1Api, type V1Pod } from '@kubernetes/client-node';
import type { Failure } from '../../lib/errors.ts';
import { NETNS, RULES, STATUS } from '../../lib/istio/names.ts';
import type { ApiClient } from '../../lib/kube/client.ts';
import { EventRecorder } from '../../lib/kube/events.ts';
import { type Mark, type MarkedPod, PodStatusWriter, READY } from '../../lib/kube/status.ts';
import { suite } from '../suite.ts';
import { configOf, kubeOf } from '../support/kubeconfig.ts';
import { type ControlPlane, startControlPlane } from './control-plane.ts';
import { pod, toolbox } from './pods.ts';

const test = suite('cluster, status');
test.needs('cluster');

const namespace = 'default';
const DONE: Mark = { status: 'initialized', netns: 'boot:7', rules: 'abc' };
const FAILED: Mark = { status: 'failed', reason: 'ConfigInvalid', message: 'field: "value": wrong' };
const KUBELETS = [
  { type: 'PodScheduled', status: 'True', lastTransitionTime: '2026-01-01T00:00:00Z' },
  { type: 'Ready', status: 'False', reason: 'ReadinessGatesNotReady', lastTransitionTime: '2026-01-01T00:00:01Z' },
];

let controlPlane: ControlPlane;
let core: CoreV1Api;
let eventsApi: EventsV1Api;
let rbac: RbacAuthorizationV1Api;
/** All rights. */
let admin: ApiClient;
/** Those that lib/kube/status.ts says it needs. */
let agent: ApiClient;

const kubes: ApiClient[] = [];
function connect(kubeconfig: string): ApiClient {
  const kube = kubeOf(kubeconfig);
  kubes.push(kube);
  return kube;
}

test.before(async () => {
  controlPlane = await startControlPlane();
  const config = configOf(controlPlane.kubeconfig);
  core = config.makeApiClient(CoreV1Api);
  eventsApi = config.makeApiClient(EventsV1Api);
  rbac = config.makeApiClient(RbacAuthorizationV1Api);
  for (const name of ['default', 'agent', 'nobody']) {
    await core.createNamespacedServiceAccount({ namespace, body: { metadata: { name } } });
  }
  const rules = [
    { apiGroups: [''], resources: ['pods/status'], verbs: ['patch'] },
    { apiGroups: ['events.k8s.io'], resources: ['events'], verbs: ['create'] },
  ];
  await rbac.createClusterRole({ body: { metadata: { name: 'agent' }, rules } });
  await rbac.createClusterRoleBinding({
    body: {
      metadata: { name: 'agent' },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'agent' },
      subjects: [{ kind: 'ServiceAccount', namespace, name: 'agent' }],
    },
  });
  admin = connect(controlPlane.kubeconfig);
  agent = connect(await controlPlane.kubeconfigFor({ namespace, name: 'agent' }));
});
test.after(async () => {
  for (const kube of kubes) kube.close();
  await controlPlane?.stop();
});

/** A pod with conditions of the kubelet's, and another's annotation. */
async function create(name: string): Promise<MarkedPod> {
  const body = pod(name, { containers: [toolbox('toolbox', 'help')], readinessGates: [{ conditionType: READY }] });
  body.metadata = { ...body.metadata, annotations: { other: 'kept' } };
  const created = await core.createNamespacedPod({ namespace, body });
  const status = { conditions: KUBELETS };
  await admin.patch(`/api/v1/namespaces/${namespace}/pods/${name}/status`, 'strategic', { status });
  return seen(created);
}

const read = (name: string) => core.readNamespacedPod({ namespace, name });

function seen({ metadata, status, spec }: V1Pod): MarkedPod {
  return {
    uid: metadata?.uid ?? '',
    namespace,
    name: metadata?.name ?? '',
    resourceVersion: metadata?.resourceVersion ?? '',
    annotations: metadata?.annotations ?? {},
    conditions: (status?.conditions ?? []).map(({ type, status, reason = '', message = '' }) => {
      return { type, status, reason, message };
    }),
    readinessGates: (spec?.readinessGates ?? []).map(({ conditionType }) => conditionType),
  };
}

const conditionsOf = ({ status }: V1Pod) =>
  Object.fromEntries((status?.conditions ?? []).map((condition) => [condition.type, condition]));

test("a pod is marked, and nothing of the kubelet's or others' is lost", async () => {
  const created = await create('marked');
  assert.equal(await new PodStatusWriter(agent).mark(created, DONE), 'patched');
  const marked = await read('marked');
  assert.deepEqual(marked.metadata?.annotations, {
    [STATUS]: 'initialized',
    [NETNS]: 'boot:7',
    [RULES]: 'abc',
    other: 'kept',
  });
  const { Ready, PodScheduled, [READY]: ours, ...rest } = conditionsOf(marked);
  assert.deepEqual(rest, {});
  assert.equal(ours?.status, 'True');
  assert.ok(ours?.lastTransitionTime instanceof Date);
  assert.deepEqual([PodScheduled?.status, Ready?.status, Ready?.reason], ['True', 'False', 'ReadinessGatesNotReady']);
  assert.equal(Ready?.lastTransitionTime?.toISOString(), '2026-01-01T00:00:01.000Z');
});

test('a mark that was written is read back correctly, and is not written again', async () => {
  const created = await create('twice');
  await new PodStatusWriter(agent).mark(created, DONE);
  const marked = await read('twice');
  const nobody = { patch: () => Promise.reject(new Error('asked')), post: () => Promise.reject(new Error('asked')) };
  assert.equal(await new PodStatusWriter(nobody).mark(seen(marked), DONE), 'unchanged');
  const again = await read('twice');
  assert.equal(await new PodStatusWriter(agent).mark({ ...seen(again), annotations: {} }, DONE), 'patched');
  assert.equal((await read('twice')).metadata?.resourceVersion, again.metadata?.resourceVersion);
});

test('a change before the patch that the watch reports after it needs no second patch', async () => {
  const created = await create('overtaken');
  const path = `/api/v1/namespaces/${namespace}/pods/overtaken/status`;
  await admin.patch(path, 'strategic', { status: { podIPs: [{ ip: '192.0.2.1' }], podIP: '192.0.2.1' } });
  const overtaken = seen(await read('overtaken'));
  const asked: unknown[] = [];
  const patch = (...request: Parameters<ApiClient['patch']>) => {
    asked.push(request);
    return agent.patch(...request);
  };
  const marker = new PodStatusWriter({ patch, post: agent.post });
  assert.equal(await marker.mark(created, DONE), 'patched');
  assert.equal(await marker.mark(overtaken, DONE), 'unchanged');
  assert.equal(asked.length, 1);
  assert.equal(await marker.mark(seen(await read('overtaken')), DONE), 'unchanged');
  // As if somebody had taken the mark away since.
  const { metadata } = (await admin.patch(path, 'merge', { metadata: { annotations: { [NETNS]: null } } })) as V1Pod;
  assert.match(metadata?.resourceVersion ?? '', /^\d+$/);
  assert.equal(await marker.mark(seen(await read('overtaken')), DONE), 'patched');
});

test('what is written is answered with its metadata alone', async () => {
  await create('brief');
  const annotations = { brief: 'yes' };
  const { metadata, spec, status, kind } = (await admin.patch(`/api/v1/namespaces/${namespace}/pods/brief`, 'merge', {
    metadata: { annotations },
  })) as V1Pod;
  const written = Object.fromEntries((metadata?.annotations ?? []) as unknown as Iterable<[string, string]>);
  assert.equal(written.brief, 'yes');
  assert.deepEqual([spec, status], [undefined, undefined], 'the answer holds a whole pod');
  assert.equal(kind, undefined, 'the answer is JSON');
  assert.equal(metadata?.resourceVersion, (await read('brief')).metadata?.resourceVersion);
});

test('failed, initialized, failed in other words: the transition is when the status changed', async () => {
  const marker = new PodStatusWriter(agent, () => new Date('2026-02-02T00:00:00Z'));
  const later = new PodStatusWriter(agent, () => new Date('2026-03-03T00:00:00Z'));
  const transition = async () => conditionsOf(await read('changes'))[READY]?.lastTransitionTime?.getUTCMonth();
  await marker.mark(await create('changes'), FAILED);
  const failed = await read('changes');
  assert.deepEqual(failed.metadata?.annotations, { [STATUS]: 'failed: field: "value": wrong', other: 'kept' });
  assert.deepEqual([conditionsOf(failed)[READY]?.reason, await transition()], ['ConfigInvalid', 1]);
  await later.mark(seen(failed), { ...FAILED, message: 'in other words' });
  assert.equal(await transition(), 1);
  await later.mark(seen(await read('changes')), DONE);
  assert.equal(await transition(), 2);
});

test('another pod of the same name is never marked', async () => {
  const first = await create('recreated');
  await core.deleteNamespacedPod({ namespace, name: 'recreated', gracePeriodSeconds: 0 });
  const marker = new PodStatusWriter(agent);
  assert.equal(await marker.mark(first, DONE), 'gone');
  await create('recreated');
  assert.equal(await marker.mark(first, DONE), 'gone');
  assert.equal(await marker.unmark({ ...first, annotations: { [STATUS]: 'initialized' } }), 'gone');
  assert.deepEqual((await read('recreated')).metadata?.annotations, { other: 'kept' });
  assert.equal(conditionsOf(await read('recreated'))[READY], undefined);
});

test('unmark leaves what is not ours', async () => {
  const created = await create('opted-out');
  await new PodStatusWriter(agent).mark(created, DONE);
  const marked = seen(await read('opted-out'));
  assert.equal(await new PodStatusWriter(agent).unmark({ ...marked, readinessGates: [] }), 'patched');
  const bare = await read('opted-out');
  assert.deepEqual(bare.metadata?.annotations, { other: 'kept' });
  assert.deepEqual(Object.keys(conditionsOf(bare)).sort(), ['PodScheduled', 'Ready']);
  assert.equal(await new PodStatusWriter(agent).unmark(seen(bare)), 'patched');
  const waiting = conditionsOf(await read('opted-out'))[READY];
  assert.deepEqual([waiting?.status, waiting?.reason], ['True', 'NotEnrolled']);
});

test('many concurrent writers lose no change', async () => {
  const created = await create('busy');
  const path = `/api/v1/namespaces/${namespace}/pods/busy/status`;
  const others = Array.from({ length: 10 }, (_, at) => {
    const status = { conditions: [{ type: `example.com/${at}`, status: 'True' }] };
    return admin.patch(path, 'strategic', { status });
  });
  await Promise.all([...others, new PodStatusWriter(agent).mark(created, DONE)]);
  assert.equal(Object.keys(conditionsOf(await read('busy'))).length, 13);
});

test('a JSON merge patch, which this is not, would have lost the conditions of others', async () => {
  const { uid } = await create('merged');
  const content = { metadata: { uid }, status: { conditions: [{ type: READY, status: 'True' }] } };
  await admin.patch(`/api/v1/namespaces/${namespace}/pods/merged/status`, 'merge', content);
  assert.deepEqual(Object.keys(conditionsOf(await read('merged'))), [READY]);
});

test('Events are taken as they are made: long, repeated, and about their pod', async () => {
  const about = await create('told');
  const errors: unknown[] = [];
  const clock = { now: Date.now() };
  const options = { requests: agent, node: 'node-1', onError: (error: unknown) => errors.push(error) };
  const recorder = new EventRecorder({ ...options, now: () => clock.now });
  recorder.record(about, { reason: 'Initialized', note: 'ü'.repeat(2000) });
  for (let minute = 0; minute < 3; minute++) {
    recorder.record(about, { reason: 'ConfigInvalid', note: 'field: "value": wrong' });
    await recorder.settled();
    clock.now += 60_000;
  }
  assert.deepEqual(errors, []);
  const { items } = await eventsApi.listNamespacedEvent({ namespace, fieldSelector: `regarding.uid=${about.uid}` });
  const told = items.map(({ type, series }) => `${type} ${series?.count ?? 1}`);
  assert.deepEqual(told.sort(), ['Normal 1', 'Warning 1', 'Warning 2']);
  // As `kubectl describe` asks for them.
  const fieldSelector = `involvedObject.name=told,involvedObject.uid=${about.uid}`;
  assert.equal((await core.listNamespacedEvent({ namespace, fieldSelector })).items.length, 3);
});

test('a forbidden request names the missing right', async () => {
  const created = await create('forbidden');
  const nobody = connect(await controlPlane.kubeconfigFor({ namespace, name: 'nobody' }));
  await assert.rejects(new PodStatusWriter(nobody).mark(created, DONE), (error: Failure) => {
    assert.equal(error.code, 'ERR_RBAC');
    assert.match(error.message, /User "system:serviceaccount:default:nobody" cannot patch resource "pods\/status"/);
    assert.match(error.remedy ?? '', /"patch" on "pods\/status"/);
    return true;
  });
  const errors: Failure[] = [];
  const onError = (error: unknown) => errors.push(error as Failure);
  const recorder = new EventRecorder({ requests: nobody, node: 'node-1', onError });
  recorder.record(created, { reason: 'Initialized', note: 'done' });
  await recorder.settled();
  assert.match(errors[0]?.message ?? '', /cannot create resource "events" in API group "events.k8s.io"/);
});
