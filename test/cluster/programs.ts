/** Where the programs are that a cluster is made of. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { networkNamespaceLack } from './sandbox/sandbox.ts';

const here = import.meta.dirname;
const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export interface Programs {
  /** Full path of a program. */
  path(name: string): string;
  /** PATH of what runs in a sandbox: containerd finds its shim there, the kubelet and kube-proxy their tools. */
  search: string;
}

/**
 * Finds these programs, and builds ours if need be, which takes minutes the first time on a machine; what it does is
 * said on stderr. Those in KUBEBUILDER_ASSETS (the convention of controller-runtime's envtest) go before ours.
 */
export async function programs(needed: string[]): Promise<Programs> {
  const assets = process.env.KUBEBUILDER_ASSETS;
  const provided = (name: string) => assets !== undefined && existsSync(join(assets, name));
  const built = needed.every(provided) ? '' : await build();
  return {
    path: (name) => (assets !== undefined && provided(name) ? join(assets, name) : join(built, name)),
    search: built ? `${built}:${SYSTEM_PATH}` : SYSTEM_PATH,
  };
}

async function build(): Promise<string> {
  const child = spawn(join(here, 'build'), { stdio: ['ignore', 'pipe', 'inherit'] });
  const [folder, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
  if (code !== 0) throw new Error('test/cluster/build failed, and has said why');
  return folder.trim();
}

/** Installs the packages that a cluster needs, as root; says what it does. */
export function installPackages(): void {
  execFileSync(join(here, 'setup'), { stdio: 'inherit' });
}

/** Why there is no helm, in words, or undefined. It needs neither root nor network. */
export function helmLack(): string | undefined {
  if (existsSync(join(process.env.KUBEBUILDER_ASSETS ?? '', 'helm'))) return undefined;
  return lackOf('build', 'no helm');
}

/** What is missing on this machine for a cluster, in words, or undefined: a test's reason to be skipped. */
export function clusterLack(): string | undefined {
  const namespaces = networkNamespaceLack();
  if (namespaces !== undefined) return namespaces;
  return lackOf('setup', 'no cluster') ?? lackOf('build', 'no cluster');
}

function lackOf(script: 'setup' | 'build', what: string): string | undefined {
  // An image may hold what imports this, and no more.
  if (!existsSync(join(here, script))) return `${what}: test/cluster is not here`;
  try {
    execFileSync(join(here, script), ['--check'], { stdio: 'pipe' });
    return undefined;
  } catch (error) {
    const said = String((error as { stderr?: Buffer }).stderr ?? error).trim();
    return `${what}: ${said.replaceAll(/^cluster: /gm, '').replaceAll('\n', '; ')}`;
  }
}
