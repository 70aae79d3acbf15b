/** Two clusters on one machine do not affect each other. */
import assert from 'node:assert/strict';
import { suite } from '../suite.ts';
import { type ControlPlane, coreApi, startControlPlane } from './control-plane.ts';
import { startNode } from './node.ts';
import { pod, runPod, toolbox, until } from './pods.ts';

const LIMIT_MS = 120_000;

const test = suite('cluster, neighbours');
test.needs('cluster', 'toolbox');

const running: ControlPlane[] = [];
test.after(() => Promise.all(running.map((controlPlane) => controlPlane.stop())));

async function startCluster() {
  const controlPlane = await startControlPlane({ controllers: true });
  running.push(controlPlane);
  const node = await startNode(controlPlane, { images: ['toolbox'] });
  return { controlPlane, node, core: coreApi(controlPlane.kubeconfig) };
}

test(
  'two clusters run at once, and one goes on when the other stops',
  async () => {
    const [one, other] = await Promise.all([startCluster(), startCluster()]);
    const same = (cluster: string) =>
      pod('same', { containers: [toolbox('server', 'serve', '--name', cluster, '--tcp', '80')] });
    const pods = await Promise.all([runPod(one.core, same('one')), runPod(other.core, same('other'))]);
    // The same range in each cluster, and so the same address.
    assert.equal(pods[0].status?.podIP, pods[1].status?.podIP);
    await one.controlPlane.stop();
    const log = await other.core.readNamespacedPodLog({ namespace: 'default', name: 'same' });
    assert.match(log, /"name":"other"/);
    await other.controlPlane.stop();
  },
  { timeoutMs: LIMIT_MS },
);

test(
  "pods of two nodes of one cluster reach each other, and a node's end is seen by the other",
  async () => {
    const { controlPlane, node: first, core } = await startCluster();
    const second = await startNode(controlPlane, { images: ['toolbox'] });
    const on = (nodeName: string, name: string, ...args: string[]) =>
      pod(name, { nodeName, restartPolicy: 'Never', containers: [toolbox('toolbox', ...args)] });
    const server = await runPod(core, on(first.name, 'server', 'serve', '--name', 'far', '--tcp', '80'));
    for (const [at, { ip = '' }] of (server.status?.podIPs ?? []).entries()) {
      const name = `client-${at}`;
      await core.createNamespacedPod({ namespace: 'default', body: on(second.name, name, 'dial', 'tcp', ip, '80') });
      await until(
        `over: ${name}`,
        () => core.readNamespacedPod({ namespace: 'default', name }),
        ({ status }) => status?.phase === 'Succeeded',
      );
      assert.match(await core.readNamespacedPodLog({ namespace: 'default', name }), /"ok":true,"reply":"far 80/);
    }
    await second.stop();
    await first.exec(['true']);
    await assert.rejects(second.exec(['true']), /nsenter: cannot open .*: No such file or directory/);
    await controlPlane.stop();
  },
  { timeoutMs: LIMIT_MS },
);
