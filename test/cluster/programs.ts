/** Where the programs are that a cluster is made of. */
import { execFile, execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { networkNamespaceLack } from './sandbox/sandbox.ts';

const run = promisify(execFile);
const here = import.meta.dirname;

export interface Programs {
  /** Full path of a program, or its name where it is the system's. */
  path(name: string): string;
  /** Value of PATH for what runs in a sandbox: containerd finds its shim there, the kubelet and kube-proxy their tools. */
  search: string;
}

/** Builds them if need be, which takes minutes the first time on a machine; what it does is said on stderr. */
export async function programs(): Promise<Programs> {
  const { stdout } = await run(join(here, 'build'), { maxBuffer: Number.POSITIVE_INFINITY }).catch(explain);
  return from(stdout.trim());
}

function from(built: string): Programs {
  // The convention of controller-runtime's envtest.
  const assets = process.env.KUBEBUILDER_ASSETS;
  const search = [...(assets ? [assets] : []), built];
  return {
    path: (name) => search.map((folder) => join(folder, name)).find((path) => existsSync(path)) ?? name,
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
  for (const [script, remedy] of [
    ['setup', undefined],
    ['build', 'its programs are not built (once, about ten minutes): test/cluster/build'],
  ] as const) {
    try {
      execFileSync(join(here, script), ['--check'], { stdio: 'pipe' });
    } catch (error) {
      return `no cluster: ${remedy ?? String((error as { stderr?: Buffer }).stderr).trim()}`;
    }
  }
  return undefined;
}
