/**
 * A sandbox: network, mount and process namespaces of its own, a folder and a cgroup. A process outside, the keeper,
 * takes it away with all that is in it as soon as this process closes it or ends, by whatever end.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { sweep } from './sweep.ts';

/** Of the sandboxes' folders and cgroups. */
const PREFIX = 'ipnc-cluster-';

export interface Sandbox {
  /** Unique on the machine; also the name of its cgroup, in each hierarchy. */
  name: string;
  folder: string;
  /** Its first process, as seen from outside. */
  pid: number;
  /** The path outside of a path inside: its mounts are its own. */
  path(inside: string): string;
  /** The command that runs `argv` inside. */
  enter(argv: string[]): string[];
  /** Runs a command inside; its standard output. */
  exec(argv: string[], options?: { input?: string; env?: NodeJS.ProcessEnv }): Promise<string>;
  /** Ends its processes, and returns when nothing is left of it. */
  close(): Promise<void>;
}

export async function openSandbox(): Promise<Sandbox> {
  sweep(PREFIX);
  const folder = mkdtempSync(join(tmpdir(), PREFIX));
  const name = basename(folder);
  const keeper = spawn(join(import.meta.dirname, 'keeper'), [folder, name], {
    // A session of its own: no signal meant for this process's group reaches it.
    detached: true,
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = once(keeper, 'exit');
  const close = async () => {
    keeper.ref();
    keeper.stdin.end();
    await ended;
  };
  const lines = createInterface(keeper.stdout);
  const [pid] = (await Promise.race([once(lines, 'line'), once(lines, 'close')])) as [string?];
  if (pid === undefined) {
    const log = readFileSync(join(folder, 'sandbox.log'), { encoding: 'utf8', flag: 'a+' });
    await close();
    throw new Error(`no sandbox can be made here: ${log.trim() || 'the keeper ended'}`);
  }
  // Neither the keeper nor the pipe to it keeps this process from ending, and so from ending the sandbox.
  keeper.unref();
  (keeper.stdin as unknown as { unref(): void }).unref();

  const enter = (argv: string[]) => ['nsenter', '--target', pid, '--net', '--mount', '--pid', '--', ...argv];
  return {
    name,
    folder,
    pid: Number(pid),
    path: (inside) => `/proc/${pid}/root${inside}`,
    enter,
    exec: (argv, options = {}) => output(enter(argv), options),
    close,
  };
}

/** Runs a command to its end; its standard output. */
export function output(argv: string[], options: { input?: string; env?: NodeJS.ProcessEnv } = {}): Promise<string> {
  const [command = '', ...rest] = argv;
  return new Promise((resolve, reject) => {
    const child = execFile(
      command,
      rest,
      { maxBuffer: Number.POSITIVE_INFINITY, env: options.env ?? process.env },
      (error, stdout, stderr) => {
        if (error === null) resolve(stdout);
        else reject(new Error(`${argv.join(' ')}: ${stderr.trim() || error.message}`, { cause: error }));
      },
    );
    child.stdin?.on('error', () => {}); // one that ends without reading says why by its exit
    child.stdin?.end(options.input ?? '');
  });
}

/** Why no sandbox can be made here, in words, or undefined. */
export function networkNamespaceLack(): string | undefined {
  if (process.geteuid?.() !== 0) return 'no cluster: not root here';
  // In a user namespace the whole machine's uids are not there, nor its cgroups to write.
  if (!/^\s*0\s+0\s+4294967295$/m.test(readFileSync('/proc/self/uid_map', 'utf8'))) {
    return 'no cluster: not root of the machine, only of a user namespace';
  }
  if (!existsSync('/proc/net/if_inet6')) return 'no cluster: this kernel runs without IPv6';
  return undefined;
}
