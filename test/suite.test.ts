import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { until } from './cluster/pods.ts';
import { suite } from './suite.ts';
import { launch, runToEnd } from './support/process.ts';

const FOLDER = fileURLToPath(new URL('./fixtures/suite/', import.meta.url));
const RUNNER = fileURLToPath(new URL('./run.ts', import.meta.url));

interface Outcome {
  code: number | string;
  lastLine: string;
  output: string;
}

async function runFixtures(names: string[], args: string[] = [], variables: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  const files = names.map((name) => `${FOLDER}${name}.ts`);
  const defaults = { IPNC_TEST_FILE_LIMIT_MS: '3000', IPNC_SANDBOX: 'none', NO_COLOR: '1' };
  const env = { ...process.env, ...defaults, ...variables };
  const { code, stdout, stderr } = await runToEnd(process.execPath, [RUNNER, ...args, ...files], { env });
  return { code, lastLine: stdout.trimEnd().split('\n').at(-1) ?? '', output: stdout + stderr };
}

const test = suite('the suite wrapper');

function expect(name: string, code: number, lastLine: string, says: RegExp): void {
  test(
    name,
    async () => {
      const outcome = await runFixtures([name]);
      assert.equal(outcome.lastLine, lastLine, outcome.output);
      assert.equal(outcome.code, code);
      assert.match(outcome.output, says);
    },
    { timeoutMs: 30_000 },
  );
}

expect('passes', 0, '2 passed, 0 failed, 0 skipped', /^ok /m);
expect('before-throws', 1, '0 passed, 2 failed, 0 skipped', /from before/);
expect('after-throws', 1, '1 passed, 1 failed, 0 skipped', /from after/);
expect('before-each-throws', 1, '0 passed, 1 failed, 0 skipped', /from before\.each/);
expect('after-each-throws', 1, '0 passed, 1 failed, 0 skipped', /from after\.each/);
expect('throws-a-string', 1, '0 passed, 1 failed, 0 skipped', /not an Error/);
expect('throws-undefined', 1, '0 passed, 1 failed, 0 skipped', /undefined/);
expect('never-settles', 1, '1 passed, 1 failed, 0 skipped', /limit of 50 ms/);
expect('never-returns', 1, '0 passed, 1 failed, 0 skipped', /limit of 3000 ms/);
expect('exits-early', 1, '1 passed, 1 failed, 0 skipped', /ended before its tests/);
expect('throws-at-load', 1, '0 passed, 1 failed, 0 skipped', /at load/);
expect('rejects-unhandled', 1, '0 passed, 1 failed, 0 skipped', /nobody waits for this/);
expect('empty-suite', 1, '1 passed, 1 failed, 0 skipped', /the suite has no test/);
expect('no-suite', 1, '0 passed, 1 failed, 0 skipped', /no suite/);
expect('registers-late', 1, '1 passed, 1 failed, 0 skipped', /would never run/);
expect('loads-slowly', 0, '2 passed, 0 failed, 0 skipped', /^ok /m);
expect('skips', 0, '1 passed, 0 failed, 1 skipped', /SKIPPED 1, because the command no-such-command is not in PATH/);
expect('skips-all', 1, '0 passed, 0 failed, 1 skipped', /no test passed/);
expect('stays-open', 1, '1 passed, 1 failed, 0 skipped', /still open: .*Timeout/);

test('a test that fails shows what its programs wrote, of those that ended well the latest three', async () => {
  const { output, lastLine } = await runFixtures(['runs-programs']);
  assert.equal(lastLine, '1 passed, 1 failed, 0 skipped', output);
  const [, shown = ''] = output.split('runs programs, two: programs of this test:\n');
  assert.deepEqual(
    [...shown.matchAll(/^sh -c (.*)$/gm)].map(([, script]) => script),
    [
      'echo before; echo oops >&2; exit 3: exit code 3',
      'echo again; exec sleep 1000: still runs',
      'echo 3: exit code 0',
      'echo 4: exit code 0',
      'echo 5: exit code 0',
    ],
    output,
  );
  assert.match(shown, /^sh -c echo before.*\nbefore\noops\n/m);
  assert.match(shown, /still runs\nagain\n/);
});

test('a failure prints the seed of its random input, and the seed brings the input back', async () => {
  const { output } = await runFixtures(['random-input']);
  const [, number, seed, file] =
    /drew (0\.\d+).*IPNC_TEST_SEED=(\d+) npm test -- (\S+random-input\.ts)/s.exec(output) ?? [];
  assert.ok(file !== undefined, output);
  const again = await runFixtures(['random-input'], [], { IPNC_TEST_SEED: seed });
  assert.ok(again.output.includes(`drew ${number}\n`), again.output);
  const other = await runFixtures(['random-input'], [], { IPNC_TEST_SEED: '4294967296' });
  assert.match(other.output, /IPNC_TEST_SEED: "4294967296": expected a whole number/);
});

test('a failing file does not hide in the sum', async () => {
  const outcome = await runFixtures(['passes', 'before-throws', 'skips']);
  assert.equal(outcome.code, 1);
  assert.equal(outcome.lastLine, '3 passed, 2 failed, 1 skipped');
});

test('--grep takes the tests whose suite and name hold the words, and only their files count', async () => {
  const { code, output, lastLine } = await runFixtures(['passes', 'empty-suite', 'skips'], ['--grep', 'PASSES, t']);
  assert.match(output, /^ok .*passes\.ts +1 passed/m);
  assert.equal(lastLine, '1 passed, 1 failed, 0 skipped', output);
  assert.equal(code, 1);
  const alone = await runFixtures(['passes', 'skips'], ['--grep', 'passes, t']);
  assert.equal(alone.lastLine, '1 passed, 0 failed, 0 skipped');
  assert.doesNotMatch(alone.output, /skips/);
});

test('--grep that matches no test fails', async () => {
  const { code, output } = await runFixtures(['passes', 'skips'], ['--grep', 'no such words']);
  assert.equal(code, 1);
  assert.match(output, /no test passed/);
});

test('an option that is unknown or makes no sense ends with 2', async () => {
  for (const args of [
    ['--gerp', 'x'],
    ['--jobs', '0'],
    ['--busy', '-1'],
  ]) {
    const { code, output } = await runFixtures(['passes'], args);
    assert.equal(code, 2, output);
    assert.match(output, /--help lists the options/);
  }
});

test('a name without a file, and a folder without tests, end with 2 before any test runs', async () => {
  for (const [name, says] of [
    [join(FOLDER, 'no-such-file.ts'), 'there is no such file or folder'],
    [FOLDER, 'the folder has no test'],
  ]) {
    const { code, output } = await runFixtures(['passes'], [`${name}`]);
    assert.equal(code, 2, output);
    assert.ok(output.includes(`"${name}": ${says}`), output);
    assert.doesNotMatch(output, /passed/);
  }
});

test('two files run at a time', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'ipnc-meeting-'));
  try {
    const variables = { IPNC_TEST_MEETING: folder };
    const { lastLine, output } = await runFixtures(['meets-first', 'meets-second'], ['--jobs', '2'], variables);
    assert.equal(lastLine, '2 passed, 0 failed, 0 skipped', output);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('busy processes end with the run', async () => {
  const { lastLine, output } = await runFixtures(['counts-busy'], ['--busy', '2']);
  assert.equal(lastLine, '1 passed, 0 failed, 0 skipped', output);
});

test('--no-cluster leaves out what needs one, and says so', async () => {
  const { output, lastLine } = await runFixtures(['needs-cluster'], ['--no-cluster']);
  assert.match(output, /SKIPPED 1, because --no-cluster skips it:\n {2}\S+needs-cluster\.ts: needs a cluster, one\n/);
  assert.equal(lastLine, '1 passed, 0 failed, 1 skipped');
});

const setUp = suite('what the runner sets up');
let folder: string;
setUp.before.each(() => {
  folder = mkdtempSync(join(tmpdir(), 'ipnc-set-up-'));
});
setUp.after.each(() => rmSync(folder, { recursive: true, force: true }));

/** Writes a stand-in for Go that builds with this script. Returns the variables to use it, with an empty cache. */
function standInForGo(build: string): NodeJS.ProcessEnv {
  const script = `case $1 in env) echo go1.99.0 ;; build) ${build} ;; esac`;
  writeFileSync(join(folder, 'go'), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return { XDG_CACHE_HOME: folder, KUBEBUILDER_ASSETS: '', PATH: `${folder}:${process.env.PATH}` };
}

/** Runs a test that needs helm. */
function withGo(build: string, ...args: string[]): Promise<Outcome> {
  return runFixtures(['needs-helm', 'passes'], args, standInForGo(build));
}

setUp('a program that a test needs is built before the test, and no other', async () => {
  const { output, lastLine } = await withGo(`while [ "$1" != -o ]; do shift; done; : >"$2"`);
  assert.match(output, /building one program[^\n]*\ncluster: 1 of 1, helm, after 0 s\n/);
  assert.equal(lastLine, '3 passed, 0 failed, 0 skipped', output);
});

setUp('a set-up that fails is a failure, which shows why', async () => {
  const { code, output, lastLine } = await withGo('echo "no route to the proxy"; exit 1');
  assert.match(output, /FAIL set-up: cluster: go build helm\.sh\S+ failed \(1\):\nno route to the proxy\n/);
  assert.match(output, /SKIPPED 1, because no helm: not built: helm; run "npm run programs -- cluster helm":/);
  assert.equal(lastLine, '2 passed, 1 failed, 1 skipped', output);
  assert.equal(code, 1);
});

setUp('a build ends with the run, however that ends', async () => {
  const said = join(folder, 'pid');
  const env = { ...process.env, IPNC_SANDBOX: 'none', ...standInForGo(`echo $$ >${said}; exec sleep 1000`) };
  const runner = launch(process.execPath, [RUNNER, `${FOLDER}needs-helm.ts`], { env, stdio: 'ignore' });
  const ended = once(runner, 'exit');
  const builder = async () => (existsSync(said) ? readFileSync(said, 'utf8').trim() : '');
  const pid = await until('started: the build', builder, (text) => text !== '');
  runner.kill('SIGKILL');
  await ended;
  const isThere = async () => existsSync(`/proc/${pid}`);
  await until('ended: the build', isThere, (there) => !there);
});

setUp(
  'nothing is built for a file without such a test, for --no-cluster and for a test that --grep leaves out',
  async () => {
    for (const args of [['--no-cluster'], ['--grep', 'passes']]) {
      const { output } = await withGo('echo "must not be called"; exit 1', ...args);
      assert.match(output, / passed, 0 failed, /);
      assert.doesNotMatch(output, /building/);
    }
  },
);
