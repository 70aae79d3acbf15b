/** The controller under measurement: bundled as in a released image, in a process of its own. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, openSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { BUNDLE } from '../../chart/image/bundle.ts';
import { ENVIRONMENT } from '../../chart/image/files.ts';
import type { Installed, Order, State, Sweep } from './entry.ts';

/** Lets its heap be collected on demand. */
export const COLLECTABLE = '--expose-gc';
const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** Path of the bundle in `folder`. */
export async function bundleSubject(folder: string, minify: boolean): Promise<string> {
  mkdirSync(join(folder, 'lib'));
  symlinkSync(join(ROOT, 'build'), join(folder, 'build'));
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  const outfile = join(folder, 'lib/main.js');
  await build({
    entryPoints: [fileURLToPath(new URL('entry.ts', import.meta.url))],
    ...BUNDLE,
    minify,
    outfile,
  });
  return outfile;
}

/** The last word of a Subject from which `installed` is asked. */
export const FOLLOW = 'follow';

export class Subject implements AsyncDisposable {
  /** Milliseconds since 1970 at which its process was started. */
  readonly startedAt = performance.timeOrigin + performance.now();
  readonly #child: ChildProcess;
  /** MiB, one a second. */
  readonly samples: number[] = [];
  readonly #timer: NodeJS.Timeout;

  /** `options` are those of `ipnc run`, as environment variables. */
  constructor(bundle: string, words: string[], execArgv: string[], log: string, options: Record<string, string> = {}) {
    const fd = openSync(log, 'w');
    const env = { ...process.env, ...Object.fromEntries(ENVIRONMENT.map((each) => each.split('='))), ...options };
    this.#child = fork(bundle, words, { execArgv, env, stdio: ['ignore', fd, fd, 'ipc'] });
    this.#child.once('exit', (code) => {
      if (code !== 0) console.error(`the controller ended with ${code}: ${readFileSync(log, 'utf8').slice(-2000)}`);
    });
    this.#timer = setInterval(() => this.samples.push(this.rss()), 1000);
  }

  /** MiB, as the kernel has it. */
  rss(): number {
    const status = readFileSync(`/proc/${this.#child.pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? Number.NaN) / 1024;
  }

  /** Seconds, of all its threads. */
  cpu(): number {
    const [utime = 0, stime = 0] = readFileSync(`/proc/${this.#child.pid}/stat`, 'utf8')
      .replace(/^.*\) /, '')
      .split(' ')
      .slice(11, 13)
      .map(Number);
    return (utime + stime) / 100;
  }

  async sweep(): Promise<Sweep> {
    return (await this.#ask('sweep')) as Sweep;
  }

  async state(): Promise<State> {
    return (await this.#ask('state')) as State;
  }

  /** The pods whose rules it has installed since this was asked last. */
  async installed(): Promise<Installed[]> {
    return (await this.#ask('installed')) as Installed[];
  }

  /** Milliseconds since 1970 at which it has examined every pod of its first list. */
  async examinedAt(): Promise<number> {
    return (await this.#ask('examined')) as number;
  }

  /** KiB of V8's heap that are in use after a full collection; it has to be started with COLLECTABLE. */
  async heapKept(): Promise<number> {
    return ((await this.#ask('collect')) as State).heapUsed / 1024;
  }

  /** Of its open files. */
  descriptors(): number {
    return readdirSync(`/proc/${this.#child.pid}/fd`).length;
  }

  async #ask(order: Order): Promise<unknown> {
    this.#child.send(order);
    const [answer] = (await once(this.#child, 'message')) as [unknown];
    return answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    if (this.#child.exitCode !== null) return;
    this.#child.kill('SIGTERM');
    await once(this.#child, 'exit');
  }
}
