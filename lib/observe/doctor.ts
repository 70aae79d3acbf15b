/** Checks what this kernel, this process and this node support. Each problem has a remedy. */
import { existsSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import type { RunConfig } from '../config/read.ts';
import { plan } from '../istio/plan.ts';
import { redirect } from '../istio/redirect.ts';
import { native, type Probe } from '../native/addon.ts';
import { chooseBackend, ORDINARY } from '../native/backend.ts';
import type { Family, TableName } from '../ruleset/model.ts';
import type { VersionResponse } from '../runtime/cri/messages.ts';
import { CRI_SOCKETS, criSockets } from '../runtime/cri/sockets.ts';
import { NETNS_FOLDER, onNode } from '../runtime/node-paths.ts';
import { chooseSource } from '../runtime/source.ts';
import { sourcesFor } from '../runtime/sources.ts';

export interface Check {
  name: string;
  /** `warn`: only some pods need it. `missing`: nothing works without it. */
  status: 'ok' | 'warn' | 'missing';
  detail: string;
  remedy?: string;
}

/** The bits of linux/capability.h, and why each capability is necessary. */
const CAPABILITIES = [
  { name: 'CAP_NET_ADMIN', bit: 12n, use: 'rules and routes' },
  { name: 'CAP_NET_RAW', bit: 13n, use: 'the socket through which libiptc reads and writes tables' },
  { name: 'CAP_SYS_ADMIN', bit: 21n, use: 'setns() into a pod' },
];

const NEEDS: Record<TableName, string> = {
  nat: 'every redirect',
  mangle: 'TPROXY, --drop-invalid',
  raw: 'DNS capture',
};

/** Istio's default settings. */
const { spec: DEFAULTS } = redirect({});

/** The time limit for each answer of the runtime. */
const RUNTIME_LIMIT_MS = 2000;

/** The chart sets this variable to where pods wait, and why (injection.wait). */
const CHOSEN_WAIT = 'IPNC_INJECTION_WAIT';

/** The first release of each runtime that mounts image volumes, whose files can be executed. */
const IMAGE_VOLUMES: Readonly<Record<string, readonly [major: number, minor: number]>> = {
  containerd: [2, 1],
  'cri-o': [1, 31],
};

type ExamineOptions = Pick<RunConfig, 'criSocket' | 'hostRoot' | 'runtimeEvents'>;

/**
 * Runs all checks. The checks of the runtime show what `run` would find with these options. `environment` is the
 * environment of the controller's container.
 */
export async function examine(
  options: ExamineOptions,
  environment: Readonly<Record<string, string | undefined>> = {},
): Promise<Check[]> {
  const { criSocket, hostRoot } = options;
  const sockets = criSocket === undefined ? criSockets(hostRoot) : [criSocket];
  const events = await runtimeEvents(options);
  const waits = gatePlace(environment[CHOSEN_WAIT], await versionOf(sockets[0], hostRoot));
  const { checks } = await essentials();
  return [...checks, netnsFolder(onNode(hostRoot, NETNS_FOLDER)), criSocketCheck(sockets), events, ...waits];
}

/** The checks of what is essential, and the probe of the kernel. The probe is absent if the addon cannot be loaded. */
export async function essentials(): Promise<{ checks: Check[]; probe?: Probe }> {
  const checks: Check[] = [kernel(), ...capabilities(), userNamespace()];
  let probe: Probe;
  try {
    probe = await native().probe();
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    checks.push({ name: 'addon', status: 'missing', detail, remedy: 'run ./setup in the project folder' });
    return { checks };
  }
  checks.push({ name: 'addon', status: 'ok', detail: 'loaded' }, ...(await kernelSupport(probe)));
  return { checks, probe };
}

/** SO_NETNS_COOKIE came with Linux 5.14 (e8b9eab99232). */
function kernel(): Check {
  const version = release();
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const check = { name: 'kernel', detail: `Linux ${version}` };
  if (major > 5 || (major === 5 && minor >= 14)) return { ...check, status: 'ok' };
  return {
    ...check,
    status: 'warn',
    remedy:
      'use Linux 5.14 or newer, or a kernel with SO_NETNS_COOKIE, which identifies a network namespace permanently',
  };
}

function capabilities(): Check[] {
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(read('/proc/self/status'))?.[1] ?? '0'}`);
  return CAPABILITIES.map(({ name, bit, use }) => {
    if ((effective & (1n << bit)) !== 0n) return { name, status: 'ok', detail: `effective; for ${use}` };
    const remedy = `run as root, or add ${name.slice(4)} to the container's capabilities`;
    return { name, status: 'missing', detail: `not effective; needed for ${use}`, remedy };
  });
}

/** The initial user namespace maps every id to itself. */
function userNamespace(): Check {
  const map = read('/proc/self/uid_map').trim().split(/\s+/);
  const name = 'user namespace';
  if (map.join(' ') === '0 0 4294967295') return { name, status: 'ok', detail: 'the initial user namespace' };
  return {
    name,
    status: 'warn',
    detail: `not the initial user namespace (uid_map: ${map.join(' ')})`,
    remedy: 'run it on the node itself; from here it can enter only network namespaces that were created here',
  };
}

async function kernelSupport(probe: Probe): Promise<Check[]> {
  const { legacy, nftables, netns, missingExtensions, missingExpressions } = probe;
  const checks: Check[] = [];
  checks.push(
    netns === true
      ? { name: 'netns', status: 'ok', detail: 'setns() and unshare() work' }
      : {
          name: 'netns',
          status: 'missing',
          detail: `the kernel refuses setns() or unshare(): ${netns}`,
          remedy:
            'add CAP_SYS_ADMIN, and use a seccomp profile that allows both calls, such as RuntimeDefault with CAP_SYS_ADMIN',
        },
  );
  for (const family of [4, 6] as const) {
    for (const table of ['nat', 'mangle', 'raw'] as const) {
      const answer = legacy[family][table];
      const name = `legacy IPv${family} ${table}`;
      if (answer === true) {
        checks.push({ name, status: 'ok', detail: `for ${NEEDS[table]}` });
        continue;
      }
      checks.push({
        name,
        status: 'warn',
        detail: `${answer}; needed for ${NEEDS[table]}`,
        remedy: `run "modprobe ${family === 4 ? 'iptable' : 'ip6table'}_${table}"${nftables === true ? '; without it the controller uses nftables' : ''}`,
      });
    }
  }
  checks.push(
    missingExtensions.length === 0
      ? { name: 'extensions', status: 'ok', detail: 'the kernel has all matches and targets that the rules use' }
      : {
          name: 'extensions',
          status: 'warn',
          detail: `this kernel lacks ${missingExtensions.join(', ')}`,
          remedy: 'load the modules of these names, for example with "modprobe xt_owner"',
        },
  );
  checks.push(nfTables(nftables, missingExpressions));
  const families: Family[] = legacy[6].nat === 'EAFNOSUPPORT' ? [4] : [4, 6];
  const { backend, reason } = await chooseBackend('auto', ORDINARY, plan(DEFAULTS, families), () => probe);
  const others = 'nftables in a netns that another user namespace owns (hostUsers: false)';
  const usable = backend === 'nftables' || legacy[4].nat === true;
  checks.push(
    usable
      ? { name: 'backend', status: 'ok', detail: `${backend}: ${reason}; ${others}` }
      : { name: 'backend', status: 'missing', detail: 'this kernel has neither legacy iptables nor nf_tables' },
  );
  return checks;
}

function nfTables(answer: Probe['nftables'], lacking: string[]): Check {
  const name = 'nf_tables';
  if (answer !== true) {
    const remedy = 'run "modprobe nf_tables"; pods with a user namespace of their own need it';
    return { name, status: 'warn', detail: answer, remedy };
  }
  if (lacking.length === 0) return { name, status: 'ok', detail: 'the kernel has all expressions that the rules use' };
  const remedy = 'load their modules with "modprobe -a nft_redir nft_tproxy nft_ct nft_chain_nat"';
  return { name, status: 'warn', detail: `this kernel lacks ${lacking.join(', ')}`, remedy };
}

interface Mount {
  point: string;
  type: string;
  /** `shared:1`, `master:2`, as proc_pid_mountinfo(5) has them. */
  propagation: string[];
}

/** Checks whether a netns that the node's runtime creates later will be visible here. */
function netnsFolder(folder: string): Check {
  const name = NETNS_FOLDER;
  const mounts = read('/proc/self/mountinfo').split('\n').map(mount);
  const holder = mounts
    .filter(({ point }) => folder === point || folder.startsWith(point === '/' ? '/' : `${point}/`))
    .reduce<Mount | undefined>(
      (best, next) => (best && best.point.length > next.point.length ? best : next),
      undefined,
    );
  const count = mounts.filter(({ point, type }) => type === 'nsfs' && point.startsWith(`${folder}/`)).length;
  if (!existsSync(folder)) {
    const remedy = "in a container, mount the host's /run/netns with mountPropagation: HostToContainer";
    return { name, status: 'warn', detail: 'does not exist; the first "ip netns add" creates it', remedy };
  }
  const propagation = holder?.propagation.join(' ') ?? '';
  const namespaces = `${count} ${count === 1 ? 'namespace' : 'namespaces'}`;
  const detail = `${namespaces}; mounted on ${holder?.point ?? '?'}, propagation: ${propagation === '' ? 'private' : propagation}`;
  if (propagation !== '') return { name, status: 'ok', detail };
  return {
    name,
    status: 'warn',
    detail,
    remedy:
      'in a container, use mountPropagation: HostToContainer; without it namespaces that are created later are not visible',
  };
}

/** `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw` */
function mount(line: string): Mount {
  const [left = '', right = ''] = line.split(' - ');
  const words = left.split(' ');
  return { point: words[4] ?? '', type: right.split(' ')[0] ?? '', propagation: words.slice(6) };
}

function criSocketCheck(found: readonly string[]): Check {
  const name = 'CRI socket';
  if (found.length > 0) return { name, status: 'ok', detail: found.join(', ') };
  return {
    name,
    status: 'warn',
    detail: `none of ${CRI_SOCKETS.join(', ')} exists; only "ipnc run" needs one`,
    remedy: "in a container, mount the directory of the runtime's socket; on a node, name the socket with --cri-socket",
  };
}

/** The source that reports new sandboxes, by the choice that `run` makes. */
async function runtimeEvents({ criSocket, hostRoot, runtimeEvents: wanted }: ExamineOptions): Promise<Check> {
  const name = 'runtime events';
  const without = 'without runtime events the controller learns of pods only from the API server, about a second later';
  if (wanted === 'off')
    return { name, status: 'warn', detail: 'off', remedy: `set --runtime-events to auto; ${without}` };
  const socket = criSocket ?? criSockets(hostRoot)[0];
  if (socket === undefined) {
    return {
      name,
      status: 'warn',
      detail: 'none: no CRI socket',
      remedy: `name the socket with --cri-socket; ${without}`,
    };
  }
  // Loaded here, because loading gRPC takes longer than all other checks run.
  const { Cri } = await import('../runtime/cri/client.ts');
  const cri = new Cri(onNode(hostRoot, socket), RUNTIME_LIMIT_MS);
  const end = new AbortController();
  try {
    const runtime = { cri, version: await cri.version(), criSocket: socket, netnsFolder: NETNS_FOLDER, hostRoot };
    const { chosen, reason } = await chooseSource(sourcesFor(wanted), runtime, end.signal);
    if (chosen !== undefined) return { name, status: 'ok', detail: `${chosen.source.name}: ${reason}` };
    return { name, status: 'warn', detail: `none: ${reason}`, remedy: `set --runtime-events to auto; ${without}` };
  } catch (error) {
    const detail = `none: ${error instanceof Error ? error.message : String(error)}`;
    return {
      name,
      status: 'warn',
      detail,
      remedy: `start the runtime, or name its socket with --cri-socket; ${without}`,
    };
  } finally {
    end.abort();
    cri.close();
  }
}

async function versionOf(socket: string | undefined, hostRoot: string): Promise<VersionResponse | undefined> {
  if (socket === undefined) return undefined;
  const { Cri } = await import('../runtime/cri/client.ts');
  const cri = new Cri(onNode(hostRoot, socket), RUNTIME_LIMIT_MS);
  try {
    return await cri.version();
  } catch {
    // The check of runtime events reports this error.
    return undefined;
  } finally {
    cri.close();
  }
}

/**
 * `chosen` is `sidecar: WHY` or `init: WHY`. A gate in the sidecar comes as an image volume, which the runtime has to
 * mount.
 */
export function gatePlace(chosen: string | undefined, version: VersionResponse | undefined): Check[] {
  if (chosen === undefined || version === undefined) return [];
  const name = 'gate';
  const { runtimeName, runtimeVersion } = version;
  const runtime = `${runtimeName} ${runtimeVersion}`;
  const least = IMAGE_VOLUMES[runtimeName];
  const [major = 0, minor = 0] = (/(\d+)\.(\d+)/.exec(runtimeVersion) ?? []).slice(1).map(Number);
  const able = least !== undefined && (major > least[0] || (major === least[0] && minor >= least[1]));
  const detail = `pods wait in: ${chosen}; ${runtime} ${able ? 'supports' : 'is not known to support'} image volumes`;
  if (able || !chosen.startsWith('sidecar')) return [{ name, status: 'ok', detail }];
  const remedy =
    'use containerd 2.1 or CRI-O 1.31, or set injection.wait=init; pods with the gate in the sidecar cannot start on this node';
  return [{ name, status: 'warn', detail, remedy }];
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
