/** The image's root file system: all that is in it, and nothing else, is what runs. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { ENVIRONMENT, GATE, type ImageFile, imageLayers, MAIN, USER } from '../chart/image/files.ts';
import { layOut } from '../chart/image/lay-out.ts';
import type { Check } from '../lib/doctor.ts';
import { suite } from './suite.ts';

const root = join(import.meta.dirname, '..');
const test = suite('image');
test.needs('netns', 'addon', 'ldd', 'chroot', 'unshare');

const folder = mkdtempSync(join(tmpdir(), 'ipnc-image-'));
let files: ImageFile[] = [];
test.before(async () => {
  files = (await imageLayers(root, join(root, 'build/Release'))).flat();
  layOut(folder, [...files, { path: 'proc/here', content: Buffer.from('') }]);
});
test.after(() => rmSync(folder, { recursive: true, force: true }));

/** With that folder for a root, and /proc. */
function inside(...command: string[]): string {
  const enter = 'mount --rbind /proc "$0/proc" && exec chroot "$0" "$@"';
  return execFileSync('unshare', ['--mount', 'sh', '-c', enter, folder, ...command], {
    encoding: 'utf8',
    env: { PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

test('doctor finds nothing missing in it', () => {
  const { checks } = JSON.parse(inside('ipnc', 'doctor', '--output', 'json')) as { checks: Check[] };
  assert.equal(
    checks.filter(({ status }) => status === 'missing'),
    [],
  );
  assert.is(checks.find(({ name }) => name === 'addon')?.detail, 'loaded');
});

test('the command line is there by all of its names', () => {
  for (const name of [MAIN, 'ipnc', 'istio-pod-network-controller']) {
    assert.match(inside(name, 'plan', '--ip-families', '4'), /-A ISTIO_OUTPUT /);
  }
});

test('there is no shell and no other program', () => {
  const programs = files.filter((file) => 'content' in file && ((file.mode ?? 0o644) & 0o111) !== 0);
  const names = programs.map(({ path }) => path).filter((path) => !/\.so(\.\d+)*$|^app\//.test(path));
  assert.equal(names, ['usr/local/bin/node']);
  const links = files.flatMap((file) => ('link' in file ? [`/${file.path}`] : []));
  assert.equal(
    links.filter((path) => path !== GATE),
    ['/usr/local/bin/ipnc', '/usr/local/bin/istio-pod-network-controller'],
  );
  assert.throws(() => inside('sh', '-c', 'true'), /No such file/);
});

test('no two files have one path, and none can be written by the user it runs as', () => {
  assert.is(new Set(files.map(({ path }) => path)).size, files.length);
  for (const { path } of files.filter((file) => 'content' in file)) {
    assert.is(statSync(join(folder, path)).mode & 0o022, 0, path);
  }
});

test('each package in the bundle brings its licence, and so do Node and ours', () => {
  const at = (path: string) => join(folder, 'usr/share/licenses', path);
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  // Only headers of it are used.
  const bundled = Object.keys(dependencies).filter((name) => name !== 'node-addon-api');
  for (const path of ['LICENSE', 'native/COPYING', ...bundled]) assert.ok(existsSync(at(path)), path);
  assert.ok(files.some(({ path }) => /licenses\/node\/node-linux-.*\/LICENSE$/.test(path)));
});

test(
  "and so do Debian's libraries",
  () => {
    for (const name of ['libc6', 'libip4tc2', 'libmnl0']) {
      assert.ok(existsSync(join(folder, `usr/share/doc/${name}/copyright`)), name);
    }
  },
  { needs: ['dpkg-query'] },
);

test("the Dockerfile's environment, user and entry point are those of the tests' image", () => {
  const [, text = ''] = readFileSync(join(root, 'Dockerfile'), 'utf8').split('\nFROM scratch\n');
  assert.is(/^ENV (.*)$/m.exec(text)?.[1], ENVIRONMENT.join(' '));
  assert.is(/^USER (.*)$/m.exec(text)?.[1], USER);
  assert.is(/^ENTRYPOINT (.*)$/m.exec(text)?.[1], JSON.stringify([MAIN]));
});

test('the Dockerfile installs what ./setup would find missing', () => {
  const setup = readFileSync(join(root, 'setup'), 'utf8');
  const [, needed = ''] = /^missing_packages\(\) \{\n([^}]*(?:\{[^}]*\}[^}]*)*)^\}/m.exec(setup) ?? [];
  const names = [...needed.matchAll(/\|\| echo (\S+)/g)].map(([, name]) => name ?? '');
  assert.ok(names.length > 10, `${names}`);
  const words = readFileSync(join(root, 'Dockerfile'), 'utf8').split(/\s+/);
  assert.equal(
    names.filter((name) => !words.includes(name)),
    [],
  );
});

test('an image is laid out in an empty folder alone', () => {
  const refused = (argument: string) => {
    try {
      execFileSync(process.execPath, [join(root, 'chart/image/main.ts'), argument], { stdio: 'pipe' });
    } catch (error) {
      return String((error as { stderr: Buffer }).stderr);
    }
    return '';
  };
  assert.match(refused(folder), /error: .* is not empty/);
  const target = join(folder, 'proc/new');
  assert.is(refused(target), '');
  assert.ok(existsSync(join(target, 'app/build/Release/gate')));
});
