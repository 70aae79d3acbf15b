/** Debian packages are looked for by what they bring, and installed by root alone, with a stand-in for apt-get. */
import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from '../suite.ts';
import { type DebianPackage, installPackages, packagesImpossible, packagesLack } from './debian.ts';

const test = suite('Debian packages');
test.needs('root');

const PRESENT: DebianPackage = { name: 'dash', brings: ['/no/such/file', 'sh'] };
const ABSENT: DebianPackage = { name: 'absent', brings: ['no-such-command'] };

let folder: string;
let path: string | undefined;
test.before.each(() => {
  folder = mkdtempSync(join(tmpdir(), 'ipnc-debian-'));
  path = process.env.PATH;
});
test.after.each(() => {
  process.env.PATH = path;
  rmSync(folder, { recursive: true });
});

function aptGet(script: string): void {
  const file = join(folder, 'apt-get');
  writeFileSync(file, `#!/bin/sh\necho "$@" >>${folder}/log\n${script}\n`);
  chmodSync(file, 0o755);
  process.env.PATH = `${folder}:${path}`;
}

test('what is there by any of the names is not missing', () => {
  aptGet('exit 1');
  assert.equal(packagesLack([PRESENT]), undefined);
  assert.doesNotThrow(() => installPackages([PRESENT]));
  assert.equal(existsSync(join(folder, 'log')), false);
});

test('what is missing is named with the command that installs it', () => {
  aptGet('exit 1');
  const command = 'apt-get install --yes --no-install-recommends absent';
  assert.equal(packagesLack([PRESENT, ABSENT]), `missing here; as root: ${command}`);
  assert.equal(packagesImpossible([ABSENT]), undefined);
});

test('root installs it, and again after an update of the lists if that fails', () => {
  aptGet(
    `case "$(wc -l <${folder}/log)" in 3) : >${folder}/no-such-command; chmod +x ${folder}/no-such-command ;; *) exit 100 ;; esac`,
  );
  installPackages([ABSENT]);
  const install = 'install --yes --no-install-recommends absent';
  assert.equal(readFileSync(join(folder, 'log'), 'utf8'), `${install}\nupdate\n${install}\n`);
});

test('an installation that fails throws what apt-get said', () => {
  aptGet('echo "E: no route to the mirror"; exit 100');
  assert.throws(
    () => installPackages([ABSENT]),
    (error: Error) => {
      assert.match(error.message, /^missing here; as root: apt-get install .* absent(\nE: no route to the mirror){2}$/);
      return true;
    },
  );
});

test('without apt-get the packages are named, and nothing can be done', () => {
  process.env.PATH = folder;
  const lack = 'missing here; the names of the packages in Debian: absent';
  assert.equal(packagesLack([ABSENT]), lack);
  assert.equal(packagesImpossible([ABSENT]), lack);
  assert.throws(() => installPackages([ABSENT]), { message: lack });
});
