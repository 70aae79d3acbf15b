/**
 * Pods that Istio itself set up, with its agent and Envoy in every kind of sidecar, get our rules with each backend, and
 * then none. Meanwhile members of the mesh send requests to them and get requests from them, and an outsider sends
 * requests to them. STRICT refuses the outsider, so an answer would show that a request bypassed the proxy.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import type { V1Pod } from '@kubernetes/client-node';
import { INITIALIZE } from '../../lib/istio/names.ts';
import { native } from '../../lib/native/addon.ts';
import { ControllerProcess } from '../cluster/controller-process.ts';
import { addressesOf, isInitialized } from '../cluster/mesh-pod.ts';
import { until } from '../cluster/pods.ts';
import { suite } from '../suite.ts';
import { inside } from '../support/netns.ts';
import { type BACKENDS, backendsOf } from './backends.ts';
import { type EchoOptions, HTTP, request, requireMutualTls, runEcho } from './echo.ts';
import { type Mesh, OUTSIDE, PRIVILEGED, startMesh } from './mesh.ts';

const test = suite('mesh, move');
test.needs('mesh', 'addon', 'ip', 'nsenter', 'nft', 'iptables-legacy-save', 'ip6tables-legacy-save');

const SLOW = { timeoutMs: 300_000 };

const ORDINARY = { 'sidecar.istio.io/nativeSidecar': 'false' };
const KINDS: [kind: string, annotations: Record<string, string>][] = [
  ['native sidecar', {}],
  ['ordinary sidecar', ORDINARY],
  [
    'ordinary sidecar that holds the app',
    { ...ORDINARY, 'proxy.istio.io/config': JSON.stringify({ holdApplicationUntilProxyStarts: true }) },
  ],
  ['native sidecar, TPROXY', { 'sidecar.istio.io/interceptionMode': 'TPROXY' }],
];

interface Moved {
  name: string;
  by: 'istio-init' | 'istio-cni';
  kind: string;
  pod: V1Pod;
  /** The backends to which it has moved while the traffic was as it must be. */
  backends: string[];
}

let mesh: Mesh;
let controller: ControllerProcess | undefined;
let caller: V1Pod;
let outsider: V1Pod;
const all: Moved[] = [];
/** The rows of the table in docs/migrate.md. */
const found: string[] = [];

const url = (host: string) => `http://${host.includes(':') ? `[${host}]` : host}:${HTTP}/`;
const service = (name: string) => url(`${name}.${PRIVILEGED}`);
const identity = (name: string) => `URI=spiffe://cluster.local/ns/${PRIVILEGED}/sa/${name}`;

test.before(async () => {
  // The proxies serve both families of the pods.
  const env = { ISTIO_DUAL_STACK: 'true' };
  mesh = await startMesh({ values: { env, meshConfig: { defaultConfig: { proxyMetadata: env } } } });
});
test.after(async () => {
  await controller?.stop();
  await mesh?.stop();
});

function start(name: string, options: EchoOptions): Promise<V1Pod> {
  return runEcho(mesh, name, { namespace: PRIVILEGED, ...options });
}

async function startAll(by: Moved['by']): Promise<void> {
  const starting = KINDS.map(async ([kind, annotations], at): Promise<Moved> => {
    const name = `${by}-${at}`;
    return { name, by, kind, pod: await start(name, { annotations }), backends: [] };
  });
  all.push(...(await Promise.all(starting)));
}

/** A member of the mesh sends a request. It is answered, and the other proxy knows who sent it. */
async function isServed(from: { name: string; pod: V1Pod }, to: string): Promise<void> {
  const { status, by, header, text } = await request(mesh, from.pod, service(to));
  assert.deepEqual({ status, by }, { status: '200', by: to }, `${from.name} -> ${to}: ${text}`);
  assert.ok(header('X-Forwarded-Client-Cert')?.endsWith(identity(from.name)), `${from.name} -> ${to}: ${text}`);
}

/** Requests in and out of all pods, from before `job` until each pod had its turn after it. */
async function withTraffic(job: () => Promise<unknown>): Promise<void> {
  let over = false;
  const ended = job().finally(() => {
    over = true;
  });
  const rounds = async (visit: (moved: Moved) => Promise<void>) => {
    for (let last = false; !last; ) {
      last = over;
      for (const moved of all) await visit(moved);
    }
  };
  const outcomes = await Promise.allSettled([
    ended,
    rounds(({ name }) => isServed({ name: 'caller', pod: caller }, name)),
    rounds((moved) => isServed(moved, 'caller')),
    rounds(async ({ name, pod }) => {
      for (const address of addressesOf(pod)) {
        const { status, text } = await request(mesh, outsider, url(address));
        assert.notEqual(status, '200', `${name} answered an outsider at ${address}: ${text}`);
      }
    }),
  ]);
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
}

/** The rules of the pod, and its policy rules. */
async function traces(pod: V1Pod): Promise<string> {
  const { path } = await mesh.cluster.netns(pod);
  const policy = await inside(path, ['sh', '-ec', 'ip -4 rule; ip -6 rule']);
  return (await mesh.cluster.rules(pod)) + policy;
}

async function isIstios({ pod }: Moved): Promise<boolean> {
  return (await native().identify((await mesh.cluster.netns(pod)).path)).iptablesNft;
}

test(
  'Istio sets the pods up, and STRICT is in force',
  async () => {
    await startAll('istio-init');
    await mesh.installIstioCni(mesh.cluster.node);
    await mesh.configure({ pilot: { cni: { enabled: true } } });
    [caller, outsider] = await Promise.all([
      start('caller', {}),
      runEcho(mesh, 'outsider', { namespace: OUTSIDE }),
      startAll('istio-cni'),
    ]);
    for (const { by, pod } of all) {
      const names = (pod.spec?.initContainers ?? []).map(({ name }) => name);
      assert.ok(names.includes(by === 'istio-init' ? 'istio-init' : 'istio-validation'), `${names}`);
    }
    assert.deepEqual(await Promise.all(all.map(isIstios)), Array(all.length).fill(true));
    await requireMutualTls(mesh, PRIVILEGED, outsider, service('caller'));
    // Each Envoy learns of STRICT by itself, and then resets the connections of its old listener for a moment.
    for (const { name, pod } of all) {
      for (const address of addressesOf(pod)) {
        const asked = () => request(mesh, outsider, url(address));
        await until(`refused by ${name} at ${address}: the outsider`, asked, ({ status }) => status !== '200');
      }
      for (const [from, to] of [
        [caller, name],
        [pod, 'caller'],
      ] as const) {
        const asked = () => request(mesh, from, service(to));
        await until(`served: ${to}`, asked, ({ status }) => status === '200', 10_000);
      }
    }
    await withTraffic(async () => {});
  },
  SLOW,
);

/**
 * Each move: its backend, and the pods that move for the first time. The controller leaves the pods of istio-init alone
 * until they are annotated. So the pods of istio-cni leave Istio's rules for one backend, and those of istio-init for the other.
 */
const MOVES: [backend: keyof typeof BACKENDS, joining?: Moved['by']][] = [
  ['nftables'],
  ['iptables-legacy', 'istio-init'],
  ['nftables'],
];
const enrolled = new Set<Moved['by']>(['istio-cni']);
for (const [at, [backend, joining]] of MOVES.entries()) {
  test(
    `move ${at + 1}, to ${backend}${joining ? `, the pods of ${joining} from Istio's rules` : ''}: every request is served, none bypasses the proxy`,
    async () => {
      if (joining) enrolled.add(joining);
      const moving = all.filter(({ by }) => enrolled.has(by));
      await withTraffic(async () => {
        await controller?.stop();
        const { node, kubeconfig } = mesh.cluster;
        controller = await ControllerProcess.start(node, kubeconfig, '--backend', backend);
        for (const { by, pod } of all) if (by === joining) await mesh.cluster.annotate(pod, { [INITIALIZE]: 'true' });
        for (const { name, pod } of moving) {
          await mesh.cluster.marked(pod, isInitialized);
          await until(
            `in ${backend}: the rules of ${name}`,
            () => backendsOf(mesh, pod),
            (holders) => `${holders}` === backend,
          );
        }
      });
      assert.deepEqual(
        await Promise.all(all.map(isIstios)),
        all.map((each) => !moving.includes(each)),
      );
      const fieldSelector = 'reason=TakenOver';
      await until(
        'reported: the take-over of every pod',
        () => mesh.cluster.core.listNamespacedEvent({ namespace: PRIVILEGED, fieldSelector }),
        ({ items }) => moving.every(({ name }) => items.some(({ involvedObject }) => involvedObject.name === name)),
      );
      for (const each of moving) each.backends.push(backend);
    },
    SLOW,
  );
}

test(
  'opted out, the pods have no rules, and answer an outsider directly',
  async () => {
    for (const { name, by, kind, pod, backends } of all) {
      await mesh.cluster.annotate(pod, { [INITIALIZE]: 'false' });
      for (const address of addressesOf(pod)) {
        await until(
          `answered by ${name} at ${address}: the outsider`,
          () => request(mesh, outsider, url(address)),
          ({ status }) => status === '200',
        );
      }
      assert.doesNotMatch(await traces(pod), /ISTIO_|istio-|lookup 133/);
      found.push(
        [by, kind, backends.join(', '), 'every request served, none bypassed the proxy', 'no rules'].join(' | '),
      );
    }
  },
  SLOW,
);

test('the table in docs/migrate.md says what was found', () => {
  const golden = new URL('move.golden', import.meta.url);
  const text = `${found.join('\n')}\n`;
  // Afterwards: npm run docs.
  if (process.env.IPNC_TEST_UPDATE === '1') writeFileSync(golden, text);
  assert.equal(text, readFileSync(golden, 'utf8'));
});
