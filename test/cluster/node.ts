/** A node of a cluster: containerd, a bridge for its pods, kubelet and kube-proxy, in a sandbox of its own. */
import { mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Cri } from '../../lib/runtime/cri/client.ts';
import { type ControlPlane, coreApi } from './control-plane.ts';
import { type Image, writeArchive } from './images/archive.ts';
import { type ImageName, images } from './images/images.ts';
import type { NodeNetwork } from './network.ts';
import { bridgeConfig, containerdConfig, kubeletConfig, kubeProxyConfig } from './node-config.ts';
import { type KeyPair, writeKubeconfig } from './pki.ts';
import { programs } from './programs.ts';
import { createCgroup, removeCgroup } from './sandbox/cgroup.ts';
import { openSandbox, type Sandbox } from './sandbox/sandbox.ts';
import { launcher, type Service } from './sandbox/service.ts';
import { type Progress, stopwatch } from './stopwatch.ts';

export interface NodeOptions {
  /** `node-1` for the first of a control plane, and so on. */
  name?: string;
  /** What pods of the node can run; further ones by load(). */
  images?: ImageName[];
  /** Joins ours, and wins: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1 */
  kubeletConfiguration?: Record<string, unknown>;
  /** Hears how long each part took. */
  progress?: Progress;
}

export interface ClusterNode {
  name: string;
  network: NodeNetwork;
  /** Path, for this process, of the CRI's socket; on the node it is /run/containerd/containerd.sock. */
  criSocket: string;
  /** The path for this process of a path on the node: `path('/run/netns/cni-...')`. */
  path(onNode: string): string;
  /** Runs a command on the node, in its network, mount and pid namespaces; its standard output. */
  exec: Sandbox['exec'];
  /** Makes an image anew and loads it; returns what to write as a container's `image`. */
  load(image: ImageName | Image): Promise<string>;
  /** Folders on the node: where containerd looks first for CNI plugins, empty at first, and its CNI configuration. */
  cni: { plugins: string; config: string };
  /** By name: containerd, kubelet, kube-proxy. */
  services: ReadonlyMap<string, Service>;
  /** Where containerd looks for the addresses of registries, empty at first (hosts.toml) */
  registries: string;
  sandbox: Sandbox;
  /** Ends every process at once, as a power failure does, and removes what is not on a disk: see POWER_OFF. */
  powerOff(): Promise<void>;
  /** Starts the services again, and returns when containerd answers and the kubelet has been started. */
  boot(): Promise<void>;
  /** Ends it with its pods, and returns when nothing is left of it. The control plane keeps its Node object. */
  stop(): Promise<void>;
}

/** As it is for every pod of a node with containerd. */
const CRI_SOCKET = '/run/containerd/containerd.sock';

/** runc is found by containerd's shim, and that by containerd. */
const PROGRAMS = ['containerd', 'containerd-shim-runc-v2', 'runc', 'ctr', 'kubelet', 'kube-proxy'];

/**
 * Ends every process but the node's first. Then it takes away what the kernel and memory hold in the place of a disk. The
 * veth pairs of pods end with their network namespaces, so that none but the node's own is left of a node without pods.
 * $1 is the inode of the node's pid namespace. It refuses to run in any other.
 */
const POWER_OFF = `
[ "$(stat -L -c %i /proc/self/ns/pid)" = "$1" ] || { echo 'this is not the pid namespace of the node' >&2; exit 1; }
kill -s KILL -- -1
sed -E -n 's,^([^ ]+ ){4}(/(run|var/lib)/[^ ]+) .*,\\2,p' /proc/self/mountinfo | grep -v '^/run/proc$' | sort -r |
  xargs -r umount --lazy
find /run -mindepth 1 -maxdepth 1 ! -name proc ! -name parameters -exec rm -r {} +
mkdir /run/netns /run/lock
ip link show cni0 >/dev/null 2>&1 && ip link delete cni0
nft flush ruleset
for attempt in $(seq 600); do
  [ "$(ip -oneline link show type veth | wc -l)" -gt 1 ] || exit 0
  sleep 0.1
done
echo 'network namespaces of pods are left' >&2
exit 1
`;

const nodesOf = new WeakMap<ControlPlane, number>();

export async function startNode(controlPlane: ControlPlane, options: NodeOptions = {}): Promise<ClusterNode> {
  if (!controlPlane.services.has('kube-controller-manager')) {
    throw new Error('no node without controllers: startControlPlane({ controllers: true })');
  }
  const timed = stopwatch(options.progress);
  const index = (nodesOf.get(controlPlane) ?? 0) + 1;
  nodesOf.set(controlPlane, index);
  const name = options.name ?? `node-${index}`;
  const sandbox = await timed(`sandbox of ${name}`, openSandbox());
  controlPlane.onStop(sandbox.close);
  const { ino } = statSync(`/proc/${sandbox.pid}/ns/pid`);
  try {
    createCgroup(sandbox.name);
    const network = await controlPlane.network.attach(sandbox, index);
    const files = await writeFiles(controlPlane, sandbox, name, network, options.kubeletConfiguration);
    const tools = await programs(PROGRAMS);
    const { services, start } = launcher(sandbox, tools);

    const criSocket = sandbox.path(CRI_SOCKET);
    const containerd = start('containerd', { config: files.containerd });
    const answering = containerd.ready(() => answers(criSocket));
    await timed('containerd', answering);

    let archives = 0;
    const load = async (image: ImageName | Image) => {
      const archive = join(sandbox.folder, `image-${archives++}.tar`);
      const made = typeof image === 'string' ? await images[image]() : image;
      writeArchive(archive, made);
      await sandbox.exec([tools.path('ctr'), '--namespace', 'k8s.io', 'images', 'import', archive]);
      rmSync(archive);
      return made.name;
    };
    const loaded = inTurn(['pause', ...(options.images ?? [])], load);
    const kubelet = start('kubelet', {
      config: files.kubelet,
      kubeconfig: files.kubeletKubeconfig,
      'hostname-override': name,
      'node-ip': `${network.address.v4},${network.address.v6}`,
    });
    const kubeProxy = start('kube-proxy', { config: files.kubeProxy });
    const core = coreApi(controlPlane.kubeconfig);
    const schedulable = kubelet.ready(async () => isSchedulable(await core.readNode({ name })));
    await Promise.all([timed('images', loaded), timed('kubelet, node ready', schedulable)]);

    const powerOff = async () => {
      await Promise.all([...services.values()].map((service) => service.kill()));
      await sandbox.exec(['sh', '-uc', POWER_OFF, 'sh', String(ino)]);
      removeCgroup(sandbox.name);
      createCgroup(sandbox.name);
    };
    const boot = async () => {
      containerd.start();
      await containerd.ready(() => answers(criSocket));
      kubelet.start();
      kubeProxy.start();
    };

    const { path, exec, close: stop } = sandbox;
    const { cni, registries } = files;
    return { name, network, criSocket, path, exec, load, cni, services, registries, sandbox, powerOff, boot, stop };
  } catch (error) {
    await sandbox.close();
    throw error;
  }
}

/** Certificates, kubeconfigs and configurations, in the sandbox's folder; the paths of those to be named in flags. */
async function writeFiles(
  { authority, server }: ControlPlane,
  { folder, name: cgroup }: Sandbox,
  node: string,
  { address, pods }: NodeNetwork,
  kubeletConfiguration: Record<string, unknown> = {},
) {
  const [serving, proxy] = await Promise.all([
    authority.issue({ name: `system:node:${node}`, groups: ['system:nodes'], hosts: [node, address.v4, address.v6] }),
    authority.issue({ name: 'system:kube-proxy', file: `system-kube-proxy-${node}` }),
  ]);
  const write = (file: string, content: string | object) => {
    const path = join(folder, file);
    writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content, null, 2));
    return path;
  };
  const kubeconfig = (user: string, pair: KeyPair) =>
    writeKubeconfig(join(folder, `${user}.kubeconfig`), server, authority.cert, pair);

  const cni = { plugins: join(folder, 'cni-plugins'), config: join(folder, 'cni') };
  const registries = join(folder, 'registries');
  for (const path of [cni.plugins, cni.config, registries]) mkdirSync(path);
  write('cni/bridge.conflist', bridgeConfig(pods));
  const resolvConf = write('resolv.conf', '');
  const settings = { criSocket: CRI_SOCKET, cgroup, clientCa: authority.cert, serving, resolvConf };
  return {
    cni,
    registries,
    containerd: write('containerd.toml', containerdConfig(CRI_SOCKET, { cni, opt: join(folder, 'opt'), registries })),
    kubelet: write('kubelet.json', { ...kubeletConfig(settings), ...kubeletConfiguration }),
    kubeletKubeconfig: kubeconfig('kubelet', serving),
    kubeProxy: write('kube-proxy.json', kubeProxyConfig(kubeconfig('kube-proxy', proxy), node)),
  };
}

async function inTurn<T>(items: T[], work: (item: T) => Promise<unknown>): Promise<void> {
  for (const item of items) await work(item);
}

/** Its socket is there before the CRI is, and a kubelet that comes too early ends. */
async function answers(socket: string): Promise<boolean> {
  const cri = new Cri(socket);
  try {
    return (await cri.version()).runtimeName === 'containerd';
  } finally {
    cri.close();
  }
}

/** Ready, and without the taint that a node has until the controllers have seen that. */
function isSchedulable(node: Awaited<ReturnType<ReturnType<typeof coreApi>['readNode']>>): boolean {
  const ready = node.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True');
  return ready === true && (node.spec?.taints ?? []).length === 0;
}
