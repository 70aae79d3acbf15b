/** Where container runtimes listen by default. */
import { existsSync } from 'node:fs';
import { onNode } from '../node-paths.ts';

/** containerd; that of k3s and RKE2, k0s, MicroK8s; CRI-O; cri-dockerd. */
export const CRI_SOCKETS: readonly string[] = [
  '/run/containerd/containerd.sock',
  '/run/k3s/containerd/containerd.sock',
  '/run/k0s/containerd.sock',
  '/var/snap/microk8s/common/run/containerd.sock',
  '/run/crio/crio.sock',
  '/run/cri-dockerd.sock',
];

/** Those that exist, as paths on the node. */
export function criSockets(hostRoot = ''): string[] {
  return CRI_SOCKETS.filter((path) => existsSync(onNode(hostRoot, path)));
}
