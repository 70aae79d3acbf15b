/** What a control plane's programs are told. Where a setting is not a matter of course, the reason stands beside it. */
import { type ClusterNetwork, KUBERNETES_ADDRESS, SERVICES } from './network.ts';
import type { Authority, KeyPair, TokenKey } from './pki.ts';

type Flags = Record<string, string>;

/** Of kube-apiserver: its netns is its own, and so are all ports. */
export const PORT = 6443;
const ETCD = 'http://127.0.0.1:2379';
const CLUSTER_DOMAIN = 'cluster.local';

export function apiServerNames({ address }: ClusterNetwork): string[] {
  const domains = ['', '.default', '.default.svc', `.default.svc.${CLUSTER_DOMAIN}`];
  return [
    ...domains.map((domain) => `kubernetes${domain}`),
    ...[address.v4, address.v6, KUBERNETES_ADDRESS.v4, KUBERNETES_ADDRESS.v6],
  ];
}

export function etcdFlags(): Flags {
  return {
    // Inside the sandbox this is memory.
    'data-dir': '/run/etcd',
    'listen-client-urls': ETCD,
    'advertise-client-urls': ETCD,
    'unsafe-no-fsync': 'true',
    'log-level': 'warn',
  };
}

interface ApiServerSettings {
  network: ClusterNetwork;
  authority: Authority;
  serving: KeyPair;
  /** As whom it asks kubelets. */
  kubeletClient: KeyPair;
  tokenKey: TokenKey;
}

export function apiServerFlags({ network, authority, serving, kubeletClient, tokenKey }: ApiServerSettings): Flags {
  return {
    'advertise-address': network.address.v4,
    'secure-port': `${PORT}`,
    'etcd-servers': ETCD,
    'tls-cert-file': serving.cert,
    'tls-private-key-file': serving.key,
    'client-ca-file': authority.cert,
    'kubelet-certificate-authority': authority.cert,
    'kubelet-client-certificate': kubeletClient.cert,
    'kubelet-client-key': kubeletClient.key,
    'kubelet-preferred-address-types': 'InternalIP',
    'service-account-issuer': `https://kubernetes.default.svc.${CLUSTER_DOMAIN}`,
    'service-account-key-file': tokenKey.publicKey,
    'service-account-signing-key-file': tokenKey.key,
    'service-cluster-ip-range': `${SERVICES.v4},${SERVICES.v6}`,
    'authorization-mode': 'Node,RBAC',
    'enable-admission-plugins': 'NodeRestriction',
    'allow-privileged': 'true',
    // Webhooks are reached at their pods' addresses: no kube-proxy runs beside the control plane.
    'enable-aggregator-routing': 'true',
    profiling: 'false',
  };
}

export function controllerFlags(kubeconfig: string, { cert }: Authority, { key }: TokenKey) {
  const common = { kubeconfig, 'leader-elect': 'false', 'secure-port': '0', profiling: 'false' };
  const manager = {
    ...common,
    'service-account-private-key-file': key,
    'root-ca-file': cert,
    'service-cluster-ip-range': `${SERVICES.v4},${SERVICES.v6}`,
  };
  return { manager, scheduler: common };
}
