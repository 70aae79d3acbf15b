/** A pod of the test cluster runs, answers, has logs and is deleted, and the cluster leaves nothing behind. */
import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { CoreV1Api, DiscoveryV1Api } from '@kubernetes/client-node';
import { suite } from '../suite.ts';
import { configOf } from '../support/kubeconfig.ts';
import { added, type Census, census, namespacesOf, now } from './census.ts';
import { type ControlPlane, startControlPlane } from './control-plane.ts';
import { KUBERNETES_ADDRESS } from './network.ts';
import { type ClusterNode, startNode } from './node.ts';
import { deletePod, pod, runPod, toolbox, until } from './pods.ts';

/** For tests that wait for several pods, one after the other. */
const SLOW = { timeoutMs: 60_000 };

const TOOLBOX = join(import.meta.dirname, '../../build/Release/toolbox');

const test = suite('cluster');
test.needs('cluster', 'toolbox');

let before: Census = {};
let controlPlane: ControlPlane;
let node: ClusterNode;
let core: CoreV1Api;
let discovery: DiscoveryV1Api;

test.before(async () => {
  before = census();
  controlPlane = await startControlPlane({ controllers: true });
  node = await startNode(controlPlane, { images: ['toolbox'] });
  const config = configOf(controlPlane.kubeconfig);
  core = config.makeApiClient(CoreV1Api);
  discovery = config.makeApiClient(DiscoveryV1Api);
});
test.after(() => controlPlane?.stop());

test('a pod runs after its init container, with an address of each family', async () => {
  const server = pod('server', {
    initContainers: [toolbox('first', 'help')],
    containers: [toolbox('server', 'serve', '--name', 'server', '--tcp', '8080', '--udp', '8080')],
  });
  const { status, spec } = await runPod(core, server);
  assert.equal(spec?.nodeName, node.name);
  assert.equal(status?.initContainerStatuses?.[0]?.state?.terminated?.exitCode, 0);
  assert.deepEqual(
    status?.podIPs?.map(({ ip }) => ip?.includes(':')),
    [false, true],
  );
});

test('its logs are read through the API', async () => {
  const read = (container: string) => core.readNamespacedPodLog({ namespace: 'default', name: 'server', container });
  assert.match(await read('first'), /toolbox serve/);
  assert.match(await read('server'), /"event":"listening"/);
});

test(
  'a service with an address of each family leads to it, over TCP and UDP',
  async () => {
    const { spec } = await core.createNamespacedService({
      namespace: 'default',
      body: {
        metadata: { name: 'server' },
        spec: {
          ipFamilyPolicy: 'RequireDualStack',
          selector: { app: 'server' },
          ports: ['TCP', 'UDP'].map((protocol) => ({
            name: protocol.toLowerCase(),
            protocol,
            port: 80,
            targetPort: 8080,
          })),
        },
      },
    });
    assert.deepEqual(spec?.ipFamilies, ['IPv4', 'IPv6']);
    await until(
      'in both families: the endpoints',
      async () => (await discovery.listNamespacedEndpointSlice({ namespace: 'default' })).items,
      (slices) =>
        ['IPv4', 'IPv6'].every((family) =>
          slices.some(
            ({ addressType, endpoints, metadata }) =>
              metadata?.name?.startsWith('server-') && addressType === family && endpoints?.[0]?.conditions?.ready,
          ),
        ),
    );
    for (const [at, address] of (spec?.clusterIPs ?? []).entries()) {
      for (const protocol of ['tcp', 'udp']) {
        const dial = ['dial', protocol, address, '80'];
        await until(
          `programmed: the service at ${address}`,
          () => node.exec([TOOLBOX, ...dial]).catch(String),
          (answer) => answer.includes('"ok":true'),
        );
        const name = `client-${protocol}-${at}`;
        const client = pod(name, { restartPolicy: 'Never', containers: [toolbox('client', ...dial)] });
        await core.createNamespacedPod({ namespace: 'default', body: client });
        await until(
          `over: ${name}`,
          () => core.readNamespacedPod({ namespace: 'default', name }),
          ({ status }) => status?.phase === 'Succeeded',
        );
        assert.match(await core.readNamespacedPodLog({ namespace: 'default', name }), /"ok":true,"reply":"server 8080/);
        await deletePod(core, name);
      }
    }
  },
  SLOW,
);

test('the API is a service too, for pods', async () => {
  const dial = ['dial', 'tcp', KUBERNETES_ADDRESS.v4, '443', 'GET / HTTP/1.0'];
  await core.createNamespacedPod({
    namespace: 'default',
    body: pod('client-api', { restartPolicy: 'Never', containers: [toolbox('client', ...dial)] }),
  });
  await until(
    'over: client-api',
    () => core.readNamespacedPod({ namespace: 'default', name: 'client-api' }),
    ({ status }) => status?.phase === 'Succeeded',
  );
  assert.match(
    await core.readNamespacedPodLog({ namespace: 'default', name: 'client-api' }),
    /HTTP\/1.0 400 Bad Request/,
  );
  await deletePod(core, 'client-api');
});

test("a pod's netns is where a node's agent looks for it, and can be opened from here", async () => {
  const names = (await node.exec(['ls', '/run/netns'])).trim().split('\n');
  assert.equal(names.length, 1);
  const inside = (await node.exec(['stat', '--format=%i', `/run/netns/${names[0]}`])).trim();
  assert.equal(`${statSync(node.path(`/run/netns/${names[0]}`)).ino}`, inside);
});

test('a pod can have a user namespace of its own, and a seccomp profile', async () => {
  await runPod(
    core,
    pod('rootless', {
      hostUsers: false,
      securityContext: { seccompProfile: { type: 'RuntimeDefault' } },
      containers: [toolbox('server', 'serve', '--tcp', '80')],
    }),
  );
  const maps = await node.exec(['sh', '-c', 'cat /proc/[0-9]*/uid_map']);
  assert.ok(
    maps.split('\n').some((map) => /^\s+0\s+[1-9]\d+\s+65536$/.test(map)),
    `no such map: ${maps}`,
  );
  await deletePod(core, 'rootless');
});

test(
  'pods outlive containerd',
  async () => {
    const containerd = node.services.get('containerd');
    const restarts = async () =>
      (await core.readNamespacedPod({ namespace: 'default', name: 'server' })).status?.containerStatuses?.[0]
        ?.restartCount;
    await containerd?.kill();
    containerd?.start();
    await runPod(core, pod('later', { containers: [toolbox('server', 'serve', '--tcp', '80')] }));
    assert.equal(await restarts(), 0);
    await deletePod(core, 'later');
  },
  SLOW,
);

test('a deleted pod goes', async () => {
  await deletePod(core, 'server');
  await until(
    'unmounted: the netns',
    () => node.exec(['ls', '/run/netns']),
    (names) => names === '',
  );
});

test(
  'stop() leaves nothing, not even of a pod that runs',
  async () => {
    await runPod(core, pod('last', { containers: [toolbox('server', 'serve', '--tcp', '8080')] }));
    const sandboxes = [controlPlane.sandbox, node.sandbox];
    const traces = {
      names: sandboxes.map(({ name }) => name),
      namespaces: sandboxes.flatMap(({ pid }) => namespacesOf(pid)),
    };
    const during = added(before, census(traces));
    for (const kind of ['processes', 'links', 'routes', 'cgroups', 'folders']) {
      assert.ok(
        during.some((entry) => entry.startsWith(kind)),
        `the census sees no ${kind} of a running cluster`,
      );
    }
    const ended = now();
    await controlPlane.stop();
    assert.deepEqual(added(before, census({ ...traces, ended })), []);
  },
  SLOW,
);
