/** The informer and a real kube-apiserver: killed, compacted, behind a connection that breaks, a token that ends. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CoreV1Api, type KubeConfig, RbacAuthorizationV1Api, type User } from '@kubernetes/client-node';
import { ApiClient } from '../../lib/kube/client.ts';
import { entriesOf } from '../../lib/kube/encoding.ts';
import { Informer } from '../../lib/kube/informer.ts';
import { suite } from '../suite.ts';
import { configOf } from '../support/kubeconfig.ts';
import { type ControlPlane, coreApi, startControlPlane } from './control-plane.ts';
import { until } from './pods.ts';

/** No kubelet of this name: pods stay as they are made. */
const NODE = 'nowhere';
const PODS = 200;
const SLOW = { timeoutMs: 120_000 };

interface Pod {
  uid: string;
  namespace: string;
  name: string;
  round: string | undefined;
}

interface Observed {
  informer: Informer<Pod>;
  /** Of each uid, in order: `added`, `changed`, `deleted`. */
  told: Map<string, string[]>;
  stop(): Promise<void>;
}

const test = suite('informer, against the real API');
test.needs('cluster');

let controlPlane: ControlPlane;
let core: CoreV1Api;
const stops: (() => Promise<void>)[] = [];

test.before(async () => {
  controlPlane = await startControlPlane();
  core = coreApi(controlPlane.kubeconfig);
  await core.createNamespacedServiceAccount({ namespace: 'default', body: { metadata: { name: 'default' } } });
});
test.after.each(async () => {
  for (const stop of stops.splice(0)) await stop();
});
test.after(() => controlPlane?.stop());

function adminConfig(): KubeConfig {
  return configOf(controlPlane.kubeconfig);
}

async function observe(kube: ApiClient, backoffMs: [number, number] = [50, 500]): Promise<Observed> {
  const told = new Map<string, string[]>();
  const informer = new Informer<Pod>({
    kube,
    path: '/api/v1/pods',
    fieldSelector: `spec.nodeName=${NODE}`,
    trim: (object) => {
      const { uid, namespace, name, annotations } = (object as { metadata: Pod & { annotations?: { round?: string } } })
        .metadata;
      const [, round] = [...entriesOf(annotations)].find(([name]) => name === 'round') ?? [];
      return { uid, namespace, name, round: round as string | undefined };
    },
    onEvent: ({ type, object }) => told.set(object.uid, [...(told.get(object.uid) ?? []), type]),
    timings: { backoffMs },
  });
  const controller = new AbortController();
  const over = informer.start(controller.signal);
  const stop = async () => {
    controller.abort();
    await over;
    kube.close();
  };
  stops.push(stop);
  await informer.synced;
  return { informer, told, stop };
}

/** Until it is done: the API server may be away. */
async function insist(action: () => Promise<unknown>, done: number): Promise<void> {
  for (;;) {
    const failure = await action().then(
      () => undefined,
      (error: unknown) => error,
    );
    const code = (failure as { code?: unknown } | undefined)?.code;
    if (failure === undefined || code === done) return;
    // 403: an API server that has only just started knows no roles yet.
    if (typeof code === 'number' && code < 500 && code !== 403) throw failure;
    await sleep(50);
  }
}

const create = (name: string) =>
  insist(
    () =>
      core.createNamespacedPod({
        namespace: 'default',
        body: { metadata: { name }, spec: { nodeName: NODE, containers: [{ name: 'c', image: 'none' }] } },
      }),
    409,
  );
const remove = (name: string) =>
  insist(() => core.deleteNamespacedPod({ namespace: 'default', name, gracePeriodSeconds: 0 }), 404);

/** All pods that are there in truth, as `uid round`. */
async function truth(): Promise<string[]> {
  const { items } = await core.listPodForAllNamespaces({ fieldSelector: `spec.nodeName=${NODE}` });
  return items.map(({ metadata }) => `${metadata?.uid} ${metadata?.annotations?.round}`).sort();
}

const known = ({ informer }: Observed) =>
  informer
    .store()
    .map(({ uid, round }) => `${uid} ${round}`)
    .sort();

/** What became of a pod, changes aside: the API server makes some of its own. */
const fate = ({ told }: Observed, uid = '') => told.get(uid)?.filter((type) => type !== 'changed');

async function settled(observed: Observed): Promise<void> {
  const right = await truth();
  await until(
    'settled',
    async () => known(observed),
    (now) => now.join() === right.join(),
  );
}

async function restartApiServer(): Promise<void> {
  const apiServer = controlPlane.services.get('kube-apiserver');
  await apiServer?.kill();
  await sleep(500);
  apiServer?.start();
}

async function removeAll(): Promise<void> {
  await core.deleteCollectionNamespacedPod({ namespace: 'default', gracePeriodSeconds: 0 });
}

/** A way to the API server that can be cut. */
async function openRelay(): Promise<{ config(): KubeConfig; cut(): void; open(): void }> {
  const { hostname, port } = new URL(controlPlane.server);
  const sockets = new Set<Socket>();
  let broken = false;
  const relay: Server = createServer((socket) => {
    if (broken) {
      socket.destroy();
      return;
    }
    const far = connect(Number(port), hostname);
    for (const [from, to] of [
      [socket, far],
      [far, socket],
    ] as const) {
      sockets.add(from);
      from
        .on('error', () => {})
        .on('close', () => {
          to.destroy();
          sockets.delete(from);
        });
      from.pipe(to);
    }
  });
  await new Promise<void>((resolve) => relay.listen(0, '127.0.0.1', resolve));
  const cut = () => {
    broken = true;
    for (const socket of sockets) socket.destroy();
  };
  stops.push(async () => {
    cut();
    relay.close();
  });
  return {
    cut,
    open: () => {
      broken = false;
    },
    config: () => {
      const config = adminConfig();
      const [cluster] = config.clusters;
      const address = relay.address();
      if (cluster === undefined || address === null || typeof address === 'string') throw new Error('no relay');
      config.loadFromClusterAndUser(
        { ...cluster, server: `https://127.0.0.1:${address.port}`, tlsServerName: 'kubernetes.default.svc' },
        config.getCurrentUser() ?? { name: 'none' },
      );
      return config;
    },
  };
}

test(
  `${PODS} pods come, change and go while the API server is killed: each is told once, and none is missed`,
  async () => {
    const kube = new ApiClient(adminConfig);
    const observed = await observe(kube);
    const names = Array.from({ length: PODS }, (_, at) => `p${at}`);
    const life = async (name: string, at: number) => {
      await create(name);
      for (const round of ['1', '2']) {
        const path = `/api/v1/namespaces/default/pods/${name}`;
        await insist(() => kube.patch(path, 'merge', { metadata: { annotations: { round } } }).catch(asCode), 0);
      }
      if (at % 2 === 0) await remove(name);
      if (at % 4 === 0) await create(name);
    };
    const queue = names.entries();
    const workers = Array.from({ length: 8 }, async () => {
      for (const [at, name] of queue) await life(name, at);
    });
    await until(
      'begun',
      async () => observed.told.size,
      (count) => count > 20,
    );
    await restartApiServer();
    await Promise.all(workers);
    await settled(observed);

    assert.equal(known(observed).length, PODS * 0.75);
    const present = new Set(known(observed).map((entry) => entry.split(' ')[0]));
    for (const [uid, types] of observed.told) {
      const count = (type: string) => types.filter((one) => one === type).length;
      assert.equal(count('added'), 1, `${uid}: ${types}`);
      assert.equal(count('deleted'), present.has(uid) ? 0 : 1, `${uid}: ${types}`);
      assert.equal(types[0], 'added');
      if (!present.has(uid)) assert.equal(types.at(-1), 'deleted');
    }
    const { restarts } = observed.informer.stats();
    assert.ok(restarts.connection >= 1, JSON.stringify(restarts));
    await removeAll();
    await settled(observed);
  },
  SLOW,
);

/** client-node's errors have the status as `code`, and ours as `status`. */
function asCode(error: unknown): never {
  const { status } = error as { status?: number };
  throw status === undefined ? error : Object.assign(new Error('refused', { cause: error }), { code: status });
}

test(
  'changes behind a broken connection come after it, also a pod that was recreated meanwhile',
  async () => {
    const { lists } = (await changeBehindCut()).stats();
    assert.equal(lists, 1);
    await removeAll();
  },
  SLOW,
);

test(
  'history compacted behind a broken connection: a real 410, and a list tells the difference',
  async () => {
    const informer = await changeBehindCut(async () => {
      await compact();
      // What it keeps in memory goes too.
      await restartApiServer();
      await until(
        'back',
        () => truth().catch(() => []),
        (pods) => pods.length === 2,
      );
    });
    const { lists, restarts } = informer.stats();
    assert.deepEqual([lists, restarts.expired], [2, 1]);
    await removeAll();
  },
  SLOW,
);

/** Of three pods one goes and one is made again while the connection is broken: told of, all of it, once it is back. */
async function changeBehindCut(meanwhile = async () => {}): Promise<Observed['informer']> {
  const relay = await openRelay();
  await Promise.all(['stays', 'goes', 'returns'].map(create));
  const observed = await observe(new ApiClient(relay.config));
  const uids = new Map(observed.informer.store().map(({ name, uid }) => [name, uid]));
  await until(
    'watching',
    async () => observed.informer.stats().watches,
    (watches) => watches === 1,
  );
  relay.cut();
  await remove('goes');
  await remove('returns');
  await create('returns');
  await meanwhile();
  relay.open();
  await settled(observed);
  assert.deepEqual(fate(observed, uids.get('stays')), ['added']);
  assert.deepEqual(fate(observed, uids.get('goes')), ['added', 'deleted']);
  assert.deepEqual(fate(observed, uids.get('returns')), ['added', 'deleted']);
  return observed.informer;
}

/** etcd forgets all but the present. */
async function compact(): Promise<void> {
  const script = `
    const ask = async (path, body) => (await fetch('http://127.0.0.1:2379/v3/' + path, { method: 'POST', body })).json();
    const { header } = await ask('maintenance/status', '{}');
    const answer = await ask('kv/compaction', JSON.stringify({ revision: header.revision, physical: true }));
    if (answer.error) throw new Error(answer.error);
  `;
  await controlPlane.sandbox.exec([process.execPath, '-e', script]);
}

test(
  'a token that ends is followed by the next one of its file',
  async () => {
    const { kubeconfigFor, sandbox } = controlPlane;
    const account = { namespace: 'default', name: 'agent' };
    await core.createNamespacedServiceAccount({ namespace: 'default', body: { metadata: { name: 'agent' } } });
    const rbac = adminConfig().makeApiClient(RbacAuthorizationV1Api);
    await rbac.createClusterRole({
      body: {
        metadata: { name: 'agent' },
        rules: [{ apiGroups: [''], resources: ['pods'], verbs: ['list', 'watch'] }],
      },
    });
    await rbac.createClusterRoleBinding({
      body: {
        metadata: { name: 'agent' },
        roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'agent' },
        subjects: [{ kind: 'ServiceAccount', ...account }],
      },
    });
    // A token bound to a node ends with the node.
    const tokens: string[] = [];
    for (const name of ['first', 'second']) {
      await core.createNode({ body: { metadata: { name } } });
      const config = configOf(await kubeconfigFor(account, { node: name }));
      tokens.push(config.getCurrentUser()?.token ?? '');
    }
    const asAgent = (user: Partial<User>) => {
      const config = adminConfig();
      const cluster = config.getCurrentCluster();
      if (!cluster) throw new Error('no cluster');
      config.loadFromClusterAndUser(cluster, { name: 'agent', ...user });
      return config;
    };
    const tokenFile = join(sandbox.folder, 'token');
    writeFileSync(tokenFile, tokens[0] ?? '');
    const kube = new ApiClient(() => asAgent({ authProvider: { name: 'tokenFile', config: { tokenFile } } }));
    const observed = await observe(kube);
    await core.deleteNode({ name: 'first' });
    const stale = new ApiClient(() => asAgent({ token: tokens[0] ?? '' }));
    stops.push(async () => stale.close());
    // The API server remembers a good token for ten seconds.
    await until(
      'refused',
      () =>
        stale.list('/api/v1/pods', {}, {}).then(
          () => undefined,
          ({ status }) => status,
        ),
      (status) => status === 401,
    );
    writeFileSync(tokenFile, tokens[1] ?? '');
    // client-node would go on with the first token for up to a minute.
    await kube.list('/api/v1/pods', {}, {});
    await create('after');
    await settled(observed);
    await removeAll();
  },
  SLOW,
);
