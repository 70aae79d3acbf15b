/** Runs `ipnc run` for a node of the cluster, as a process of this machine or as a pod, and reads its log. */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { V1Pod } from '@kubernetes/client-node';
import type { ApiClient } from '../../lib/kube/client.ts';
import type { PodView } from '../../lib/observe/page.ts';
import { patience } from '../support/patience.ts';
import { launch } from '../support/process.ts';
import { checkLogLine, checkPods } from '../support/schemas.ts';
import type { ControlPlane } from './control-plane.ts';
import { imageName } from './images/images.ts';
import type { ClusterNode } from './node.ts';

const MAIN = join(import.meta.dirname, '../../lib/main.ts');
const LIMIT_MS = 20_000;
/** Of this machine, or of the netns that test/run.ts makes. */
let nextPort = 19_500;

/** Where the controller's own account is, and its pod. */
export const SYSTEM = 'mesh-system';
export const ACCOUNT = { namespace: SYSTEM, name: 'agent' };

/** All that the controller needs of the API. */
const RIGHTS = [
  { apiGroups: [''], resources: ['pods', 'namespaces'], verbs: ['list', 'watch'] },
  { apiGroups: [''], resources: ['pods/status'], verbs: ['patch'] },
  { apiGroups: ['events.k8s.io'], resources: ['events'], verbs: ['create'] },
];

/** The controller's account with its rights and no others; resolves with its kubeconfig. */
export async function createAccount(controlPlane: ControlPlane, kube: ApiClient, node: ClusterNode): Promise<string> {
  const rbac = '/apis/rbac.authorization.k8s.io/v1';
  const subjects = [{ kind: 'ServiceAccount', ...ACCOUNT }];
  const roleRef = { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'agent' };
  await kube.post('/api/v1/namespaces', { metadata: { name: SYSTEM } });
  await kube.post(`/api/v1/namespaces/${SYSTEM}/serviceaccounts`, { metadata: { name: 'agent' } });
  await kube.post(`${rbac}/clusterroles`, { metadata: { name: 'agent' }, rules: RIGHTS });
  await kube.post(`${rbac}/clusterrolebindings`, { metadata: { name: 'agent' }, subjects, roleRef });
  return controlPlane.kubeconfigFor(ACCOUNT, { node: node.name });
}

export interface LogLine {
  level: string;
  msg: string;
  /** ISO 8601. */
  time: string;
  /** `namespace/name` */
  pod?: string;
  backend?: string;
  us?: Record<string, number>;
  http?: string;
  health?: string;
  [field: string]: unknown;
}

export class ControllerProcess {
  readonly lines: LogLine[] = [];
  readonly #child: ChildProcess;
  readonly #exit: Promise<number | string>;
  /** Of metrics and pods, and of health. */
  #addresses = { http: '', health: '' };

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#exit = once(child, 'exit').then(([code, signal]) => (code ?? signal) as number | string);
  }

  /** Resolves when it says that it started, which is before it knows of any pod. */
  static async start(node: ClusterNode, kubeconfig: string, ...flags: string[]): Promise<ControllerProcess> {
    const own = ['--node-name', node.name, '--kubeconfig', kubeconfig, '--host-root', node.path('/')];
    const free = () => `127.0.0.1:${nextPort++}`;
    const http = ['--metrics-address', free(), '--health-address', free()];
    // It ends with this process, even if this process is killed.
    const child = launch(
      'setpriv',
      ['--pdeathsig', 'TERM', process.execPath, MAIN, 'run', ...own, ...http, '--log-level', 'debug', ...flags],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    const controller = new ControllerProcess(child);
    const started = Promise.withResolvers<void>();
    createInterface(child.stdout).on('line', (line) => {
      const said = JSON.parse(line) as LogLine;
      checkLogLine(said);
      controller.lines.push(said);
      if (process.env.IPNC_TEST_VERBOSE) console.log(line);
      if (said.msg !== 'started') return;
      controller.#addresses = { http: said.http ?? '', health: said.health ?? '' };
      started.resolve();
    });
    void controller.#exit.then((code) => started.reject(new Error(`the controller ended: ${code}`)));
    await started.promise;
    return controller;
  }

  get ended(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  async get(path: string): Promise<{ status: number; text: string }> {
    const { http, health } = this.#addresses;
    const response = await fetch(`http://${path.endsWith('z') ? health : http}${path}`, {
      headers: { accept: 'application/json' },
      signal: AbortSignal.timeout(LIMIT_MS * patience()),
    });
    return { status: response.status, text: await response.text() };
  }

  /** By name. */
  async pods(): Promise<Map<string, PodView>> {
    const { text } = await this.get('/pods');
    const answer = JSON.parse(text) as { pods: PodView[] };
    checkPods(answer);
    const { pods } = answer;
    return new Map(pods.map((view) => [view.name, view]));
  }

  /** 0 for a metric that is not there. */
  async metric(name: string): Promise<number> {
    const { text } = await this.get('/metrics');
    const lines = text.split('\n').filter((line) => line.startsWith(`istio_pod_network_controller_${name}`));
    return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  }

  /** Lines about a pod that say this. */
  told(pod: string, msg: string): LogLine[] {
    return this.lines.filter((line) => line.pod === pod && line.msg === msg);
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Resolves with what it ended with. */
  stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | string> {
    this.#child.kill(signal);
    return this.#exit;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    assert.equal(await this.stop(), 0);
  }
}

/** The capabilities that it needs, each of them. */
export const CAPABILITIES = ['NET_ADMIN', 'NET_RAW', 'SYS_ADMIN'];

/** As a DaemonSet would have it. */
export function controllerPod(
  node: ClusterNode,
  name: string,
  {
    capabilities = CAPABILITIES,
    command = [] as string[],
    args = ['run', '--resync', '1s', '--log-level', 'debug'],
  } = {},
): V1Pod {
  const field = (name: string, fieldPath: string) => ({ name, valueFrom: { fieldRef: { fieldPath } } });
  return {
    metadata: { name, namespace: SYSTEM },
    spec: {
      nodeName: node.name,
      serviceAccountName: ACCOUNT.name,
      restartPolicy: 'Never',
      terminationGracePeriodSeconds: 5,
      containers: [
        {
          name: 'controller',
          image: imageName('istio-pod-network-controller'),
          imagePullPolicy: 'Never',
          command,
          args,
          env: [
            field('NODE_NAME', 'spec.nodeName'),
            field('POD_NAME', 'metadata.name'),
            field('POD_NAMESPACE', 'metadata.namespace'),
          ],
          readinessProbe: { httpGet: { path: '/readyz', port: 9465 }, periodSeconds: 1 },
          securityContext: {
            runAsUser: 0,
            readOnlyRootFilesystem: true,
            allowPrivilegeEscalation: false,
            capabilities: { drop: ['ALL'], add: capabilities },
          },
          volumeMounts: [
            { name: 'netns', mountPath: '/run/netns', readOnly: true, mountPropagation: 'HostToContainer' },
            { name: 'containerd', mountPath: '/run/containerd', readOnly: true, mountPropagation: 'HostToContainer' },
          ],
        },
      ],
      volumes: [
        { name: 'netns', hostPath: { path: '/run/netns', type: 'Directory' } },
        { name: 'containerd', hostPath: { path: '/run/containerd', type: 'Directory' } },
      ],
    },
  };
}
