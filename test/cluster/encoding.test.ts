/** What the real kube-apiserver sends as protobuf and as JSON: both are read to the same pods, namespaces and errors. */
import assert from 'node:assert/strict';
import { request } from 'node:https';
import { buffer } from 'node:stream/consumers';
import type { CoreV1Api, V1Pod } from '@kubernetes/client-node';
import type { NamespaceRecord } from '../../lib/istio/pod.ts';
import { ACCEPT, encodingOf, entriesOf, type WatchEvent } from '../../lib/kube/encoding.ts';
import type { ListMeta } from '../../lib/kube/messages.ts';
import { toNamespaceRecord, toPodRecord } from '../../lib/kube/pods.ts';
import { READY } from '../../lib/kube/status.ts';
import { suite } from '../suite.ts';
import { configOf, kubeOf } from '../support/kubeconfig.ts';
import { fixture, fixtures } from '../support/pods.ts';
import { type ControlPlane, coreApi, startControlPlane } from './control-plane.ts';

/** No kubelet of this name: pods stay as they are made. */
const NODE = 'nowhere';
const PODS = '/api/v1/namespaces/default/pods';
const JSON_TYPE = 'application/json';

const STATUS = {
  phase: 'Running',
  podIPs: [{ ip: '10.244.1.21' }, { ip: 'fd00::1' }],
  conditions: [{ type: READY, status: 'False', reason: 'Failed', message: 'because' }],
};

const test = suite('encodings of the real API');
test.needs('cluster');

let controlPlane: ControlPlane;
let core: CoreV1Api;

test.before(async () => {
  controlPlane = await startControlPlane();
  core = coreApi(controlPlane.kubeconfig);
  await core.createNamespacedServiceAccount({ namespace: 'default', body: { metadata: { name: 'default' } } });
});
test.after(() => controlPlane?.stop());

interface Answered {
  status: number | undefined;
  type: string;
  body: Buffer;
}

async function ask(path: string, accept: string): Promise<Answered> {
  const options = {};
  await configOf(controlPlane.kubeconfig).applyToHTTPSOptions(options);
  const asked = request(controlPlane.server + path, { ...options, headers: { Accept: accept } }).end();
  return new Promise((resolve, reject) => {
    asked.on('error', reject);
    asked.on('response', async (response) => {
      const { statusCode: status, headers } = response;
      resolve({ status, type: headers['content-type'] ?? '', body: await buffer(response) });
    });
  });
}

async function object(path: string, accept: string): Promise<unknown> {
  const { type, body } = await ask(path, accept);
  assert.equal(type, accept.split(',')[0]);
  return encodingOf(type).object(body);
}

/** The items stay good, since all of the list came in one piece. */
async function list(path: string, accept: string): Promise<{ meta: ListMeta; items: unknown[] }> {
  const { type, body } = await ask(path, accept);
  assert.equal(type, accept.split(',')[0]);
  const reader = encodingOf(type).list();
  const items = [...reader.push(body)];
  return { items, meta: reader.end() };
}

/** Until the server ends it, after a second. */
async function events(path: string, query: string, accept: string): Promise<WatchEvent[]> {
  const { type, body } = await ask(`${path}?watch=true&timeoutSeconds=1&${query}`, accept);
  assert.equal(type.replace('; ', ';'), accept.split(',')[0]);
  const reader = encodingOf(type).watch();
  const all = [...reader.push(body)];
  reader.end();
  return all;
}

/** A fixture as far as this API server admits it. */
function admissible(name: string): V1Pod {
  const { metadata, spec } = fixture(name) as V1Pod;
  const containers = [...(spec?.initContainers ?? []), ...(spec?.containers ?? [])];
  const mounts = containers.flatMap(({ volumeMounts = [] }) => volumeMounts);
  return {
    metadata: {
      name,
      namespace: 'default',
      labels: metadata?.labels ?? {},
      annotations: { ...metadata?.annotations, note: 'ä€😀', empty: '', constructor: 'c', toString: 't' },
    },
    spec: {
      ...spec,
      containers: spec?.containers ?? [],
      volumes: [...new Set(mounts.map(({ name }) => name))].map((name) => ({ name, emptyDir: {} })),
      nodeName: NODE,
      priorityClassName: undefined as never,
      priority: undefined as never,
      serviceAccountName: 'default',
      serviceAccount: undefined as never,
      imagePullSecrets: undefined as never,
    },
  };
}

/** What no fixture has. */
const ALL_READ: V1Pod = {
  metadata: {
    name: 'all-that-is-read',
    namespace: 'default',
    labels: { 'sidecar.istio.io/inject': 'true' },
    annotations: { note: 'x' },
  },
  spec: {
    nodeName: NODE,
    hostNetwork: true,
    readinessGates: [{ conditionType: READY }],
    securityContext: { runAsUser: 0, runAsGroup: 2_000_000_000 },
    containers: [
      {
        name: 'istio-proxy',
        image: 'none',
        args: ['proxy', 'sidecar', ''],
        env: [
          { name: 'INVALID_DROP', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
          { name: 'DISABLE_ENVOY', value: '' },
        ],
        securityContext: { runAsUser: 1337, runAsGroup: 0 },
      },
    ],
  },
};

const byName = (items: unknown[] = []) =>
  items.map((pod) => toPodRecord(pod)).sort((a, b) => a.metadata.name.localeCompare(b.metadata.name));

test('every pod of the fixtures, by list and by watch, also while it is deleted', async () => {
  const { meta } = await list(PODS, JSON_TYPE);
  for (const body of [...fixtures.map(admissible), ALL_READ]) {
    const made = await core.createNamespacedPod({ namespace: 'default', body });
    const name = made.metadata?.name ?? '';
    await core.replaceNamespacedPodStatus({ namespace: 'default', name, body: { ...made, status: STATUS } });
  }
  await core.deleteNamespacedPod({ namespace: 'default', name: 'native-cni' });
  await core.deleteNamespacedPod({ namespace: 'default', name: 'gate', gracePeriodSeconds: 0 });

  const [json, protobuf] = await Promise.all(
    [JSON_TYPE, ACCEPT.object].map(async (accept) => (await list(PODS, accept)).items),
  );
  assert.equal(byName(json).length, fixtures.length);
  const all = byName(json).find(({ metadata }) => metadata.name === ALL_READ.metadata?.name);
  const { hostNetwork, readinessGates, securityContext } = ALL_READ.spec ?? {};
  const { containers = [] } = all?.spec ?? {};
  assert.deepEqual(all?.spec, { hostNetwork, readinessGates, securityContext, initContainers: [], containers });
  assert.deepEqual(byName(protobuf), byName(json));
  const going = byName(protobuf).find(({ metadata }) => metadata.name === 'native-cni');
  assert.ok(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(going?.metadata.deletionTimestamp ?? ''));

  const since = `resourceVersion=${meta.resourceVersion}`;
  const [lines, frames] = await Promise.all([JSON_TYPE, ACCEPT.watch].map((accept) => events(PODS, since, accept)));
  const trimmed = (all: WatchEvent[] = []) => all.map(({ type, object }) => ({ type, pod: toPodRecord(object) }));
  assert.deepEqual(trimmed(frames), trimmed(lines));
  assert.deepEqual([...new Set(frames?.map(({ type }) => type))].sort(), ['ADDED', 'DELETED', 'MODIFIED']);
  const annotationsOf = (object: unknown) =>
    Object.fromEntries(entriesOf((object as { metadata: { annotations: unknown } }).metadata.annotations));
  for (const [at, { object }] of (frames ?? []).entries())
    assert.deepEqual(annotationsOf(object), annotationsOf(lines?.[at]?.object));
});

test('namespaces', async () => {
  const annotations = { 'istio-pod-network-controller/initialize': 'true', other: 'x' };
  await core.createNamespace({ body: { metadata: { name: 'annotated', annotations } } });
  const [json, protobuf] = await Promise.all(
    [JSON_TYPE, ACCEPT.object].map(async (accept) => {
      return (await list('/api/v1/namespaces', accept)).items.map(toNamespaceRecord);
    }),
  );
  assert.deepEqual(protobuf, json);
  assert.equal(
    protobuf?.find(({ metadata }) => metadata.name === 'annotated')?.metadata.annotations[
      Object.keys(annotations)[0] ?? ''
    ],
    'true',
  );
});

test('pages of a list', async () => {
  const kube = kubeOf(controlPlane.kubeconfig);
  const found: NamespaceRecord[] = [];
  const page = (query: Record<string, number | string | undefined>) =>
    kube.list('/api/v1/namespaces', query, {}, (item) => found.push(toNamespaceRecord(item)));
  const first = await page({ limit: 2 });
  assert.equal(found.length, 2);
  const last = await page({ limit: 500, continue: first.continue });
  assert.ok(!last.continue);
  assert.ok(last.bytes > 0);
  assert.equal(last.resourceVersion, first.resourceVersion);
  const { items } = await list('/api/v1/namespaces', JSON_TYPE);
  assert.deepEqual(found, items.map(toNamespaceRecord));
  kube.close();
});

test('nothing can change of a spec that is read of it', async () => {
  const spec = {
    nodeName: NODE,
    hostNetwork: false,
    securityContext: { runAsUser: 1000, runAsGroup: 1000 },
    readinessGates: [{ conditionType: READY }],
    initContainers: [
      {
        name: 'first',
        image: 'none',
        restartPolicy: 'Always',
        command: ['/init'],
        args: ['run'],
        ports: [{ containerPort: 80 }],
        env: [{ name: 'A', value: 'a' }],
        securityContext: { runAsUser: 1000, runAsGroup: 1000 },
      },
      { name: 'second', image: 'none' },
    ],
    containers: [
      {
        name: 'app',
        image: 'none',
        command: ['/app'],
        args: ['run'],
        ports: [{ containerPort: 80, protocol: 'TCP' }],
        env: [{ name: 'A', value: 'a' }],
        securityContext: { runAsUser: 1000, runAsGroup: 1000 },
      },
    ],
  };
  const kube = kubeOf(controlPlane.kubeconfig);
  await core.createNamespacedPod({ namespace: 'default', body: { metadata: { name: 'fixed' }, spec } });
  const change = (path: string, op: string, value?: unknown) =>
    kube.patch(`${PODS}/fixed`, 'json', [{ op, path: `/spec${path}`, value }]);
  const ofContainer: [path: string, op: string, value?: unknown][] = [
    ['/name', 'replace', 'istio-proxy'],
    ['/command/0', 'replace', '/other'],
    ['/command', 'remove'],
    ['/args/0', 'replace', 'other'],
    ['/args/-', 'add', 'other'],
    ['/args', 'remove'],
    ['/ports/0/containerPort', 'replace', 81],
    ['/ports/0/protocol', 'replace', 'UDP'],
    ['/ports/-', 'add', { containerPort: 82 }],
    ['/ports', 'remove'],
    ['/env/0/name', 'replace', 'B'],
    ['/env/0/value', 'replace', 'b'],
    ['/env/0', 'replace', { name: 'A', valueFrom: { fieldRef: { fieldPath: 'metadata.uid' } } }],
    ['/env/-', 'add', { name: 'C', value: 'c' }],
    ['/env', 'remove'],
    ['/securityContext/runAsUser', 'replace', 1001],
    ['/securityContext/runAsGroup', 'replace', 1001],
    ['/securityContext', 'remove'],
  ];
  const changes: typeof ofContainer = [
    ['/nodeName', 'replace', 'elsewhere'],
    ['/hostNetwork', 'add', true],
    ['/securityContext/runAsUser', 'replace', 1001],
    ['/securityContext/runAsGroup', 'replace', 1001],
    ['/readinessGates/-', 'add', { conditionType: 'other' }],
    ['/readinessGates', 'remove'],
    ['/initContainers', 'remove'],
    ['/initContainers/-', 'add', { name: 'istio-init', image: 'none' }],
    ['/initContainers/0/restartPolicy', 'remove'],
    ['/initContainers/1/restartPolicy', 'add', 'Always'],
    ['/containers/-', 'add', { name: 'istio-proxy', image: 'none' }],
    ...['/containers/0', '/initContainers/0'].flatMap((at) =>
      ofContainer.map(([path, ...rest]): (typeof ofContainer)[0] => [at + path, ...rest]),
    ),
  ];
  // A patch that cannot be applied is 422 as well: these are applied, and refused for what comes of it.
  const refused = { name: 'ApiError', status: 422, message: /spec.*(Forbidden: |Invalid value: |field is immutable)/s };
  for (const each of changes) await assert.rejects(change(...each), refused, each.join(' '));
  // What may change, does.
  await change('/containers/0/image', 'replace', 'other');
  kube.close();
});

test('bookmarks', async () => {
  const query = 'allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan';
  const [lines, frames] = await Promise.all([JSON_TYPE, ACCEPT.watch].map((accept) => events(PODS, query, accept)));
  const bookmarks = (all: WatchEvent[] = []) =>
    all
      .filter(({ type }) => type === 'BOOKMARK')
      .map(({ object }) => (object as { metadata: { resourceVersion: string } }).metadata.resourceVersion);
  assert.ok(bookmarks(frames).length > 0);
  assert.equal(bookmarks(frames)[0], bookmarks(lines)[0]);
});

test('errors come with their message, of lists and of watches', async () => {
  const kube = kubeOf(controlPlane.kubeconfig);
  const missing = {
    name: 'ApiError',
    status: 404,
    reason: 'NotFound',
    answer: 'pods "none" not found',
  };
  await assert.rejects(kube.list(`${PODS}/none`, {}, {}), missing);
  const [json, protobuf] = await Promise.all(
    [JSON_TYPE, ACCEPT.object].map(async (accept) => (await object(`${PODS}/none`, accept)) as Record<string, unknown>),
  );
  for (const field of ['message', 'reason', 'code']) assert.equal(protobuf?.[field], json?.[field]);
  kube.close();

  await core.createNamespacedServiceAccount({ namespace: 'default', body: { metadata: { name: 'nobody' } } });
  const nobody = kubeOf(await controlPlane.kubeconfigFor({ namespace: 'default', name: 'nobody' }));
  const forbidden = (verb: string) => ({
    name: 'ApiError',
    status: 403,
    reason: 'Forbidden',
    answer: `pods is forbidden: User "system:serviceaccount:default:nobody" cannot ${verb} resource "pods" in API group "" in the namespace "default"`,
  });
  await assert.rejects(nobody.list(PODS, {}, {}), forbidden('list'));
  await assert.rejects(nobody.watch(PODS, {}, { idleMs: 1000 }), forbidden('watch'));
  nobody.close();
});
