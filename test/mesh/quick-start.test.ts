/** docs/quick-start.md on a Debian machine, with Istio: its commands, read from it and run as they are. */
import assert from 'node:assert/strict';
import { commandsOf, folderWithChart, shellIn } from '../cluster/quick-start.ts';
import { suite } from '../suite.ts';
import { type Mesh, startMesh } from './mesh.ts';

const test = suite('mesh, quick start');
test.needs('mesh', 'addon', 'gate');

const folder = folderWithChart();
let mesh: Mesh;
test.before(async () => {
  mesh = await startMesh({ images: ['istio-pod-network-controller', 'pod-network-gate'] });
});
test.after(() => mesh?.stop());

test(
  'the commands after the start of the cluster end with a pod of the mesh without any privilege',
  async () => {
    const [start, ...commands] = commandsOf('A Debian machine, with Istio');
    // This cluster is started in the same way.
    assert.equal(start, 'npm run cluster -- --mesh --image istio-pod-network-controller,pod-network-gate');
    const { controlPlane } = mesh.cluster;
    const env = { ISTIOD_CHART: mesh.istiodChart };
    const said = await shellIn(folder, controlPlane, commands.join('\n'), env);
    assert.match(said, /captured: IPv4/);
    assert.match(said, /pod\/web condition met/);
    assert.match(said, / Initialized +pod\/web /);
    const pod = await mesh.cluster.core.readNamespacedPod({ namespace: 'shop', name: 'web' });
    const inits = pod.spec?.initContainers?.map(({ name }) => name);
    assert.ok(!inits?.includes('istio-init'), `${inits}`);
    assert.ok(
      [...(inits ?? []), ...(pod.spec?.containers ?? []).map(({ name }) => name)].includes('istio-proxy'),
      `${inits}`,
    );
  },
  { timeoutMs: 180_000 },
);
