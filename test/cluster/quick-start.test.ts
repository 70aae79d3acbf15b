/** The commands of docs/quick-start.md that need no other tool than helm and kubectl, read from it and run as they are. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { suite } from '../suite.ts';
import { run } from '../support/process.ts';
import { scratchFolder } from '../support/scratch.ts';
import { imageName } from './images/images.ts';
import { Mesh } from './mesh-pod.ts';
import { programs } from './programs.ts';

const ROOT = join(import.meta.dirname, '../..');
const NAME = 'istio-pod-network-controller';
const SLOW = { timeoutMs: 120_000 };

const test = suite('cluster, quick start');
test.needs('cluster', 'addon');

const folder = scratchFolder('quick-start');
let mesh: Mesh;
test.before(async () => {
  mesh = await Mesh.start([NAME]);
});
test.after(async () => {
  await mesh?.stop();
});

/** Each line of the section's blocks of code. */
function commandsOf(heading: string): string[] {
  const [, section = ''] = readFileSync(join(ROOT, 'docs/quick-start.md'), 'utf8').split(`\n## ${heading}\n`);
  const [before = ''] = section.split('\n## ');
  const commands = [...before.matchAll(/^```sh\n(.*?)^```/gms)].flatMap(([, block = '']) => block.trim().split('\n'));
  assert.notEqual(commands.length, 0, heading);
  return commands;
}

async function shell(command: string): Promise<string> {
  const { path } = await programs(['helm', 'kubectl']);
  const env = {
    ...process.env,
    PATH: [dirname(path('helm')), dirname(path('kubectl')), process.env.PATH].join(delimiter),
    KUBECONFIG: mesh.controlPlane.kubeconfig,
    HELM_CONFIG_HOME: folder,
    HELM_CACHE_HOME: folder,
    KUBECACHEDIR: folder,
  };
  const { stdout } = await run('/bin/sh', ['-ec', command], { env, cwd: ROOT });
  return stdout;
}

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
