/**
 * Records what a cluster could change on a machine, for a comparison before and after. Others may use the machine too.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, globSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';

/** By which a sandbox's traces are known. */
export interface Traces {
  /** Of sandboxes: in the command lines, cgroups and folders they made. */
  names: string[];
  /** Of their namespaces, as /proc/PID/ns has them. */
  namespaces: string[];
  /** When they were ended, in seconds since the boot; afterwards other namespaces can get their numbers. */
  ended?: number;
}

/** What a kubelet or a containerd makes on a machine that is not hidden from it. */
const FOLDERS = [
  ...['/var/lib/kubelet', '/var/lib/containerd', '/var/log/pods', '/var/log/containers', '/run/containerd', '/run/nri'],
  ...['/run/cni', '/opt/containerd', '/opt/cni', '/opt/nri', '/etc/cni', '/etc/nri', '/etc/kubernetes'],
];
const PARAMETERS = [
  ...['kernel/panic', 'kernel/panic_on_oops', 'vm/overcommit_memory', 'vm/panic_on_oom'],
  ...['net/ipv4/ip_forward', 'net/ipv6/conf/all/forwarding', 'net/netfilter/nf_conntrack_max'],
];

export type Census = Record<string, string[]>;

/** What there is now and was not before. What others took away meanwhile does not count. */
export function added(before: Census, now: Census, except: string[] = []): string[] {
  return Object.entries(now)
    .filter(([kind]) => !except.includes(kind))
    .flatMap(([kind, entries]) => {
      const known = new Set(before[kind]);
      return entries.filter((entry) => !known.has(entry)).map((entry) => `${kind}: ${entry}`);
    });
}

export function census(traces: Traces = { names: [], namespaces: [] }): Census {
  const named = (text: string) => traces.names.some((name) => text.includes(name));
  const { ended = Number.POSITIVE_INFINITY } = traces;
  return {
    processes: processes()
      .filter(({ started }) => started <= ended)
      .filter(({ command, namespaces }) => named(command) || namespaces.some((one) => traces.namespaces.includes(one)))
      .map(({ command }) => command),
    netns: existsSync('/run/netns') ? readdirSync('/run/netns') : [],
    mounts: lines(readFileSync('/proc/self/mountinfo', 'utf8')),
    links: lines(run('ip', '-brief', 'link')),
    addresses: lines(run('ip', '-brief', 'address')),
    routes: [
      ...lines(run('ip', '-4', 'route', 'show', 'table', 'all')),
      ...lines(run('ip', '-6', 'route', 'show', 'table', 'all')),
    ],
    rules: [
      ...[
        ...lines(run('ip', '-4', 'rule')),
        ...lines(run('ip', '-6', 'rule')),
        ...lines(run('nft', 'list', 'ruleset')),
      ],
      ...[...lines(run('iptables-legacy-save')), ...lines(run('ip6tables-legacy-save'))],
    ],
    cgroups: globSync(['/sys/fs/cgroup/*', '/sys/fs/cgroup/*/*']).filter(
      (path) => named(path) || path.includes('kubepods'),
    ),
    folders: [...readdirSync(tmpdir()).filter(named), ...FOLDERS.filter((folder) => existsSync(folder))],
    parameters: PARAMETERS.map((name) => `${name} ${parameter(name)}`),
  };
}

export function namespacesOf(pid: number): string[] {
  return ['net', 'mnt', 'pid'].map((kind) => readlinkSync(`/proc/${pid}/ns/${kind}`));
}

/** In seconds since the boot. */
export function now(): number {
  return Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]);
}

/** `started` is in seconds since the boot. */
function processes(): { command: string; namespaces: string[]; started: number }[] {
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .flatMap((pid) => {
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
        // Field 22, in hundredths of a second (proc_pid_stat(5)); the name before it may hold blanks.
        const [, rest = ''] = readFileSync(`/proc/${pid}/stat`, 'utf8').split(/\) (?=\w )/);
        const started = Number(rest.split(' ')[19]) / 100;
        return [{ command: `${pid} ${command}`, namespaces: namespacesOf(Number(pid)), started }];
      } catch {
        return []; // it ended
      }
    });
}

/** Without the comments and packet counters of iptables-save. */
function lines(text: string): string[] {
  return text.split('\n').filter((line) => line !== '' && !/^#|^:\w+ \w+ \[/.test(line));
}

function run(command: string, ...args: string[]): string {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  } catch {
    return ''; // a machine without the command has no rules of its kind
  }
}

function parameter(name: string): string {
  const path = `/proc/sys/${name}`;
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : '';
}
