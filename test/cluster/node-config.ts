/** What a node's programs are told. Where a setting is not a matter of course, the reason stands beside it. */

import { imageName } from './images/images.ts';
import { DNS_ADDRESS, type Dual, PODS } from './network.ts';
import type { KeyPair } from './pki.ts';

interface ContainerdFolders {
  cni: { plugins: string; config: string };
  opt: string;
  /** A folder for each registry, with its hosts.toml. */
  registries: string;
}

/** TOML, for containerd 2. */
export function containerdConfig(socket: string, { cni, opt, registries }: ContainerdFolders): string {
  return `version = 3

[grpc]
  address = '${socket}'

[plugins.'io.containerd.internal.v1.opt']
  path = '${opt}'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '${imageName('pause')}'

[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '${registries}'

[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  # A machine without CAP_SYS_RESOURCE lets nobody lower it, and runc dies of that.
  restrict_oom_score_adj = true

  [plugins.'io.containerd.cri.v1.runtime'.cni]
    # The second folder is Debian's, and the machine's own: an agent that brings a plugin writes into the first.
    bin_dirs = ['${cni.plugins}', '/usr/lib/cni']
    conf_dir = '${cni.config}'

  # systemd is not the first process of the node's pid namespace.
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    SystemdCgroup = false
`;
}

/** A network configuration list, as CNI has it. */
export function bridgeConfig(pods: Dual) {
  return {
    cniVersion: '1.0.0',
    name: 'pods',
    plugins: [
      {
        type: 'bridge',
        bridge: 'cni0',
        isGateway: true,
        hairpinMode: true,
        ipam: {
          type: 'host-local',
          dataDir: '/run/cni',
          ranges: [[{ subnet: pods.v4 }], [{ subnet: pods.v6 }]],
          routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }],
        },
      },
    ],
  };
}

export interface KubeletSettings {
  criSocket: string;
  /** Parent of its pods' cgroups. */
  cgroup: string;
  clientCa: string;
  serving: KeyPair;
  resolvConf: string;
}

export function kubeletConfig({ criSocket, cgroup, clientCa, serving, resolvConf }: KubeletSettings) {
  return {
    apiVersion: 'kubelet.config.k8s.io/v1beta1',
    kind: 'KubeletConfiguration',
    containerRuntimeEndpoint: `unix://${criSocket}`,
    authentication: { anonymous: { enabled: false }, webhook: { enabled: true }, x509: { clientCAFile: clientCa } },
    authorization: { mode: 'Webhook' },
    tlsCertFile: serving.cert,
    tlsPrivateKeyFile: serving.key,
    clusterDomain: 'cluster.local',
    clusterDNS: [DNS_ADDRESS],
    resolvConf,
    cgroupDriver: 'cgroupfs',
    cgroupRoot: `/${cgroup}`,
    // Machines with version 1, or with both, are machines too.
    failCgroupV1: false,
    failSwapOn: false,
    // Without CAP_SYS_RESOURCE it cannot lower its own.
    oomScoreAdj: 0,
    // The node's folders are memory; a full disk of the machine is nothing to evict pods for.
    localStorageCapacityIsolation: false,
    evictionHard: { 'memory.available': '0%', 'nodefs.available': '0%', 'imagefs.available': '0%' },
    imageGCHighThresholdPercent: 100,
    imageGCLowThresholdPercent: 99,
    maxPods: 200,
  };
}

export function kubeProxyConfig(kubeconfig: string, node: string) {
  return {
    apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
    kind: 'KubeProxyConfiguration',
    mode: 'nftables',
    // Its 1 s is for clusters of thousands of services.
    nftables: { minSyncPeriod: '50ms' },
    clientConnection: { kubeconfig },
    hostnameOverride: node,
    clusterCIDR: `${PODS.v4},${PODS.v6}`,
    // Limits of the whole machine, which a netns may not change.
    conntrack: { maxPerCore: 0, tcpEstablishedTimeout: '0s', tcpCloseWaitTimeout: '0s' },
  };
}
