/** A node of a cluster: containerd, a bridge for its pods, kubelet and kube-proxy, in a sandbox of its own. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { type ControlPlane, coreApi } from './control-plane.ts';
import { writeArchive } from './images/archive.ts';
import { type ImageName, images } from './images/images.ts';
import type { NodeNetwork } from './network.ts';
import { bridge, containerd, kubelet, kubeProxy } from './node-config.ts';
import { writeKubeconfig } from './pki.ts';
import { createCgroup } from './sandbox/cgroup.ts';
import { openSandbox, type Sandbox } from './sandbox/sandbox.ts';
import { type Service, startService } from './sandbox/service.ts';
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
  load(image: ImageName): Promise<string>;
  /** By name: containerd, kubelet, kube-proxy. */
  services: ReadonlyMap<string, Service>;
  sandbox: Sandbox;
  /** Ends it with its pods, and returns when nothing is left of it. The control plane keeps its Node object. */
  stop(): Promise<void>;
}

/** As it is for every pod of a node with containerd. */
const CRI_SOCKET = '/run/containerd/containerd.sock';

const nodesOf = new WeakMap<ControlPlane, number>();

export async function startNode(controlPlane: ControlPlane, options: NodeOptions = {}): Promise<ClusterNode> {
  const timed = stopwatch(options.progress);
  const index = (nodesOf.get(controlPlane) ?? 0) + 1;
  nodesOf.set(controlPlane, index);
  const name = options.name ?? `node-${index}`;
  const sandbox = await timed(`sandbox of ${name}`, openSandbox());
  controlPlane.onStop(() => sandbox.close());
  try {
    return await start(controlPlane, options, sandbox, name, index, timed);
  } catch (error) {
    await sandbox.close();
    throw error;
  }
}

async function start(
  controlPlane: ControlPlane,
  options: NodeOptions,
  sandbox: Sandbox,
  name: string,
  index: number,
  timed: ReturnType<typeof stopwatch>,
): Promise<ClusterNode> {
  const { programs, authority, server } = controlPlane;
  const { folder } = sandbox;
  const env = { PATH: programs.search, HOME: folder };
  const services = new Map<string, Service>();
  const startProgram = (program: string, flags: Record<string, string>) => {
    const argv = [programs.path(program), ...Object.entries(flags).map(([flag, value]) => `--${flag}=${value}`)];
    const service = startService(sandbox, program, argv, env);
    services.set(program, service);
    return service;
  };
  const write = (file: string, content: unknown) => {
    const path = join(folder, file);
    writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content, null, 2));
    return path;
  };

  createCgroup(sandbox.name);
  const network = await controlPlane.network.attach(sandbox, index);
  const [asKubelet, asProxy] = await Promise.all([
    authority.issue({
      name: `system:node:${name}`,
      groups: ['system:nodes'],
      hosts: [name, network.address.v4, network.address.v6],
    }),
    authority.issue({ name: 'system:kube-proxy', file: `system-kube-proxy-${name}` }),
  ]);
  const kubeconfig = (user: string, pair: typeof asKubelet) =>
    writeKubeconfig(join(folder, `${user}.kubeconfig`), server, authority.cert, pair);

  mkdirSync(join(folder, 'cni'));
  write('cni/bridge.conflist', bridge(network.pods));
  write('resolv.conf', '');
  const runtime = startProgram('containerd', {
    config: write('containerd.toml', containerd(CRI_SOCKET, join(folder, 'cni'), join(folder, 'opt'))),
  });
  const criSocket = sandbox.path(CRI_SOCKET);
  await timed(
    'containerd',
    runtime.ready(() => answers(criSocket)),
  );
  const load = async (image: ImageName) => {
    const archive = join(folder, `${image}.tar`);
    const made = await images[image]();
    writeArchive(archive, made);
    await sandbox.exec([programs.path('ctr'), '--namespace', 'k8s.io', 'images', 'import', archive], { env });
    rmSync(archive);
    return made.name;
  };

  const agent = startProgram('kubelet', {
    config: write('kubelet.json', {
      ...kubelet({
        criSocket: CRI_SOCKET,
        cgroup: sandbox.name,
        clientCa: authority.cert,
        serving: asKubelet,
        resolvConf: join(folder, 'resolv.conf'),
      }),
      ...options.kubeletConfiguration,
    }),
    kubeconfig: kubeconfig('kubelet', asKubelet),
    'hostname-override': name,
    'node-ip': `${network.address.v4},${network.address.v6}`,
  });
  startProgram('kube-proxy', {
    config: write('kube-proxy.json', kubeProxy(kubeconfig('kube-proxy', asProxy), name)),
  });
  const core = coreApi(controlPlane.kubeconfig);
  await Promise.all([
    timed('images', inTurn(['pause', ...(options.images ?? [])], load)),
    timed(
      'kubelet, node ready',
      agent.ready(async () => isSchedulable(await core.readNode({ name }))),
    ),
  ]);
  return {
    name,
    network,
    criSocket,
    path: sandbox.path,
    exec: sandbox.exec,
    load,
    services,
    sandbox,
    stop: sandbox.close,
  };
}

async function inTurn<T>(items: T[], work: (item: T) => Promise<unknown>): Promise<void> {
  for (const item of items) await work(item);
}

function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = connect(socket, () => {
      connection.destroy();
      resolve(true);
    });
    connection.on('error', () => resolve(false));
  });
}

/** Ready, and without the taint that a node has until the controllers have seen that. */
function isSchedulable(node: Awaited<ReturnType<ReturnType<typeof coreApi>['readNode']>>): boolean {
  const ready = node.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True');
  return ready === true && (node.spec?.taints ?? []).length === 0;
}
