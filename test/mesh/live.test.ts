/**
 * Traffic between pods of a real mesh: Istio's injector, agent and Envoy with our gate and our rules, in both forms of the
 * rules. All pods of one form start together; each test makes requests between them.
 */
import assert from 'node:assert/strict';
import type { V1Pod } from '@kubernetes/client-node';
import { ControllerProcess } from '../cluster/controller-process.ts';
import { addressesOf } from '../cluster/mesh-pod.ts';
import { until } from '../cluster/pods.ts';
import { suite } from '../suite.ts';
import { type EchoOptions, EXTRA, HTTP, request, requireMutualTls, runEcho, TCP } from './echo.ts';
import { type Mesh, OUTSIDE, PRIVILEGED, startMesh } from './mesh.ts';
import { usePolicy } from './policy.ts';

const test = suite('mesh, live');
test.needs('mesh', 'addon', 'gate');

const SLOW = { timeoutMs: 120_000 };
const [DIRECT = 0, OTHER = 0] = EXTRA;
const BACKENDS = ['iptables-legacy', 'nftables'] as const;

let mesh: Mesh;
let controller: ControllerProcess | undefined;
/** Not of the mesh. */
let outsider: V1Pod;

const identity = (name: string, namespace: string) => `spiffe://cluster.local/ns/${namespace}/sa/${name}`;
const host = (address: string) => (address.includes(':') ? `[${address}]` : address);
const url = (address: string, port: number, path = '/') => `http://${host(address)}:${port}${path}`;
const traffic = (annotations: Record<string, string>) =>
  Object.fromEntries(Object.entries(annotations).map(([key, value]) => [`traffic.sidecar.istio.io/${key}`, value]));
const config = (value: object) => ({ 'proxy.istio.io/config': JSON.stringify(value) });
const metadata = (variables: Record<string, string>) => config({ proxyMetadata: variables });
const v4 = (pod: V1Pod) => addressesOf(pod).find((address) => !address.includes(':')) ?? '';
const v6 = (pod: V1Pod) => addressesOf(pod).find((address) => address.includes(':')) ?? '';

test.before(async () => {
  // istiod makes listeners of both families for proxies that say ISTIO_DUAL_STACK, if the variable is set for istiod as well.
  mesh = await startMesh({ images: ['pod-network-gate'], values: { env: { ISTIO_DUAL_STACK: 'true' } } });
});
test.before(async () => {
  [outsider] = await Promise.all([runEcho(mesh, 'outsider', { namespace: OUTSIDE }), usePolicy(mesh)]);
});
test.after(async () => {
  await controller?.stop();
  await mesh?.stop();
});

/** Envoy's access log of a pod, once it has such a line. */
function logged(pod: V1Pod, line: RegExp): Promise<string> {
  const log = () => mesh.logs(pod, 'istio-proxy');
  return until(`logged by ${pod.metadata?.name}: ${line}`, log, (text) => line.test(text), 10_000);
}

/** A probe that STRICT refuses fails at once. On a busy machine an answer may be late, and that must not fail. */
const OFTEN = { periodSeconds: 1, timeoutSeconds: 60 };
const PROBES = {
  // All pods of one form start together, so it may take long until the app listens. The liveness probe finds a refusal.
  startupProbe: { httpGet: { path: '/startup', port: HTTP }, ...OFTEN, failureThreshold: 60 },
  readinessProbe: { tcpSocket: { port: TCP }, ...OFTEN },
  livenessProbe: { httpGet: { path: '/live', port: HTTP }, ...OFTEN, failureThreshold: 1 },
};
const ORDINARY = { 'sidecar.istio.io/nativeSidecar': 'false' };

for (const backend of BACKENDS) {
  /** Its pods are injected and may not have any privilege. */
  const namespace = `live-${backend}`;
  const service = (name: string) => `${name}.${namespace}`;
  const transparent = `transparent-${backend}`;

  const pods = (): Record<string, EchoOptions> => ({
    web: {},
    client: {},
    probed: { change: ({ containers: [container] }) => Object.assign(container ?? {}, PROBES) },
    captured: { annotations: metadata({ ISTIO_META_DNS_CAPTURE: 'true' }) },
    [transparent]: { namespace: PRIVILEGED, annotations: { 'sidecar.istio.io/interceptionMode': 'TPROXY' } },
    excluded: {
      annotations: traffic({
        excludeInboundPorts: `${DIRECT}`,
        excludeOutboundPorts: `${OTHER}`,
        excludeOutboundIPRanges: `${v4(outsider)}/32`,
      }),
    },
    dual: { annotations: metadata({ ISTIO_DUAL_STACK: 'true' }) },
    ordinary: { annotations: ORDINARY },
    held: { annotations: { ...ORDINARY, ...config({ holdApplicationUntilProxyStarts: true }) } },
    // In a user namespace of its own the kernel takes no owner rules of iptables-legacy from outside.
    ...(backend === 'nftables' && { userns: { change: (spec) => Object.assign(spec, { hostUsers: false }) } }),
  });
  const running = new Map<string, V1Pod>();
  const of = (name: string): V1Pod => {
    const found = running.get(name);
    if (found === undefined) throw new Error(`pod ${name} has not started`);
    return found;
  };

  test(
    `${backend}: pods of every kind start in a namespace that gives them no privilege`,
    async () => {
      await controller?.stop();
      const labels = { 'istio-injection': 'enabled', 'pod-security.kubernetes.io/enforce': 'restricted' };
      await mesh.apply([{ apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace, labels } }]);
      const { node, kubeconfig } = mesh.cluster;
      controller = await ControllerProcess.start(node, kubeconfig, '--enroll=istio', '--backend', backend);
      const started = Object.entries(pods()).map(async ([name, options]) =>
        running.set(name, await runEcho(mesh, name, { namespace, ...options })),
      );
      await Promise.all(started);
      for (const name of ['web', 'client']) {
        const { initContainers = [], containers = [] } = of(name).spec ?? {};
        assert.deepEqual(
          initContainers.map(({ name }) => name),
          ['pod-network-gate', 'istio-proxy'],
        );
        for (const { securityContext } of [...initContainers, ...containers])
          assert.equal(securityContext?.capabilities?.add, undefined);
      }
    },
    SLOW,
  );

  test(
    `${backend}: a pod calls another by its service: both identities, both access logs`,
    async () => {
      const { status, by, header, text } = await request(mesh, of('client'), url('web', HTTP, '/called'));
      assert.deepEqual({ status, by }, { status: '200', by: 'web' }, text);
      const certificate = header('X-Forwarded-Client-Cert') ?? '';
      assert.match(certificate, new RegExp(`By=${identity('web', namespace)};`));
      assert.match(certificate, new RegExp(`URI=${identity('client', namespace)}$`));
      const cluster = `outbound\\|${HTTP}\\|\\|web\\.${namespace}\\.svc\\.cluster\\.local`;
      await logged(of('client'), new RegExp(`"GET /called HTTP/1\\.1" 200 .*${cluster}`));
      await logged(of('web'), new RegExp(`"GET /called HTTP/1\\.1" 200 .*inbound\\|${HTTP}\\|\\|`));
    },
    SLOW,
  );

  test(
    `${backend}: STRICT refuses an outsider, by service and by address of the pod; members are served`,
    async () => {
      const byService = url(service('web'), HTTP);
      assert.equal((await request(mesh, outsider, byService)).status, '200', 'before');
      await requireMutualTls(mesh, namespace, outsider, byService);
      for (const address of [service('web'), v4(of('web'))]) {
        const { status } = await request(mesh, outsider, url(address, HTTP));
        assert.match(status, /reset|EOF/, address);
      }
      // Envoy resets the connections of the old listener for a moment after it refuses the outsider.
      for (const served of [url('web', HTTP), `tcp://web:${TCP}`]) {
        const asked = () => request(mesh, of('client'), served);
        await until(`served: ${served}`, asked, ({ status }) => status === '200', 10_000);
      }
    },
    SLOW,
  );

  test(
    `${backend}: DNS capture: the agent answers, also for a name that only the mesh knows`,
    async () => {
      const name = `invented.${backend}.example.com`;
      const entry = {
        apiVersion: 'networking.istio.io/v1',
        kind: 'ServiceEntry',
        metadata: { name: 'invented', namespace },
        spec: {
          hosts: [name],
          addresses: ['240.240.1.1'],
          ports: [{ number: HTTP, name: 'http', protocol: 'HTTP' }],
          resolution: 'STATIC',
          endpoints: [{ address: v4(outsider) }],
        },
      };
      await mesh.apply([entry]);
      const asked = () => request(mesh, of('captured'), url(name, HTTP));
      await until('known: the invented name', asked, ({ by }) => by === 'outsider');
      assert.equal((await request(mesh, of('client'), url(name, HTTP))).status, 'no such host');
      assert.equal((await request(mesh, of('captured'), url('web', HTTP))).by, 'web');
    },
    SLOW,
  );

  test(
    `${backend}: TPROXY keeps the client's address, where REDIRECT shows Envoy's`,
    async () => {
      const kept = await request(mesh, of('client'), url(`${transparent}.${PRIVILEGED}`, HTTP));
      assert.equal(kept.by, transparent, kept.text);
      assert.match(kept.header('X-Forwarded-Client-Cert') ?? '', new RegExp(identity('client', namespace)));
      assert.equal(kept.from, v4(of('client')));
      const redirected = await request(mesh, of('client'), url('web', HTTP));
      assert.equal(redirected.from, '127.0.0.6', redirected.text);
    },
    SLOW,
  );

  test(
    `${backend}: excluded ports and ranges stay direct, in both directions`,
    async () => {
      // STRICT is in force. What is not captured is served all the same, and shows the client's own address.
      const inbound = await request(mesh, outsider, url(v4(of('excluded')), DIRECT));
      assert.equal(inbound.status, '200', inbound.text);
      assert.equal(inbound.from, v4(outsider));
      assert.match((await request(mesh, outsider, url(v4(of('excluded')), OTHER))).status, /reset|EOF/);
      // Envoy adds headers of its own to the requests that pass through it.
      const passesEnvoy = async (from: string, port: number) => {
        const answer = await request(mesh, of(from), url(v4(outsider), port));
        assert.equal(answer.status, '200', answer.text);
        return answer.header('X-Forwarded-Proto') !== undefined;
      };
      assert.equal(await passesEnvoy('excluded', HTTP), false, 'excluded range');
      assert.equal(await passesEnvoy('client', HTTP), true, 'the same address from a pod without exclusions');
      const other = await request(mesh, of('excluded'), url(v4(of('dual')), OTHER));
      assert.match(other.status, /reset|EOF/, 'excluded port: without its proxy the pod has no identity for STRICT');
      const captured = await request(mesh, of('excluded'), url('web', HTTP));
      assert.equal(captured.status, '200', captured.text);
    },
    SLOW,
  );

  test(
    `${backend}: with ISTIO_DUAL_STACK the proxy has both families; without it IPv6 is left out, or blocked if so chosen`,
    async () => {
      for (const address of [v4(of('dual')), v6(of('dual'))]) {
        const { status } = await request(mesh, outsider, url(address, HTTP));
        assert.match(status, /reset|EOF/, `${address}: captured, and refused by STRICT`);
      }
      const out = await request(mesh, of('dual'), url(v6(outsider), HTTP));
      assert.ok(out.header('X-Forwarded-Proto') !== undefined, out.text);
      // STRICT is in force, so whoever is answered has gone past the proxy.
      const single = () => request(mesh, outsider, url(v6(of('web')), HTTP));
      assert.equal((await single()).status, '200');
      const past = await request(mesh, of('web'), url(v6(outsider), HTTP));
      assert.deepEqual([past.status, past.header('X-Forwarded-Proto')], ['200', undefined]);
      const fieldSelector = 'reason=FamilyNotServed,involvedObject.name=web';
      const events = await mesh.cluster.core.listNamespacedEvent({ namespace, fieldSelector });
      assert.match(events.items[0]?.message ?? '', /^IPv6 of this pod is left out of the mesh/);

      await controller?.stop();
      const { node, kubeconfig } = mesh.cluster;
      const flags = ['--enroll=istio', '--backend', backend, '--unserved-families', 'block'];
      controller = await ControllerProcess.start(node, kubeconfig, ...flags);
      await until('blocked: IPv6', single, ({ status }) => /connection refused|reset|EOF/.test(status));
      // istiod may have given this Envoy listeners of IPv6. Then the request is in the mesh.
      const blocked = await request(mesh, of('web'), url(v6(outsider), HTTP));
      assert.ok(blocked.status !== '200' || blocked.header('X-Forwarded-Proto') !== undefined, blocked.text);
      assert.equal((await request(mesh, of('client'), url('web', HTTP))).status, '200');
    },
    SLOW,
  );

  test(
    `${backend}: the app's init containers run behind a native sidecar, and are in the mesh`,
    async () => {
      const command = ['/client', '--timeout', '3s', url('web', HTTP, '/from-init')];
      const made = await runEcho(mesh, 'migrates', {
        namespace,
        change: (spec) => {
          const [container] = spec.containers;
          if (container) spec.initContainers = [{ ...container, name: 'migrate', command, args: [], ports: [] }];
        },
      });
      const names = (made.spec?.initContainers ?? []).map(({ name }) => name);
      assert.deepEqual(names, ['pod-network-gate', 'istio-proxy', 'migrate']);
      assert.match(await mesh.logs(made, 'migrate'), new RegExp(`URI=${identity('migrates', namespace)}`));
    },
    SLOW,
  );

  test(
    `${backend}: an ordinary sidecar, one that holds the app, and a pod in a user namespace have their identities`,
    async () => {
      const names = ['ordinary', 'held', 'userns'].filter((name) => running.has(name));
      const answers = await Promise.all(names.map((name) => request(mesh, of(name), url('web', HTTP))));
      for (const [at, { status, header, text }] of answers.entries()) {
        assert.equal(status, '200', text);
        assert.match(header('X-Forwarded-Client-Cert') ?? '', new RegExp(identity(names[at] ?? '', namespace)));
      }
    },
    SLOW,
  );

  test(
    `${backend}: probes of the app are rewritten, and reach it where STRICT refuses the kubelet`,
    async () => {
      const { spec } = of('probed');
      assert.equal(spec?.containers[0]?.livenessProbe?.httpGet?.path, '/app-health/app/livez');
      // STRICT has been in force since the second test, and one liveness probe that fails restarts the app.
      const now = await mesh.cluster.now(of('probed'));
      const app = now.status?.containerStatuses?.find(({ name }) => name === 'app');
      const events = await mesh.cluster.core.listNamespacedEvent({
        namespace,
        fieldSelector: 'reason=Unhealthy,involvedObject.name=probed',
      });
      const failed = events.items.map(({ count, message }) => `${count} x ${message}`).join('\n');
      assert.equal(app?.restartCount, 0, `${failed}\n${JSON.stringify(app?.lastState)}`);
      assert.equal(app?.ready, true, failed);
    },
    SLOW,
  );
}
