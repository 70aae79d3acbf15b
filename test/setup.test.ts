/** `./setup` on machines that lack things, by a PATH that does, and stand-ins for `id` and `apt-get`. */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from './suite.ts';
import { type Ended, runToEnd } from './support/process.ts';

const SETUP = fileURLToPath(new URL('../setup', import.meta.url));
/** What the script itself needs; neither a compiler nor npm. */
const UTILITIES = ['sh', 'cat', 'dirname', 'find', 'grep', 'head', 'mktemp', 'rm', 'sed', 'sort', 'tail', 'tr'];

function setup(args: string[], path = process.env.PATH): Promise<Ended> {
  return runToEnd(SETUP, args, { env: { ...process.env, PATH: path } });
}

const test = suite('setup');
let bare: string;
let aptLog: string;

test.before.each(() => {
  bare = mkdtempSync(join(tmpdir(), 'ipnc-setup-'));
  aptLog = join(bare, 'apt.log');
  for (const name of UTILITIES) {
    const found = ['/usr/bin', '/bin'].map((folder) => join(folder, name)).find(existsSync);
    if (found !== undefined) symlinkSync(found, join(bare, name));
  }
});
test.after.each(() => rmSync(bare, { recursive: true, force: true }));

function standIn(name: string, script: string): void {
  writeFileSync(join(bare, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
}

test(
  'says nothing when there is nothing to do',
  async () => {
    assert.deepEqual(await setup([]), { code: 0, stdout: '', stderr: '' });
  },
  { timeoutMs: 180_000 },
);

test("prints where Node's headers are", async () => {
  const { code, stdout } = await setup(['--nodedir']);
  assert.equal(code, 0);
  assert.ok(existsSync(join(stdout.trim(), 'include/node/node_api.h')), stdout);
});

test('refuses an argument it does not know', async () => {
  const { code, stderr } = await setup(['--frobnicate']);
  assert.equal(code, 1);
  assert.ok(stderr.includes('unknown argument --frobnicate; expected --build'), stderr);
});

test('an ordinary user is told the exact command', async () => {
  standIn('id', 'echo 1000');
  standIn('apt-get', `echo "$@" >>${aptLog}`);
  const { code, stderr } = await setup([], bare);
  assert.equal(code, 1);
  assert.match(stderr, /^ {2}sudo apt-get install -y g\+\+ make python3 pkg-config libiptc-dev .*\n$/m);
  assert.ok(!stderr.includes('clang'), stderr);
  assert.ok(!existsSync(aptLog), 'apt-get was called');
});

test('an ordinary user who wants to lint is told of the linters too', async () => {
  standIn('id', 'echo 1000');
  standIn('apt-get', '');
  const { code, stderr } = await setup(['--dev'], bare);
  assert.equal(code, 1);
  assert.match(stderr, /^ {2}sudo apt-get install -y g\+\+ .* shellcheck clang clang-format libclang-rt-\d+-dev/m);
});

test('elsewhere than on Debian the packages are named', async () => {
  standIn('id', 'echo 0');
  const { code, stderr } = await setup([], bare);
  assert.equal(code, 1);
  assert.match(stderr, /Their names in Debian are: g\+\+ make /);
});

test('root installs all of it, and is told if that did not help', async () => {
  standIn('id', 'echo 0');
  standIn('apt-get', `echo "$@" >>${aptLog}`);
  const { code, stdout, stderr } = await setup([], bare);
  assert.equal(code, 1);
  assert.ok(stdout.includes('setup: installing system packages: g++ make'), stdout);
  assert.match(readFileSync(aptLog, 'utf8'), /^update\ninstall -y --no-install-recommends g\+\+ .*clang/m);
  assert.ok(stderr.includes('files of them are missing: g++'), stderr);
});

test('root gets no linters and no browser for a build', async () => {
  standIn('id', 'echo 0');
  standIn('apt-get', `echo "$@" >>${aptLog}`);
  const { code, stdout } = await setup(['--build'], bare);
  assert.equal(code, 1);
  assert.match(stdout, /installing system packages: g\+\+ make/);
  assert.match(readFileSync(aptLog, 'utf8'), /^update\ninstall -y --no-install-recommends g\+\+ /);
  assert.doesNotMatch(readFileSync(aptLog, 'utf8'), /clang|shellcheck|chromium/);
});

test('root is told what to run if installing fails', async () => {
  standIn('id', 'echo 0');
  standIn('apt-get', 'echo "E: no route to the mirror"; exit 100');
  const { code, stderr } = await setup([], bare);
  assert.equal(code, 1);
  assert.ok(stderr.includes('E: no route to the mirror'), stderr);
  assert.match(stderr, /apt-get install -y g\+\+ make/);
});
