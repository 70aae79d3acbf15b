/** Where the programs are that a cluster is made of. */
import { execFile, execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { networkNamespaceLack } from './sandbox/sandbox.ts';

const run = promisify(execFile);
const here = import.meta.dirname;

export interface Programs {
  /** Full path of a program. */
  path(name: string): string;
  /** Value of PATH for what runs in a sandbox: containerd finds its shim there, the kubelet and kube-proxy their tools. */
  search: string;
}

/**
 * Finds these programs, and builds ours if need be, which takes minutes the first time on a machine; what it does is
 * said on stderr. Those in KUBEBUILDER_ASSETS (the convention of controller-runtime's envtest) go before ours.
 */
export async function programs(needed: string[]): Promise<Programs> {
  const assets = process.env.KUBEBUILDER_ASSETS;
  const provided = (name: string) => assets !== undefined && existsSync(join(assets, name));
  const built = needed.every(provided) ? '' : (await run(join(here, 'build')).catch(explain)).stdout.trim();
  return {
    path: (name) => (assets !== undefined && provided(name) ? join(assets, name) : join(built, name)),
    search: [built, '/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'].join(':'),
  };
}

function explain(error: Error & { stderr?: string }): never {
  throw new Error(error.stderr?.trim() || error.message, { cause: error });
}

/** What is missing on this machine for a cluster, in words, or undefined: a test's reason to be skipped. */
export function clusterLack(): string | undefined {
  const namespaces = networkNamespaceLack();
  if (namespaces !== undefined) return namespaces;
  for (const script of ['setup', 'build']) {
    try {
      execFileSync(join(here, script), ['--check'], { stdio: 'pipe' });
    } catch (error) {
      const said = String((error as { stderr?: Buffer }).stderr ?? error).trim();
      return `no cluster: ${said.replaceAll(/^cluster: /gm, '').replaceAll('\n', '; ')}`;
    }
  }
  return undefined;
}
