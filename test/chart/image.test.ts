/** The images' root file systems: all that is in one, and nothing else, is what runs. */

import assert from 'node:assert/strict';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { parseResults } from '../../bench/schema.ts';
import { BENCH_ENTRYPOINT, benchLayers, PROGRAMS } from '../../chart/image/bench.ts';
import { ENVIRONMENT, GATE, type ImageFile, imageLayers, MAIN, PATH, USER } from '../../chart/image/files.ts';
import { layOut } from '../../chart/image/lay-out.ts';
import type { Check } from '../../lib/observe/doctor.ts';
import { suite } from '../suite.ts';
import { type Ended, runSync } from '../support/process.ts';
import { scratchFolder } from '../support/scratch.ts';

const root = join(import.meta.dirname, '../..');
/** The harness takes 20 s on an idle machine. */
const LIMIT_MS = 300_000;
const test = suite('image');
test.needs('netns', 'addon', 'ldd', 'chroot', 'unshare');

const folder = scratchFolder('image');
let files: ImageFile[] = [];
test.before(async () => {
  files = (await imageLayers(root, join(root, 'build/Release'))).flat();
  layOut(folder, [...files, { path: 'proc/here', content: Buffer.from('') }]);
});

/** With that folder for a root, and /proc. */
function inside(...command: string[]): string {
  const { code, stdout, stderr } = enter(folder, ['--rbind /proc "$0/proc"'], command);
  if (code !== 0) throw new Error(`${command.join(' ')}: ${code}: ${stderr}`);
  return stdout;
}

function enter(root: string, mounts: string[], command: string[]): Ended {
  const script = `${mounts.map((each) => `mount ${each} && `).join('')}exec chroot "$0" "$@"`;
  return runSync('unshare', ['--mount', 'sh', '-c', script, root, ...command], {
    env: { PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin' },
    timeout: LIMIT_MS,
  });
}

test('doctor finds nothing missing in it', () => {
  const { checks } = JSON.parse(inside('ipnc', 'doctor', '--output', 'json')) as { checks: Check[] };
  assert.deepEqual(
    checks.filter(({ status }) => status === 'missing'),
    [],
  );
  assert.equal(checks.find(({ name }) => name === 'addon')?.detail, 'loaded');
});

test('the command line is there by all of its names', () => {
  for (const name of [MAIN, 'ipnc', 'istio-pod-network-controller']) {
    assert.match(inside(name, 'plan', '--ip-families', '4'), /-A ISTIO_OUTPUT /);
  }
});

test('there is no shell and no other program', () => {
  const programs = files.filter((file) => 'content' in file && ((file.mode ?? 0o644) & 0o111) !== 0);
  const names = programs.map(({ path }) => path).filter((path) => !/\.so(\.\d+)*$|^app\//.test(path));
  assert.deepEqual(names, ['usr/local/bin/node']);
  const links = files.flatMap((file) => ('link' in file ? [`/${file.path}`] : []));
  assert.deepEqual(
    links.filter((path) => path !== GATE),
    ['/usr/local/bin/ipnc', '/usr/local/bin/istio-pod-network-controller'],
  );
  assert.throws(() => inside('sh', '-c', 'true'), /No such file/);
});

test('each path has one file, and the user that the image runs as can write no file', () => {
  assert.equal(new Set(files.map(({ path }) => path)).size, files.length);
  for (const { path } of files.filter((file) => 'content' in file)) {
    assert.equal(statSync(join(folder, path)).mode & 0o022, 0, path);
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
    for (const name of ['libc6', 'libip4tc2']) {
      assert.ok(existsSync(join(folder, `usr/share/doc/${name}/copyright`)), name);
    }
  },
  { needs: ['dpkg-query'] },
);

test("the Dockerfile's environment, user and entry point are those of the tests' image", () => {
  const [, text = ''] = readFileSync(join(root, 'Dockerfile'), 'utf8').split('\nFROM scratch AS controller\n');
  assert.equal(/^ENV (.*)$/m.exec(text)?.[1], ENVIRONMENT.join(' '));
  assert.equal(/^USER (.*)$/m.exec(text)?.[1], USER);
  assert.equal(/^ENTRYPOINT (.*)$/m.exec(text)?.[1], JSON.stringify([MAIN]));
});

test('the Dockerfile takes from other images only what a digest names', () => {
  const text = readFileSync(join(root, 'Dockerfile'), 'utf8');
  // The image of a frontend would read the Dockerfile.
  assert.doesNotMatch(text, /^#\s*syntax\s*=/m);
  const defaults = new Map([...text.matchAll(/^ARG (\w+)=(\S+)$/gm)].map(([, name = '', value = '']) => [name, value]));
  const known = ['scratch'];
  const froms = [...text.matchAll(/^FROM (\S+)(?: AS (\S+))?$|--from=(\S+)/gim)];
  assert.ok(froms.length >= 4);
  for (const [, image = '', stage, source] of froms) {
    const name = source ?? image.replace(/^\$\{?(\w+)\}?$/, (_, argument: string) => defaults.get(argument) ?? '');
    assert.ok(known.includes(name) || /^[\w.-]+:[\w.-]+@sha256:[0-9a-f]{64}$/.test(name), name);
    if (stage !== undefined) known.push(stage);
  }
  assert.match(defaults.get('BASE') ?? '', /^debian:bookworm-\d{8}@/);
});

test('the Dockerfile installs what ./setup would find missing', () => {
  const setup = readFileSync(join(root, 'setup'), 'utf8');
  const [, needed = ''] = /^missing_packages\(\) \{\n([^}]*(?:\{[^}]*\}[^}]*)*)^\}/m.exec(setup) ?? [];
  const names = [...needed.matchAll(/\|\| echo (\S+)/g)].map(([, name]) => name ?? '');
  assert.ok(names.length > 10, `${names}`);
  const words = readFileSync(join(root, 'Dockerfile'), 'utf8').split(/\s+/);
  assert.deepEqual(
    names.filter((name) => !words.includes(name)),
    [],
  );
});

test('an image is laid out in an empty folder alone', () => {
  const refused = (argument: string) => {
    const { code, stderr } = runSync(process.execPath, [join(root, 'chart/image/main.ts'), argument]);
    return code === 0 ? '' : stderr;
  };
  assert.match(refused(folder), /error: .* is not empty/);
  const target = join(folder, 'proc/new');
  assert.equal(refused(target), '');
  assert.ok(existsSync(join(target, 'app/build/Release/gate')));
});

const bench = suite('image of the harness');
bench.needs('netns', 'addon', 'gate', 'toolbox', 'ldd', 'chroot', 'unshare', 'openssl');

const benchFolder = scratchFolder('image-bench');
let benchFiles: ImageFile[] = [];
bench.before(async () => {
  benchFiles = (await benchLayers(root, join(root, 'build/Release'))).flat();
  const mountPoints = ['proc', 'dev'].map((path): ImageFile => ({ path, folder: true }));
  layOut(benchFolder, [...benchFiles, ...mountPoints]);
});

function insideBench(...command: string[]) {
  // Whose root is no mount may not unshare mounts.
  return enter(benchFolder, ['--bind "$0" "$0"', '--rbind /proc "$0/proc"', '--rbind /dev "$0/dev"'], command);
}

bench(
  'it measures what takes most of what is in it, and the last line of what it prints are the results',
  () => {
    const words = ['--output', '-', '--quick', '--only', 'controller,end-to-end'];
    const { code, stdout, stderr } = insideBench(...BENCH_ENTRYPOINT, ...words);
    const last = stdout.trimEnd().split('\n').at(-1) ?? '';
    const { workloads } = parseResults(JSON.parse(last), `the last line, ${stderr}`);
    const [controller, endToEnd] = workloads;
    assert.deepEqual([controller?.failed, controller?.skipped], [undefined, undefined]);
    assert.match(endToEnd?.skipped ?? '', /^no cluster: /);
    // On a busy machine it is refused.
    assert.equal(code, controller?.refused === undefined ? 0 : 3);
  },
  { timeoutMs: LIMIT_MS, needs: ['uid-map'] },
);

bench('each program of others is there, with what it needs', () => {
  const says: Record<string, string[]> = { sh: ['-c', 'true'], openssl: ['version'] };
  for (const name of PROGRAMS) {
    const { code, stderr } = insideBench(name, ...(says[name] ?? ['-V']));
    assert.equal(code, 0, `${name}: ${stderr}`);
  }
});

bench("the Dockerfile's environment and entry point of it are those of the tests' image, and root its user", () => {
  const [, text = ''] = readFileSync(join(root, 'Dockerfile'), 'utf8').split('\nFROM scratch AS bench\n');
  const instructions = [
    'COPY --from=build-bench --chown=0:0 /home/build/bench /',
    `ENV ${PATH}`,
    `ENTRYPOINT ${JSON.stringify(BENCH_ENTRYPOINT)}`,
  ];
  assert.deepEqual(text.split('\n\n')[0]?.split('\n'), instructions);
});
