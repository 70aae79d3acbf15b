/** Builds the programs of a set, one after the other, by one process of the machine at a time. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, globSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { lock } from './lock.ts';
import type { Program, ProgramSet } from './program-set.ts';

/** Golang's own image has Go there and not in every PATH. */
const PATH = `${process.env.PATH ?? ''}:/usr/local/go/bin`;
/** From this minor version of 1 on, Go fetches the version that go.mod asks for. */
const FIRST_WITH_TOOLCHAINS = 21;

export async function build(set: ProgramSet, names: readonly string[]): Promise<void> {
  const cache = dirname(set.folder);
  mkdirSync(cache, { recursive: true });
  await using _ = await lock(join(cache, 'lock'), () => say(set, 'waiting for another build of these programs'));
  const missing = set.missing(names);
  if (missing.length === 0) return;

  // Another build left these behind: it has ended, since it held the lock.
  const left = globSync('*.partial-*', { cwd: cache }).map((name) => join(cache, name));
  for (const folder of left) rmSync(folder, { recursive: true, force: true });
  const partial = mkdtempSync(`${set.folder}.partial-`);
  try {
    await buildInto(partial, set, missing);
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
}

/** The folder in Go's module cache of a module that the set's go.mod requires; downloads it if it is not there. */
export async function moduleFolder(set: ProgramSet, module: string): Promise<string> {
  const env = await goEnvironment(set);
  const said = await output('go', ['mod', 'download', '-json', module], { cwd: set.source, env });
  return (JSON.parse(said) as { Dir: string }).Dir;
}

async function buildInto(partial: string, set: ProgramSet, missing: readonly Program[]): Promise<void> {
  const env = await goEnvironment(set);
  const version = (await output('go', ['env', 'GOVERSION'], { cwd: set.source, env })).trim();
  say(set, `building ${count(missing.length)} with ${version}, once on this machine, into ${set.folder}`);
  const progress = new Progress(set, missing.length);
  mkdirSync(set.folder, { recursive: true });
  for (const program of missing) {
    progress.begin(program.name);
    const file = join(partial, program.name);
    await compile(set, program, file, env, (line) => progress.detail(line));
    // A program gets its place when it is complete.
    renameSync(file, set.path(program.name));
  }
  progress.end();
}

async function compile(
  set: ProgramSet,
  program: Program,
  file: string,
  environment: NodeJS.ProcessEnv,
  onLine: (line: string) => void,
): Promise<void> {
  const flags = ['-trimpath', '-buildvcs=false', '-mod=readonly', '-o', file];
  if (program.tags.length > 0) flags.push('-tags', program.tags.join(','));
  if (program.ldflags.length > 0) flags.push('-ldflags', program.ldflags.join(' '));
  // It ends with this process, however that ends. At SIGINT Go removes its work folder; at SIGTERM it does not.
  const command = ['--pdeathsig', 'INT', 'nice', '-n', '10', 'go', 'build', ...flags, program.package];
  const child = spawn('setpriv', command, {
    cwd: set.source,
    env: { ...environment, CGO_ENABLED: program.cgo === undefined ? '0' : '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const said: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    createInterface(stream).on('line', (line) => {
      onLine(line);
      if (!line.startsWith('go: downloading ')) said.push(line);
    });
  }
  const code = await exitOf(child);
  if (code !== 0) {
    throw new Error(`${set.name}: go build ${program.package} failed (${code}):\n${said.slice(-60).join('\n')}`);
  }
}

/** What Go runs with: the version that go.mod asks for, a newer one, or one that fetches it. */
async function goEnvironment(set: ProgramSet): Promise<NodeJS.ProcessEnv> {
  // A machine's own GOTOOLCHAIN=local would make an older Go refuse. Collecting garbage less often makes the compiler
  // faster.
  const env = { ...process.env, PATH, GOTOOLCHAIN: 'auto', GOGC: '400' };
  const here = { cwd: '/', env };
  const version = (await output('go', ['env', 'GOVERSION'], here)).trim();
  const minor = minorOf(version);
  if (minor >= FIRST_WITH_TOOLCHAINS) return env;
  const [, wanted = ''] = /^go (\S+)$/m.exec(readFileSync(join(set.source, 'go.mod'), 'utf8')) ?? [];
  if (minor > minorOf(wanted)) return env;
  // For an older Go it is a module like any other, but for the permissions of its files.
  const arch = (await output('go', ['env', 'GOARCH'], here)).trim();
  const toolchain = `golang.org/toolchain@v0.0.1-go${wanted}.linux-${arch}`;
  say(set, `${version} is too old, so ${toolchain} is used`);
  const { Dir } = JSON.parse(await output('go', ['mod', 'download', '-json', toolchain], here)) as { Dir: string };
  for (const file of globSync(['bin/*', 'pkg/tool/**'], { cwd: Dir }).map((name) => join(Dir, name))) {
    const { mode } = statSync(file);
    chmodSync(file, mode | 0o111);
  }
  return { ...env, PATH: `${join(Dir, 'bin')}:${PATH}` };
}

/** 21 for `go1.21.3` and `1.21`. A Go from its repository, which has no such name, is new enough. */
function minorOf(version: string): number {
  return Number(/^(?:go)?1\.(\d+)/.exec(version)?.[1] ?? FIRST_WITH_TOOLCHAINS);
}

export async function output(command: string, args: string[], options: { cwd: string; env: NodeJS.ProcessEnv }) {
  const child = spawn(command, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
  const [stdout, stderr, code] = await Promise.all([text(child.stdout), text(child.stderr), exitOf(child)]);
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} failed (${code}):\n${stdout}${stderr}`);
  return stdout;
}

/** Its exit code, or the signal that ended it, once all of its output is read. */
async function exitOf(child: ChildProcess): Promise<number | string> {
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  return code ?? signal ?? '';
}

/** A line for each program; on a terminal the line of the current one also shows the time and what Go says. */
class Progress {
  readonly #set: ProgramSet;
  readonly #total: number;
  readonly #began = performance.now();
  readonly #timer: NodeJS.Timeout | undefined;
  #number = 0;
  #name = '';
  #detail = '';

  constructor(set: ProgramSet, total: number) {
    this.#set = set;
    this.#total = total;
    if (process.stderr.isTTY) this.#timer = setInterval(() => this.#rewrite(), 1_000).unref();
  }

  begin(name: string): void {
    this.#number++;
    this.#name = name;
    this.#detail = '';
    if (this.#timer === undefined) process.stderr.write(`${this.#line()}\n`);
    else this.#rewrite();
  }

  detail(line: string): void {
    this.#detail = line.replace(/^go: /, '');
  }

  end(): void {
    clearInterval(this.#timer);
    if (this.#timer !== undefined) process.stderr.write('\r\x1b[K');
    say(this.#set, `built ${count(this.#total)} in ${this.#time()}`);
  }

  #rewrite(): void {
    const line = `${this.#line()}${this.#detail === '' ? '' : `: ${this.#detail}`}`;
    process.stderr.write(`\r\x1b[K${line.slice(0, (process.stderr.columns ?? 80) - 1)}`);
  }

  #line(): string {
    return `${this.#set.name}: ${this.#number} of ${this.#total}, ${this.#name}, after ${this.#time()}`;
  }

  #time(): string {
    const seconds = Math.round((performance.now() - this.#began) / 1000);
    return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  }
}

function say(set: ProgramSet, what: string): void {
  process.stderr.write(`${set.name}: ${what}\n`);
}

function count(programs: number): string {
  return programs === 1 ? 'one program' : `${programs} programs`;
}
