/** The gate (native/gate) as a pod would run it: in its netns, as the proxy's uid, without a capability. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { TOOLBOX } from './netns.ts';
import { launch, run } from './process.ts';

const GATE = fileURLToPath(new URL('../../build/Release/gate', import.meta.url));

/** As init containers are, once the sandbox is there. */
const PROXY = { uid: 1337, gid: 1337 };

export interface GateOptions {
  uid?: number;
  gid?: number;
  environment?: Record<string, string>;
  /** Whether it is the first process of a PID namespace, as in a container. */
  first?: boolean;
}

export interface Ended {
  /** The signal's name if it was killed. */
  code: number | NodeJS.Signals;
  /** The last line of either stream. */
  line: string;
  stdout: string;
  stderr: string;
}

/** A folder that any uid can read, with a copy of the gate: where the clone is, other uids may not come. */
export class GateHome implements Disposable {
  readonly folder: string;
  readonly #running = new Set<ChildProcess>();

  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), `ipnc-gate-${process.pid}-`));
    chmodSync(this.folder, 0o755);
    if (existsSync(GATE)) copyFileSync(GATE, join(this.folder, 'gate'));
  }

  file(name: string): string {
    return join(this.folder, name);
  }

  /** A new folder in it. */
  folderOf(name: string): string {
    const path = this.file(name);
    mkdirSync(path);
    chmodSync(path, 0o755);
    return path;
  }

  start(netns: string, words: readonly string[] = [], options: GateOptions = {}): GateProcess {
    const { uid, gid, environment = {}, first = false } = { ...PROXY, ...options };
    const become = ['--reuid', String(uid), '--regid', String(gid), '--clear-groups', '--no-new-privs'];
    const bare = ['--inh-caps=-all', '--bounding-set=-all'];
    const gate = ['nsenter', `--net=${netns}`, 'setpriv', ...become, ...bare, this.file('gate'), ...words];
    const [program = '', ...args] = [...(first ? ['unshare', '--pid', '--fork', '--kill-child'] : []), ...gate];
    const child = launch(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: process.env.PATH ?? '', ...environment },
    });
    this.#running.add(child);
    child.once('exit', () => this.#running.delete(child));
    return new GateProcess(child, first);
  }

  /** Ends what is still running. */
  [Symbol.dispose](): void {
    for (const child of this.#running) child.kill('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export class GateProcess {
  readonly ended: Promise<Ended>;
  readonly #child: ChildProcess;
  readonly #forked: boolean;
  readonly #waits: Promise<void>;
  #stdout = '';
  #stderr = '';

  /** `forked`: the gate is the child of `child`. */
  constructor(child: ChildProcess, forked = false) {
    this.#child = child;
    this.#forked = forked;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waits = promise;
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#stdout += text;
      if (this.#stdout.startsWith('waiting ')) resolve();
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text;
    });
    this.ended = once(child, 'close').then(([code, signal]) => ({
      code: (code ?? signal) as number | NodeJS.Signals,
      line: `${this.#stdout}${this.#stderr}`.trimEnd().split('\n').at(-1) ?? '',
      stdout: this.#stdout,
      stderr: this.#stderr,
    }));
  }

  get pid(): number {
    const pid = this.#child.pid ?? 0;
    return this.#forked ? Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()) : pid;
  }

  get shut(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** What it has said so far. */
  get said(): string {
    return this.#stdout;
  }

  /** Resolves when it has looked once in vain, and says so. Rejects if it ends instead. */
  async waiting(): Promise<this> {
    const over = this.ended.then(({ line }) => {
      if (!this.#stdout.startsWith('waiting ')) throw new Error(`it does not wait: ${line}`);
    });
    await Promise.race([this.#waits, over]);
    return this;
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** CPU time so far, user and system, in ticks of 10 ms. */
  ticks(): number {
    // The name in brackets may hold blanks; then state is field 3, utime 14, stime 15 (proc_pid_stat(5)).
    const [, rest = ''] = readFileSync(`/proc/${this.pid}/stat`, 'utf8').split(') ');
    const fields = rest.split(' ');
    return Number(fields[11]) + Number(fields[12]);
  }
}

/** Sends the word that has a gate look, as `uid`; `floodMs`: all the time for so long. */
export async function hint(netns: string, { uid = 1000, floodMs = 0 } = {}) {
  const words = ['hint', '--netns', netns, '--uid', String(uid), '--gid', String(uid), '--flood', String(floodMs)];
  const { stdout } = await run(TOOLBOX, words);
  return JSON.parse(stdout) as { sent: number; unheard: number; cpuMs: number };
}
