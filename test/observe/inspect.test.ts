/** `ipnc inspect`, against a controller that runs: its log level, CPU profile and heap snapshot. */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { isController } from '../../lib/cli/inspect.ts';
import { INITIALIZE } from '../../lib/istio/names.ts';
import { inspectPlaces } from '../../lib/observe/inspect.ts';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { until } from '../support/controller.ts';
import { NODE, PodServer } from '../support/pod-server.ts';
import { launch, runToEnd } from '../support/process.ts';
import { scratchFolder } from '../support/scratch.ts';

const MAIN = join(import.meta.dirname, '../../lib/main.ts');
const folder = scratchFolder('inspect');
const test = suite('inspect');
test.needs('addon', 'netns');

const api = new PodServer();
const lines: { level: string; msg: string; detail?: string }[] = [];
let controller: ChildProcess;

test.before(async () => {
  const kubeconfig = join(folder, 'kubeconfig');
  writeFileSync(kubeconfig, (await api.start()).exportConfig());
  controller = await startController('--kubeconfig', kubeconfig, '--log-level', 'warn');
});
test.after(async () => {
  controller.kill('SIGTERM');
  assert.deepEqual(await once(controller, 'exit'), [0, null]);
  assert.equal(
    existsSync(inspectPlaces(Number(controller.pid)).folder),
    false,
    'the socket is gone with the controller',
  );
  api.stop();
});

/** Resolves when it has listed its pods. */
async function startController(...flags: string[]): Promise<ChildProcess> {
  const own = ['--node-name', NODE, '--host-root', folder, '--runtime-events', 'off', '--enroll', 'annotation'];
  const off = ['--metrics-address', 'off', '--health-address', 'off'];
  const child = launch(process.execPath, [MAIN, 'run', ...own, ...off, ...flags], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  createInterface(child.stdout).on('line', (line) => lines.push(JSON.parse(line)));
  await until(
    'watching',
    () => api.watched,
    () => lines,
  );
  return child;
}

const inspect = (...words: string[]) => ipnc(['inspect', '--pid', String(controller.pid), ...words]);

test('nothing listens before it is asked for', async () => {
  assert.equal(existsSync(inspectPlaces(Number(controller.pid)).folder), false);
});

test('the socket that a killed process with the same pid left behind is not used', async () => {
  const { folder, socket } = inspectPlaces(Number(controller.pid));
  mkdirSync(folder, { mode: 0o700 });
  // A process that is killed leaves its socket behind.
  const listen = `require('net').createServer().listen('${socket}', () => process.kill(process.pid, 'SIGKILL'))`;
  await runToEnd(process.execPath, ['-e', listen]);
  assert.ok(existsSync(socket));
  // The controller opens its own socket late, as one that is busy does.
  controller.kill('SIGSTOP');
  const asked = inspect('--log-level', 'warn');
  await Promise.race([asked, sleep(1000)]);
  controller.kill('SIGCONT');
  const { code, stderr } = await asked;
  assert.equal(code, 0, stderr);
});

test('the log level changes without a restart', async () => {
  const debug = () => lines.filter(({ level }) => level === 'debug').length;
  assert.equal(debug(), 0);
  const { code, stdout, stderr } = await inspect('--log-level', 'debug');
  assert.deepEqual([code, stdout, stderr], [0, 'the log level was warn, and is debug now\n', '']);
  await until(
    'logged: the change',
    () => lines.some(({ detail }) => detail === 'from warn to debug'),
    () => lines,
  );
  // The controller has no runtime here, so the pod waits, and a line of the level debug says so.
  api.put('web', { [INITIALIZE]: 'true' });
  await until(
    'logged: the pod that waits',
    () => debug() > 0,
    () => lines,
  );
  assert.match((await inspect('--log-level', 'warn')).stdout, /^the log level was debug, and is warn now/);
});

test('a CPU profile has the functions of the controller', async () => {
  const { code, stdout, stderr } = await inspect('--cpu-profile', '1s');
  assert.equal(code, 0, stderr);
  const { nodes, startTime, endTime } = JSON.parse(stdout) as { nodes: object[]; startTime: number; endTime: number };
  assert.ok(nodes.length > 0);
  assert.ok(endTime - startTime > 900_000, `${endTime - startTime} us`);
});

test('a heap snapshot is complete, and the controller works on', async () => {
  const { code, stdout, stderr } = await inspect('--heap-snapshot');
  assert.equal(code, 0, stderr);
  const { snapshot, nodes, strings } = JSON.parse(stdout) as {
    snapshot: { node_count: number; meta: { node_fields: string[] } };
    nodes: number[];
    strings: string[];
  };
  assert.equal(nodes.length, snapshot.node_count * snapshot.meta.node_fields.length);
  assert.ok(strings.includes('WorkQueue'), 'a class of the controller');
  assert.equal((await inspect('--log-level', 'warn')).code, 0);
});

test('two profiles at the same time: the second is refused', async () => {
  const [one, other] = await Promise.all([inspect('--cpu-profile', '1s'), inspect('--cpu-profile', '1s')]);
  assert.deepEqual([one.code, other.code].sort(), [0, 1]);
  const refused = one.code === 0 ? other : one;
  assert.match(refused.stderr, /cannot be inspected: another profile or snapshot is being made/);
});

test(
  'the socket is for the user of the controller alone',
  async () => {
    const { folder, socket } = inspectPlaces(Number(controller.pid));
    assert.equal(statSync(folder).mode & 0o777, 0o700);
    assert.deepEqual(readdirSync(folder), ['inspect.sock']);
    const words = ['--reuid=65534', '--clear-groups', process.execPath, '-e', `require('net').connect('${socket}')`];
    const { code, stderr } = await runToEnd('setpriv', words);
    assert.notEqual(code, 0);
    assert.match(stderr, /EACCES/);
  },
  { needs: ['setpriv', 'uid-map'] },
);

test("Node's debugger, which would run any code, does not answer the signal", async () => {
  const socket = createConnection(9229, '127.0.0.1');
  const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
  assert.equal(error.code, 'ECONNREFUSED');
});

test('a folder that others may enter is not used by either side', async () => {
  const { folder } = inspectPlaces(process.pid);
  mkdirSync(folder);
  chmodSync(folder, 0o777);
  try {
    const { isPrivate } = await import('../../lib/observe/inspect.ts');
    assert.equal(isPrivate(folder), false);
    chmodSync(folder, 0o700);
    assert.equal(isPrivate(folder), true);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('exactly one action is expected, and only a controller gets the signal', async () => {
  const cases: [words: string[], stderr: RegExp][] = [
    [[], /no action is given; expected exactly one of --log-level, --cpu-profile and --heap-snapshot/],
    [['--log-level', 'debug', '--heap-snapshot'], /only one action is possible/],
    [['--log-level', 'loud'], /--log-level: "loud"/],
    [['--cpu-profile', '1h'], /--cpu-profile: "1h": out of range; expected 1s to 5m/],
    [['--log-level', 'debug', '--pid', String(process.pid)], /--pid: "\d+": not a process of "ipnc run"/],
    [['--log-level', 'debug', '--pid', 'x'], /--pid: "x": not a number in range/],
  ];
  for (const [words, expected] of cases) {
    const { code, stderr } = await ipnc(['inspect', ...words]);
    assert.equal(code, 2, stderr);
    assert.match(stderr, expected);
  }
  const gone = await ipnc(['inspect', '--log-level', 'debug', '--pid', '4194304']);
  assert.equal(gone.code, 1);
  assert.match(gone.stderr, /there is no process 4194304/);
});

test('a controller is known by its command line', () => {
  assert.equal(isController(['/usr/local/bin/node', '--optimize-for-size', '/app/lib/main.js', 'run']), true);
  assert.equal(isController(['ipnc', 'run', '--node-name', 'a']), true);
  for (const words of [[], ['ipnc', 'inspect'], ['vim', 'ipnc', 'x'], ['run'], ['/usr/bin/notipnc', 'run']])
    assert.equal(isController(words), false, words.join(' '));
});
