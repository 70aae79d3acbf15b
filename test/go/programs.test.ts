/** Programs of a Go module are built once, by one process at a time, and a failure shows what the compiler said. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { clusterPrograms } from '../cluster/programs.ts';
import { suite } from '../suite.ts';
import { launch, output, run } from '../support/process.ts';
import { type Program, ProgramSet } from './program-set.ts';

const test = suite('Go programs');
test.needs('go', 'flock');

const SLOW = { timeoutMs: 180_000 };
const program = (name: string, more: Partial<Program> = {}): Program => ({
  name,
  package: `example.com/programs/${name}`,
  tags: ['sunny'],
  ldflags: [`-X main.said=${name}`],
  ...more,
});

let folder: string;
let cacheHome: string | undefined;
test.before.each(() => {
  folder = mkdtempSync(join(tmpdir(), 'ipnc-go-'));
  cacheHome = process.env.XDG_CACHE_HOME;
  // Go's own cache stays where it is.
  process.env.GOCACHE ??= output('go', ['env', 'GOCACHE']).trim();
  process.env.XDG_CACHE_HOME = join(folder, 'cache');
  writeFileSync(join(folder, 'go.mod'), 'module example.com/programs\n\ngo 1.18\n');
  writeFileSync(join(folder, 'go.sum'), '');
  source('hello', 'import "os"\n\nvar said string\n\nfunc main() { os.Stdout.WriteString(said) }');
  source('broken', 'func main() { undefinedFunction() }');
});
test.after.each(() => {
  if (cacheHome === undefined) delete process.env.XDG_CACHE_HOME;
  else process.env.XDG_CACHE_HOME = cacheHome;
  rmSync(folder, { recursive: true, force: true });
});

function source(name: string, code: string): void {
  mkdirSync(join(folder, name), { recursive: true });
  writeFileSync(join(folder, name, 'main.go'), `//go:build sunny\n\npackage main\n\n${code}\n`);
}

function setOf(...programs: Program[]): ProgramSet {
  return new ProgramSet('tried', folder, () => programs);
}

test(
  'what is missing is built with its tags and flags, and is not built again',
  async () => {
    const set = setOf(program('hello'), program('other', { package: 'example.com/programs/hello' }));
    assert.deepEqual(
      set.missing().map(({ name }) => name),
      ['hello', 'other'],
    );
    await set.build(['other']);
    assert.deepEqual(readdirSync(set.folder), ['other']);
    assert.equal(output(set.path('other')), 'other');
    const { ino } = statSync(set.path('other'));
    await set.build();
    assert.deepEqual(set.missing(), []);
    assert.equal(statSync(set.path('other')).ino, ino);
  },
  SLOW,
);

test(
  'the error of a program that cannot be built holds what the compiler said, and the ones before it stay',
  async () => {
    const set = setOf(program('hello'), program('broken'));
    await assert.rejects(
      set.build(),
      /go build example.com\/programs\/broken failed.*\n.*undefined: undefinedFunction/s,
    );
    assert.deepEqual(readdirSync(set.folder), ['hello']);
    assert.deepEqual(readdirSync(dirname(set.folder)).sort(), [set.folder.split('/').at(-1), 'lock'].sort());
  },
  SLOW,
);

test(
  'a second builder waits for the first, and builds nothing',
  async () => {
    const code = `
      import { ProgramSet } from ${JSON.stringify(join(import.meta.dirname, 'program-set.ts'))};
      await new ProgramSet('tried', ${JSON.stringify(folder)}, () => [${JSON.stringify(program('hello'))}]).build();`;
    const builder = () => run(process.execPath, ['--input-type=module', '--eval', code]);
    const said = await Promise.all([builder(), builder()]);
    assert.equal(said.filter(({ stderr }) => stderr.includes('building one program')).length, 1);
    assert.ok(existsSync(setOf(program('hello')).path('hello')));
  },
  SLOW,
);

test(
  'a builder that was killed leaves no lock behind',
  async () => {
    const set = setOf(program('hello'));
    const cache = dirname(set.folder);
    const left = join(cache, `${set.folder.split('/').at(-1)}.partial-left`);
    mkdirSync(left, { recursive: true });
    const code = `
      import { lock } from ${JSON.stringify(join(import.meta.dirname, 'lock.ts'))};
      await lock(${JSON.stringify(join(cache, 'lock'))}, () => {});
      console.log('locked');
      setInterval(() => {}, 1000);`;
    const holder = launch(process.execPath, ['--input-type=module', '--eval', code], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(holder.stdout, 'data');
    const building = set.build();
    holder.kill('SIGKILL');
    await building;
    assert.ok(existsSync(set.path('hello')));
    assert.ok(!existsSync(left), 'what a killed builder left is still there');
  },
  SLOW,
);

test('the folder is named by all that the programs are made of', () => {
  const first = setOf(program('hello')).folder;
  assert.equal(setOf(program('hello')).folder, first);
  assert.notEqual(setOf(program('hello', { tags: [] })).folder, first);
  assert.notEqual(setOf(program('hello', { cgo: [] })).folder, first);
  writeFileSync(join(folder, 'go.sum'), '\n');
  assert.notEqual(setOf(program('hello')).folder, first);
});

test('a program that the set does not have is an error that lists the programs', () => {
  assert.throws(() => setOf(program('hello')).missing(['helo']), /there is no program helo; expected one of hello/);
});

test('a version comes from go.mod', () => {
  writeFileSync(
    join(folder, 'go.mod'),
    'module m\n\ngo 1.18\n\nrequire a.b/c v1.2.3\n\nrequire (\n\tx.y/z v0.1.0 // indirect\n)\n',
  );
  const versions: string[] = [];
  const set = new ProgramSet('tried', folder, (version) => {
    versions.push(version('a.b/c'), version('x.y/z'));
    return [program('hello')];
  });
  assert.equal(set.programs.length, 1);
  assert.deepEqual(versions, ['v1.2.3', 'v0.1.0']);
  assert.throws(
    () => new ProgramSet('tried', folder, (version) => [program(version('a.b'))]).folder,
    /requires no module a.b$/,
  );
});

test("the cluster's programs are the tools of its go.mod", () => {
  const mod = readFileSync(join(clusterPrograms.source, 'go.mod'), 'utf8');
  const [, tools = ''] = /^tool \(\n([^)]*)\)/m.exec(mod) ?? [];
  assert.deepEqual(clusterPrograms.programs.map((program) => program.package).sort(), tools.trim().split(/\s+/).sort());
  assert.match(clusterPrograms.folder, /\/cluster\/[0-9a-f]{16}$/);
});
