/** The commands of docs/quick-start.md that need no other tool than helm and kubectl, read from it and run as they are. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { suite } from '../suite.ts';
import { imageName } from './images/images.ts';
import { Mesh, NAMESPACE } from './mesh-pod.ts';
import { programs } from './programs.ts';
import { commandsOf, folderWithChart, shellIn } from './quick-start.ts';

const NAME = 'istio-pod-network-controller';
const SLOW = { timeoutMs: 120_000 };

const test = suite('cluster, quick start');
test.needs('cluster', 'addon');

const folder = folderWithChart();
let mesh: Mesh;
test.before(async () => {
  mesh = await Mesh.start([NAME]);
});
test.after(async () => {
  await mesh?.stop();
});

const shell = (command: string) => shellIn(folder, mesh.controlPlane, command);

test(
  'a Debian machine: the commands after the start of the cluster end with a captured pod',
  async () => {
    const [start, ...commands] = commandsOf('A Debian machine, without Docker');
    // This cluster is started in the same way.
    assert.match(start ?? '', new RegExp(`^npm run cluster -- --image ${NAME},pod-network-gate$`));
    assert.equal(commands.length, 2);
    const said: string[] = [];
    for (const command of commands) said.push(await shell(command));
    assert.match(said.at(-1) ?? '', /captured: IPv4/);
    await shell(`helm uninstall ${NAME} --namespace istio-system --wait`);
  },
  SLOW,
);

test(
  'kind: the commands in their order end with a captured pod',
  async () => {
    const commands = commandsOf('kind');
    const tools = commands.map((command) => command.split(' ')[0]);
    assert.deepEqual(tools, ['docker', 'kind', 'kind', 'helm', 'helm']);
    // In place of "docker build", "kind create cluster" and "kind load": the node has the image under the name on the page.
    const [, tag = ''] = / --tag (\S+) /.exec(commands[0] ?? '') ?? [];
    assert.ok(commands[2]?.endsWith(` ${tag}`), commands[2]);
    const ctr = (await programs(['ctr'])).path('ctr');
    await mesh.node.exec([ctr, '--namespace', 'k8s.io', 'images', 'tag', imageName(NAME), tag]);
    const said: string[] = [];
    for (const command of commands.slice(3)) said.push(await shell(command));
    assert.match(said.at(-1) ?? '', /captured: IPv4/);
  },
  SLOW,
);

test(
  '"Look at it": each command answers',
  async () => {
    for (const command of commandsOf('Look at it')) assert.notEqual((await shell(command)).trim(), '', command);
  },
  SLOW,
);

test(
  '"Pods of Istio": the values for istiod name the gate that was built, and the pod may run without any privilege',
  async () => {
    const commands = commandsOf('Pods of Istio');
    const [, gate = ''] = / --tag (\S+) /.exec(commands[0] ?? '') ?? [];
    for (const start of ['helm upgrade ', 'kubectl --namespace istio-system get configmap ']) {
      const command = commands.find((each) => each.startsWith(start));
      assert.ok(command, start);
      await shell(command);
    }
    const values = parse(readFileSync(join(folder, 'istiod-values.yaml'), 'utf8')) as {
      sidecarInjectorWebhook: { templates: Record<string, string> };
    };
    assert.ok(values.sidecarInjectorWebhook.templates['pod-network-gate']?.includes(`"${gate}"`), gate);
    // The namespace exists already. Nobody injects the pod here, and its image cannot be pulled.
    const from = commands.findIndex((each) => each.startsWith(`kubectl label namespace ${NAMESPACE} `));
    const said = await shell(commands.slice(from, commands.indexOf('EOF') + 1).join('\n'));
    assert.match(said, /pod\/web created\n$/);
  },
  SLOW,
);

test('every section installs with five commands at most, and differs from kind in values alone', async () => {
  const [kind = ''] = commandsOf('kind').filter((command) => command.startsWith('helm install'));
  const words = new Set(kind.split(' '));
  for (const heading of ['minikube', 'k3d', 'OpenShift Local']) {
    const commands = commandsOf(heading);
    assert.ok(commands.length <= 5, heading);
    const install = commands.find((command) => command.startsWith('helm install')) ?? '';
    const set = install.split(' ').filter((word) => !words.has(word));
    assert.ok(
      set.every((word) => /^[A-Za-z.]+=\S+$/.test(word)),
      `${heading}: ${set}`,
    );
    // The real chart takes these values.
    const rendered = await shell(install.replace('helm install', 'helm template').replace(' --wait', ''));
    assert.match(rendered, /kind: DaemonSet/);
    assert.match(commands.at(-1) ?? '', /^helm test istio-pod-network-controller /);
  }
});
