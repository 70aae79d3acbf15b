/** Finds out what this machine lacks for a test. Each answer is determined once in a process. */
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { canBecome, UID_MAP_REMEDY } from '../lib/demo/userns.ts';
import { alertPrograms } from './alerts/programs.ts';
import { clusterImpossible, clusterLack, clusterPrograms, helmLack, prepareCluster } from './cluster/programs.ts';
import { networkNamespaceLack } from './cluster/sandbox/sandbox.ts';
import { buildDockerfile, dockerfileImpossible, dockerfileLack } from './dockerfile/images.ts';
import { lintPrograms } from './lint/programs.ts';
import { meshImpossible, meshLack, prepareMesh } from './mesh/programs.ts';

export interface SetUp {
  /** Why this machine cannot have it by any step of ours, or undefined. */
  impossible(): string | undefined;
  /** Says on stderr what it does. Throws an Error with the reason if it fails. */
  bring(): Promise<void>;
}

export type SetUpName = 'actionlint' | 'cluster' | 'dockerfile' | 'helm' | 'mesh' | 'promtool';

/** What the runner brings if a test needs it and lacks it. */
export const setUps: Record<SetUpName, SetUp> = {
  actionlint: { impossible: () => lintPrograms.impossible(), bring: () => lintPrograms.build() },
  cluster: { impossible: clusterImpossible, bring: prepareCluster },
  dockerfile: { impossible: dockerfileImpossible, bring: buildDockerfile },
  helm: { impossible: () => clusterPrograms.impossible(['helm']), bring: () => clusterPrograms.build(['helm']) },
  mesh: { impossible: meshImpossible, bring: prepareMesh },
  promtool: { impossible: () => alertPrograms.impossible(), bring: () => alertPrograms.build() },
};

/** What can be asked for by name; any other name is a command to be found in PATH. */
const probes: Record<string, () => string | undefined> = {
  root: () => (process.geteuid?.() === 0 ? undefined : 'this user is not root, and cannot create a user namespace'),
  netns: () =>
    hasCapabilities()
      ? undefined
      : 'CAP_SYS_ADMIN and CAP_NET_ADMIN are needed for network namespaces; run as root, or allow user namespaces',
  /** More than one uid and gid: owner rules and a sidecar of its own uid need them. */
  'uid-map': () =>
    [1000, 1337, 65534].every(canBecome)
      ? undefined
      : `uids 1000, 1337 and 65534 are not mapped in this user namespace; ${UID_MAP_REMEDY}`,
  'every-uid': () =>
    canBecome(4_294_967_294) ? undefined : 'the test needs uid 4294967294, which this user namespace does not map',
  /** A user namespace for a pod, which maps 0 to 65535 to 100000 and up. */
  'pod-userns': () => {
    if (readFileSync('/proc/sys/user/max_user_namespaces', 'utf8').trim() === '0') {
      return 'user namespaces are off: sysctl -w user.max_user_namespaces=10000';
    }
    return [100_000, 165_535].every(canBecome)
      ? undefined
      : 'the user namespace of a pod needs uids 100000 to 165535, which are not mapped here; run as root';
  },
  ipv6: () => (existsSync('/proc/net/if_inet6') ? undefined : 'this kernel runs without IPv6'),
  addon: () => built('bindings/ipnc.node', 'ipnc.node'),
  gate: () => built('gate'),
  toolbox: () => built('toolbox'),
  native_test: () => built('native_test'),
  'machine-root': networkNamespaceLack,
  cluster: () => (withoutCluster() ? '--no-cluster skips it' : clusterLack()),
  dockerfile: () => (withoutCluster() ? 'left out by --no-cluster' : dockerfileLack()),
  helm: helmLack,
  actionlint: () => lintPrograms.lack('actionlint'),
  promtool: () => alertPrograms.lack('promtool'),
  mesh: () => (withoutCluster() ? '--no-cluster skips it' : meshLack()),
  browser: () =>
    chromium() === undefined
      ? `none of ${BROWSERS.join(', ')} is in PATH; apt-get install -y --no-install-recommends chromium-headless-shell`
      : undefined,
};

const BROWSERS = ['chromium-headless-shell', 'chromium', 'google-chrome'];

/** The first there is. */
export function chromium(): string | undefined {
  return BROWSERS.find((name) => command(name) === undefined);
}

const answers = new Map<string, string | undefined>();

/** What is missing, in words, or undefined when the need is met. */
export function lacking(need: string): string | undefined {
  if (!answers.has(need)) answers.set(need, probe(need));
  return answers.get(need);
}

/** Those of `needs` that are missing, and that the runner may bring. */
export function toSetUp(needs: readonly string[]): SetUpName[] {
  if (withoutCluster()) return [];
  const names = Object.keys(setUps) as SetUpName[];
  return names.filter((name) => needs.includes(name) && lacking(name) !== undefined);
}

/** The answer to `need` may be another one now. */
export function forget(need: string): void {
  answers.delete(need);
}

function probe(need: string): string | undefined {
  return (probes[need] ?? (() => command(need)))();
}

/** Set by the runner's --no-cluster. */
function withoutCluster(): boolean {
  return process.env.IPNC_TEST_NO_CLUSTER !== undefined;
}

function command(name: string): string | undefined {
  const found = (process.env.PATH ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
  return found ? undefined : `the command ${name} is not in PATH`;
}

function built(...names: string[]): string | undefined {
  const folder = fileURLToPath(new URL(`../build/${process.env.IPNC_BUILD ?? 'Release'}/`, import.meta.url));
  return names.some((name) => existsSync(join(folder, name))) ? undefined : `${names[0]} is not built; run ./setup`;
}

function hasCapabilities(): boolean {
  const effective = BigInt(`0x${/^CapEff:\s*(\w+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'}`);
  const netAdmin = 1n << 12n;
  const sysAdmin = 1n << 21n;
  return (effective & netAdmin) !== 0n && (effective & sysAdmin) !== 0n;
}
