/** etcd and kube-apiserver, and if wanted the controllers and the scheduler, in a sandbox of their own. */
import { readFileSync } from 'node:fs';
import { request } from 'node:https';
import { join } from 'node:path';
import { CoreV1Api } from '@kubernetes/client-node';
import { configOf } from '../support/kubeconfig.ts';
import { apiServerFlags, apiServerNames, controllerFlags, etcdFlags, PORT } from './control-plane-config.ts';
import { type ClusterNetwork, createNetwork } from './network.ts';
import { type Authority, createAuthority, createTokenKey, writeKubeconfig } from './pki.ts';
import { type Programs, programs } from './programs.ts';
import { openSandbox, type Sandbox } from './sandbox/sandbox.ts';
import { launcher, type Service } from './sandbox/service.ts';
import { type Progress, stopwatch } from './stopwatch.ts';

export interface ControlPlaneOptions {
  /** kube-controller-manager and kube-scheduler: a cluster whose pods are to run needs both. */
  controllers?: boolean;
  /** Further flags of kube-apiserver; they win over ours. */
  apiServerFlags?: Record<string, string>;
  /** Further variables in the environment of all programs. */
  environment?: Record<string, string>;
  /** Hears how long each part took. */
  progress?: Progress;
}

export interface ControlPlane {
  /** URL of the API. */
  server: string;
  /** Path of the administrator's kubeconfig. */
  kubeconfig: string;
  /** Path of a kubeconfig with a token of a service account, bound to a node if one is named. */
  kubeconfigFor(serviceAccount: ServiceAccount, binding?: { node: string }): Promise<string>;
  /** By name: etcd, kube-apiserver, kube-controller-manager, kube-scheduler. */
  services: ReadonlyMap<string, Service>;
  programs: Programs;
  sandbox: Sandbox;
  network: ClusterNetwork;
  authority: Authority;
  /** Runs at the begin of stop(). */
  onStop(action: () => Promise<void>): void;
  /** Ends it and its nodes, and returns when nothing is left of them. */
  stop(): Promise<void>;
}

interface ServiceAccount {
  namespace: string;
  name: string;
}

const ALONE = ['etcd', 'kube-apiserver'];
const CONTROLLERS = ['kube-controller-manager', 'kube-scheduler'];

export async function startControlPlane(options: ControlPlaneOptions = {}): Promise<ControlPlane> {
  const timed = stopwatch(options.progress);
  const tools = await timed('programs', programs(options.controllers ? [...ALONE, ...CONTROLLERS] : ALONE));
  const sandbox = await timed('sandbox of the control plane', openSandbox());
  const { services, start } = launcher(sandbox, tools, options.environment);
  try {
    const [network, authority] = await Promise.all([createNetwork(sandbox), createAuthority(sandbox.folder)]);
    const server = `https://${network.address.v4}:${PORT}`;
    const [serving, admin, kubeletClient] = await timed(
      'certificates',
      Promise.all([
        authority.issue({ name: 'kube-apiserver', hosts: apiServerNames(network) }),
        authority.issue({ name: 'admin', groups: ['system:masters'] }),
        authority.issue({ name: 'kube-apiserver-kubelet-client', groups: ['system:masters'] }),
      ]),
    );
    const tokenKey = createTokenKey(sandbox.folder);
    const kubeconfig = writeKubeconfig(join(sandbox.folder, 'admin.kubeconfig'), server, authority.cert, admin);

    start('etcd', etcdFlags());
    const apiServer = start('kube-apiserver', {
      ...apiServerFlags({ network, authority, serving, kubeletClient, tokenKey }),
      ...options.apiServerFlags,
    });
    const ca = readFileSync(authority.cert);
    const answering = apiServer.ready(() => isReady(network.address.v4, ca));
    await timed('etcd and kube-apiserver', answering);
    const core = coreApi(kubeconfig);
    if (options.controllers) {
      const { manager, scheduler } = controllerFlags(kubeconfig, authority, tokenKey);
      start('kube-scheduler', scheduler);
      const working = start('kube-controller-manager', manager).ready(() => hasDefaultAccount(core));
      await timed('kube-controller-manager and kube-scheduler', working);
    }

    const atStop: (() => Promise<void>)[] = [];
    return {
      server,
      kubeconfig,
      services,
      programs: tools,
      sandbox,
      network,
      authority,
      kubeconfigFor: async (account, binding) => {
        const token = await requestToken(core, account, binding?.node);
        const file = [account.namespace, account.name, binding?.node, 'kubeconfig'].filter(Boolean).join('.');
        return writeKubeconfig(join(sandbox.folder, file), server, authority.cert, { token });
      },
      onStop: (action) => atStop.push(action),
      stop: async () => {
        await Promise.all(atStop.splice(0).map((action) => action()));
        await sandbox.close();
      },
    };
  } catch (error) {
    await sandbox.close();
    throw error;
  }
}

export function coreApi(kubeconfig: string): CoreV1Api {
  return configOf(kubeconfig).makeApiClient(CoreV1Api);
}

function isReady(host: string, ca: Buffer): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const ask = request({ host, port: PORT, path: '/readyz', ca, agent: false, timeout: 1000 }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    ask.on('timeout', () => ask.destroy(new Error('no answer')));
    ask.on('error', reject);
    ask.end();
  });
}

/** Without it no pod is admitted to the namespace. */
async function hasDefaultAccount(core: CoreV1Api): Promise<boolean> {
  return (await core.readNamespacedServiceAccount({ namespace: 'default', name: 'default' })) !== undefined;
}

async function requestToken(core: CoreV1Api, { namespace, name }: ServiceAccount, node?: string): Promise<string> {
  const bound = node === undefined ? undefined : (await core.readNode({ name: node })).metadata?.uid;
  const { status } = await core.createNamespacedServiceAccountToken({
    namespace,
    name,
    body: {
      spec: {
        audiences: [],
        ...(node !== undefined && { boundObjectRef: { apiVersion: 'v1', kind: 'Node', name: node, uid: bound ?? '' } }),
      },
    },
  });
  if (status?.token === undefined) throw new Error(`no token for ${namespace}/${name}`);
  return status.token;
}
