/**
 * A place in which network namespaces can be made and nothing on the machine is touched: own network and mount
 * namespaces, an empty /run, and for an ordinary user a user namespace in which that user is root.
 */
import { execFile, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Set in the environment of the process that runs inside. */
const MARK = 'IPNC_SANDBOX';

export type SandboxOutcome =
  /** This very program ran inside and is over. */
  | { ran: true; exitCode: number }
  /** This is the process inside, or none could be had; then `lack` says what to do about it. */
  | { ran: false; lack?: string };

/** How a program is started in a sandbox. */
export interface Sandbox {
  /** Goes before the program and its arguments. */
  command: readonly [string, ...string[]];
  environment: NodeJS.ProcessEnv;
}

/** A sandbox for programs that this one starts, or what to do where none can be had. */
export async function findSandbox(): Promise<Sandbox | { lack: string }> {
  const bare = ['--net', '--mount'];
  const user = [...bare, '--user', '--map-root-user'];
  const choices = [...(process.geteuid?.() === 0 ? [bare] : []), [...user, '--map-auto'], user];
  const unshare = await firstThatWorks(choices);
  if (unshare === undefined) return { lack: remedy() };
  // /run/netns is where `ip netns` keeps its files, and /run/xtables.lock where iptables waits for others.
  const prepare = 'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"';
  return {
    command: ['unshare', ...unshare, '--', 'sh', '-c', prepare, 'sh'],
    // An ordinary user's PATH may lack the folders of ip and iptables.
    environment: { ...process.env, PATH: `${process.env.PATH ?? '/usr/bin:/bin'}:/usr/sbin:/sbin`, [MARK]: 'yes' },
  };
}

/** Whether this process runs in a sandbox already. */
export function inSandbox(): boolean {
  return process.env[MARK] !== undefined;
}

/** Runs this program again, with the same arguments, inside a sandbox; in the sandbox itself it does nothing. */
export async function runInSandbox(): Promise<SandboxOutcome> {
  if (inSandbox()) return { ran: false };
  const sandbox = await findSandbox();
  if ('lack' in sandbox) return { ran: false, lack: sandbox.lack };
  const [unshare, ...rest] = sandbox.command;
  const child = spawn(unshare, [...rest, process.execPath, ...process.execArgv, ...process.argv.slice(1)], {
    stdio: 'inherit',
    env: sandbox.environment,
  });
  // The one inside cleans up and ends; this one waits for it. A terminal's Ctrl-C reaches it twice.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => child.kill(signal));
  const exitCode = await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => resolve(code ?? 128 + constants.signals[signal ?? 'SIGTERM']));
  });
  return { ran: true, exitCode };
}

/** Whether a process here can take on `id`, as a uid and as a gid; in a user namespace not every one is there. */
export function canBecome(id: number): boolean {
  return ['uid_map', 'gid_map'].every((map) =>
    readFileSync(`/proc/self/${map}`, 'utf8')
      .trim()
      .split('\n')
      .some((line) => {
        const [first = 0, , count = 0] = line.trim().split(/\s+/).map(Number);
        return first <= id && id < first + count;
      }),
  );
}

/** How to get more than one uid in a sandbox. */
export const UID_MAP_REMEDY =
  'run as root, or install the package uidmap and give this user a range in /etc/subuid and /etc/subgid';

async function firstThatWorks(choices: string[][]): Promise<string[] | undefined> {
  for (const flags of choices) {
    try {
      await run('unshare', [...flags, '--', 'sh', '-c', 'mount -t tmpfs tmpfs /run']);
      return flags;
    } catch {
      // The next one asks for less.
    }
  }
  return undefined;
}

function remedy(): string {
  const setting = (name: string) => {
    try {
      return readFileSync(`/proc/sys/${name.replaceAll('.', '/')}`, 'utf8').trim();
    } catch {
      return undefined;
    }
  };
  const blocks = [
    ['kernel.unprivileged_userns_clone', '0', '1'],
    ['kernel.apparmor_restrict_unprivileged_userns', '1', '0'],
    ['user.max_user_namespaces', '0', '10000'],
  ] as const;
  for (const [name, blocking, allowing] of blocks) {
    if (setting(name) === blocking) return `run as root, or allow user namespaces: sysctl -w ${name}=${allowing}`;
  }
  return 'run as root; in a container, with the capabilities SYS_ADMIN and NET_ADMIN, and AppArmor unconfined';
}
