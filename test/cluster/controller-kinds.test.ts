/** Pods that ask for more than the default: TPROXY, DNS capture, and our condition as a readiness gate. */
import assert from 'node:assert/strict';
import type { V1Pod } from '@kubernetes/client-node';
import { READY } from '../../lib/kube/status.ts';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { inside } from '../support/netns.ts';
import { ControllerProcess } from './controller-process.ts';
import { addressesOf, INITIALIZE, isInitialized, Mesh, meshPod, NAMESPACE, plainPod } from './mesh-pod.ts';
import { runPod, until } from './pods.ts';

const SLOW = { timeoutMs: 60_000 };

const test = suite('cluster, controller and kinds of pods');
test.needs('cluster', 'addon', 'toolbox', 'iptables-legacy-save', 'nft', 'ip');

let mesh: Mesh;
let controller: ControllerProcess;
/** Not enrolled; the other end of connections. */
let peer: V1Pod;

test.before(async () => {
  mesh = await Mesh.start(['toolbox']);
  controller = await ControllerProcess.start(mesh.node, mesh.kubeconfig, '--resync', '1s');
  peer = await mesh.run(plainPod('peer'));
});
test.after(async () => {
  await controller?.stop();
  await mesh?.stop();
});

/** The command line, by its own reading of the pod, finds what the controller installed. */
async function verifies(pod: V1Pod): Promise<void> {
  const { path } = await mesh.netns(pod);
  const { code, stdout, stderr } = await ipnc(['verify', '--netns', path, '--pod', '-', '--counters', 'false'], {
    input: JSON.stringify(await mesh.now(pod)),
  });
  assert.equal(code, 0, stdout + stderr);
}

async function routes(path: string, family: 4 | 6): Promise<string> {
  return inside(path, ['sh', '-ec', `ip -${family} rule show; ip -${family} route show table 133`]);
}

for (const { backend, hostUsers } of [
  { backend: 'iptables-legacy', hostUsers: true },
  { backend: 'nftables', hostUsers: false },
]) {
  test(
    `TPROXY by ${backend}: rules and routes of both families, and they are kept`,
    async () => {
      const pod = await runPod(mesh.core, meshPod(`tproxy-${backend}`, { mode: 'TPROXY', hostUsers }));
      await mesh.marked(pod, isInitialized);
      assert.equal((await controller.pods()).get(`tproxy-${backend}`)?.backend, backend);
      const { path } = await mesh.netns(pod);
      const rules = await mesh.rules(pod);
      assert.match(rules, backend === 'nftables' ? /tproxy .*to :15006/ : /-j TPROXY --on-port 15006/);
      for (const family of [4, 6] as const) {
        const text = await routes(path, family);
        assert.match(text, /fwmark 0x539 lookup 133/);
        assert.match(text, /local default dev lo/);
      }
      await verifies(pod);
      await mesh.expectCaptured(pod, peer);

      const before = await routes(path, 6);
      await inside(path, ['ip', '-6', 'rule', 'del', 'fwmark', '0x539', 'lookup', '133']);
      await until(
        'put right',
        () => routes(path, 6),
        (text) => text === before,
        5_000,
      );
      await verifies(pod);
      await mesh.expectCaptured(pod, peer);
    },
    SLOW,
  );

  test(
    `DNS capture by ${backend}: datagrams and connections, to any server, in both families`,
    async () => {
      const pod = await mesh.runInitialized(meshPod(`dns-${backend}`, { dnsCapture: true, hostUsers }));
      assert.equal((await controller.pods()).get(`dns-${backend}`)?.backend, backend);
      await verifies(pod);
      for (const address of [...addressesOf(peer), '10.96.0.10']) {
        for (const protocol of ['udp', 'tcp'] as const) {
          assert.match(await mesh.dial(pod, protocol, address, 53), /^istio-proxy 15053 /, `${protocol} ${address}`);
        }
      }
      await mesh.expectCaptured(pod, peer);
      const without = await mesh.runInitialized(meshPod(`no-dns-${backend}`, { hostUsers }));
      const [address = ''] = addressesOf(peer);
      assert.equal(await mesh.dial(without, 'udp', address, 53), 'ECONNREFUSED');
    },
    SLOW,
  );
}

const isReady = ({ status }: V1Pod) =>
  status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') === true;

test(
  'a pod that waits for our condition is ready when its rules stand, and stays so out of the mesh',
  async () => {
    const readinessGates = [READY];
    const web = await mesh.runInitialized(meshPod('gated', { readinessGates }));
    await mesh.annotate(web, { [INITIALIZE]: 'false' });
    await mesh.marked(web, ({ status, condition }) => status === undefined && condition === 'True NotEnrolled');
    assert.ok(isReady(await mesh.now(web)));
    // Never enrolled, and ready all the same.
    const plain = await mesh.run(plainPod('gated-plain', { readinessGates }));
    assert.deepEqual(await mesh.marks(plain), { condition: 'True NotEnrolled' });
    assert.ok(!(await mesh.rules(plain)).includes('ISTIO_'));

    await controller.stop();
    const body = meshPod('gated-later', { readinessGates });
    const created = await mesh.core.createNamespacedPod({ namespace: NAMESPACE, body });
    const started = await until(
      'running',
      () => mesh.now(created),
      ({ status }) => status?.containerStatuses?.every(({ ready }) => ready) === true,
    );
    assert.ok(!isReady(started), 'ready without its rules');
    controller = await ControllerProcess.start(mesh.node, mesh.kubeconfig);
    await until('ready', () => mesh.now(created), isReady);
    await mesh.expectCaptured(await mesh.now(created), peer);
  },
  SLOW,
);
