/** The programs that a cluster is made of. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ProgramSet } from '../go/program-set.ts';
import { type DebianPackage, installPackages, packagesImpossible, packagesLack } from '../support/debian.ts';
import { networkNamespaceLack } from './sandbox/sandbox.ts';

const here = import.meta.dirname;
const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** What a cluster runs beside its programs. */
const PACKAGES: DebianPackage[] = [
  { name: 'containernetworking-plugins', brings: ['/usr/lib/cni/bridge'] },
  { name: 'nftables', brings: ['nft'] },
  { name: 'iproute2', brings: ['ip'] },
  { name: 'openssl', brings: ['openssl'] },
  { name: 'util-linux', brings: ['nsenter'] },
  { name: 'mount', brings: ['mount'] },
  { name: 'gcc', brings: ['gcc'] },
];

export const clusterPrograms = new ProgramSet('cluster', here, (version) => {
  const kubernetes = version('k8s.io/kubernetes');
  const [, minor = ''] = /^v1\.(\d+)/.exec(kubernetes) ?? [];
  const variable = (name: string, value: string) => `-X ${name}=${value}`;
  // What the projects' own release scripts set. Without it Kubernetes takes itself for v0.0.0-master and refuses.
  const ldflags = [
    '-s -w',
    ...['k8s.io/component-base/version', 'k8s.io/client-go/pkg/version'].flatMap((name) => [
      variable(`${name}.gitVersion`, kubernetes),
      variable(`${name}.gitMajor`, '1'),
      variable(`${name}.gitMinor`, minor),
      variable(`${name}.gitTreeState`, 'clean'),
    ]),
    variable('helm.sh/helm/v4/internal/version.version', version('helm.sh/helm/v4')),
    variable('github.com/containerd/containerd/v2/version.Version', version('github.com/containerd/containerd/v2')),
  ];
  const tags = ['netgo', 'osusergo', 'no_btrfs', 'no_zfs', 'no_devmapper', 'grpcnotrace'];
  const packages = {
    etcd: 'go.etcd.io/etcd/server/v3',
    'kube-apiserver': 'k8s.io/kubernetes/cmd/kube-apiserver',
    'kube-controller-manager': 'k8s.io/kubernetes/cmd/kube-controller-manager',
    'kube-scheduler': 'k8s.io/kubernetes/cmd/kube-scheduler',
    kubelet: 'k8s.io/kubernetes/cmd/kubelet',
    'kube-proxy': 'k8s.io/kubernetes/cmd/kube-proxy',
    kubectl: 'k8s.io/kubernetes/cmd/kubectl',
    containerd: 'github.com/containerd/containerd/v2/cmd/containerd',
    'containerd-shim-runc-v2': 'github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2',
    ctr: 'github.com/containerd/containerd/v2/cmd/ctr',
    helm: 'helm.sh/helm/v4/cmd/helm',
  };
  return [
    ...Object.entries(packages).map(([name, path]) => ({ name, package: path, tags, ldflags })),
    {
      name: 'runc',
      package: 'github.com/opencontainers/runc',
      tags: ['seccomp', 'netgo', 'osusergo'],
      ldflags: ['-s -w'],
      // It enters namespaces in C, and libseccomp makes its seccomp profiles.
      cgo: [
        { name: 'gcc', brings: ['gcc'] },
        { name: 'pkg-config', brings: ['pkg-config'] },
        { name: 'libseccomp-dev', brings: ['/usr/include/seccomp.h'] },
      ],
    },
  ];
});

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
export async function programs(needed: readonly string[]): Promise<Programs> {
  const ours = needed.filter((name) => provided(name) === undefined);
  if (ours.length > 0) await clusterPrograms.build(ours);
  return {
    path: (name) => provided(name) ?? clusterPrograms.path(name),
    search: ours.length > 0 ? `${clusterPrograms.folder}:${SYSTEM_PATH}` : SYSTEM_PATH,
  };
}

function provided(name: string): string | undefined {
  const assets = process.env.KUBEBUILDER_ASSETS;
  if (assets === undefined || !existsSync(join(assets, name))) return undefined;
  return join(assets, name);
}

/**
 * Installs the packages and builds the programs that a cluster needs, where they are missing. Says on stderr what it
 * does. Throws an Error that says what is missing if it cannot.
 */
export async function prepareCluster(): Promise<void> {
  installPackages(PACKAGES);
  await clusterPrograms.build();
}

/** Why prepareCluster() cannot succeed on this machine, in words, or undefined. */
export function clusterImpossible(): string | undefined {
  return networkNamespaceLack() ?? packagesImpossible(PACKAGES) ?? clusterPrograms.impossible();
}

/** Why there is no helm, in words, or undefined. It needs neither root nor network. */
export function helmLack(): string | undefined {
  const lack = provided('helm') === undefined ? programsLack(['helm']) : undefined;
  return lack && `no helm: ${lack}; run "npm run programs -- cluster helm"`;
}

/** Why this machine cannot run a cluster now, in words, or undefined. */
export function clusterLack(): string | undefined {
  const namespaces = networkNamespaceLack();
  if (namespaces !== undefined) return namespaces;
  const lacks = [packagesLack(PACKAGES), programsLack()].filter((lack) => lack !== undefined);
  return lacks.length === 0 ? undefined : `no cluster: ${lacks.join('; ')}; run "npm run programs -- cluster"`;
}

function programsLack(names: readonly string[] = []): string | undefined {
  // The harness's image holds this file and not go.mod.
  if (!clusterPrograms.defined) return 'test/cluster is not here';
  const missing = clusterPrograms.missing(names).map(({ name }) => name);
  return missing.length === 0 ? undefined : `not built: ${missing.join(', ')}`;
}
