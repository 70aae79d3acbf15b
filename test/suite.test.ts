import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { suite } from './suite.ts';

const FOLDER = fileURLToPath(new URL('./fixtures/suite/', import.meta.url));
const RUNNER = fileURLToPath(new URL('./run.ts', import.meta.url));

interface Outcome {
  code: number;
  lastLine: string;
  output: string;
}

function runFixtures(...names: string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    const files = names.map((name) => `${FOLDER}${name}.ts`);
    const env = { ...process.env, IPNC_TEST_FILE_LIMIT_MS: '8000', IPNC_SANDBOX: 'none', NO_COLOR: '1' };
    const child = execFile(process.execPath, [RUNNER, ...files], { env }, (_, stdout, stderr) => {
      resolve({
        code: child.exitCode ?? -1,
        lastLine: stdout.trimEnd().split('\n').at(-1) ?? '',
        output: stdout + stderr,
      });
    });
  });
}

const test = suite('the suite wrapper');

function expect(name: string, code: number, lastLine: string, says: RegExp): void {
  test(
    name,
    async () => {
      const outcome = await runFixtures(name);
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
expect('never-returns', 1, '0 passed, 1 failed, 0 skipped', /limit of 8000 ms/);
expect('exits-early', 1, '1 passed, 1 failed, 0 skipped', /ended before its tests/);
expect('throws-at-load', 1, '0 passed, 1 failed, 0 skipped', /at load/);
expect('rejects-unhandled', 1, '0 passed, 1 failed, 0 skipped', /nobody waits for this/);
expect('empty-suite', 1, '1 passed, 1 failed, 0 skipped', /a suite without a test/);
expect('no-suite', 1, '0 passed, 1 failed, 0 skipped', /no suite/);
expect('no-such-file', 1, '0 passed, 1 failed, 0 skipped', /Cannot find module/);
expect('registers-late', 1, '1 passed, 1 failed, 0 skipped', /would never run/);
expect('loads-slowly', 0, '2 passed, 0 failed, 0 skipped', /^ok /m);
expect('skips', 0, '1 passed, 0 failed, 1 skipped', /SKIPPED 1, because the command no-such-command is not in PATH/);
expect('skips-all', 1, '0 passed, 0 failed, 1 skipped', /no test passed/);
expect('stays-open', 1, '1 passed, 1 failed, 0 skipped', /still open: .*Timeout/);

test('a failing file does not hide in the sum', async () => {
  const outcome = await runFixtures('passes', 'before-throws', 'skips');
  assert.equal(outcome.code, 1);
  assert.equal(outcome.lastLine, '3 passed, 2 failed, 1 skipped');
});
