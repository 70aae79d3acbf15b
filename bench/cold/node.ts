/** A node that reboots while its pods stay bound to it, with this project's controller as a pod and without it. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { V1ContainerStatus, V1Pod, V1ResourceRequirements } from '@kubernetes/client-node';
import { parse } from 'yaml';
import { controllerPod, type LogLine, SYSTEM } from '../../test/cluster/controller-process.ts';
import { Mesh, NAMESPACE } from '../../test/cluster/mesh-pod.ts';
import { deletePod, runPod, until } from '../../test/cluster/pods.ts';
import { containerSaid, LOGS, now, STATE, sandboxesOf } from '../end-to-end/instants.ts';
import { GATE_IN, type Kind, podOf } from './pods.ts';

const CONTROLLER = 'controller';
/** The kubelet pauses up to 10 s, 20 s and 40 s before it starts a gate again that ended without rules. */
const LIMIT_MS = 300_000;
const LOOK_MS = 500;
/** Before the reboot, pods are created so many at a time. */
const BATCH = 10;
const VALUES = join(import.meta.dirname, '../../chart/istio-pod-network-controller/values.yaml');

/** Milliseconds since the node's start. */
export interface Back {
  /** RunPodSandbox returned. */
  sandbox: number;
  /** The rules were read back. */
  rules?: number;
  /** The gate opened. */
  open?: number;
  /** The first line of the application. */
  app: number;
}

export interface Reboot {
  pods: Back[];
  /** The controller's line `started`, milliseconds since the node's start. */
  controller?: number;
  /** How often a gate ended without rules, and was started again. */
  gateRestarts: number;
  /** Repairs of rules that no other program had changed. */
  repairs: number;
}

export class ColdNode implements AsyncDisposable {
  readonly mesh: Mesh;
  #controller: V1Pod | undefined;
  #made = 0;

  private constructor(mesh: Mesh) {
    this.mesh = mesh;
  }

  static async start(): Promise<ColdNode> {
    return new ColdNode(await Mesh.start(['toolbox', 'pod-network-gate', 'istio-pod-network-controller']));
  }

  /** As the DaemonSet's pod: it is there before the others, and the kubelet starts it again. */
  async startController(): Promise<void> {
    const body = controllerPod(this.mesh.node, CONTROLLER, { args: ['run'] });
    if (body.spec) body.spec.restartPolicy = 'Always';
    const resources = chartResources();
    for (const container of body.spec?.containers ?? []) container.resources = resources;
    this.#controller = await runPod(this.mesh.core, body, SYSTEM);
  }

  async stopController(): Promise<void> {
    await deletePod(this.mesh.core, CONTROLLER, SYSTEM);
    this.#controller = undefined;
  }

  /** Runs so many pods, reboots, waits until all of them run again, and deletes them. */
  async reboot(kind: Kind, count: number): Promise<Reboot> {
    const { core, node } = this.mesh;
    if (kind !== 'without') await this.startController();
    let before: V1Pod[] = [];
    while (before.length < count) {
      for (let left = Math.min(BATCH, count - before.length); left > 0; left--)
        await core.createNamespacedPod({ namespace: NAMESPACE, body: podOf(kind, `${kind}-${this.#made++}`) });
      before = await this.#all('ready', (pod) => statusOf(pod, 'app')?.ready === true);
    }

    await node.powerOff();
    const began = now();
    await node.boot();
    const after = await this.#all('ready after the reboot', (pod) => {
      const app = statusOf(pod, 'app');
      return app?.ready === true && app.restartCount > restartsOf(before, pod, 'app');
    });
    if (after.length !== count) throw new Error(`${after.length} of ${count} pods are there after the reboot`);

    const lines = this.#controllerLines(began);
    const sandboxes = sandboxesOf(node.services.get('containerd')?.log ?? '', node.path(STATE));
    const pods = await Promise.all(
      after.map(async (pod): Promise<Back> => {
        const { name = '', uid = '' } = pod.metadata ?? {};
        const said = (container: string, what: RegExp) =>
          containerSaid(node.path(LOGS), { namespace: NAMESPACE, name, uid }, container, what, began);
        const sandbox = sandboxes.get(name);
        if (sandbox === undefined) throw new Error(`containerd's log does not mention the sandbox of ${name}`);
        const app = (await said('app', /./)) - began;
        if (kind === 'without') return { sandbox: sandbox.returned - began, app };
        const done = lines.find(({ pod, msg }) => msg === 'initialized' && pod === `${NAMESPACE}/${name}`);
        if (done === undefined)
          throw new Error(`the controller's log does not say that it has initialized ${name} again`);
        const { mark = 0, release = 0 } = done.us ?? {};
        return {
          sandbox: sandbox.returned - began,
          rules: Date.parse(done.time) - (mark + release) / 1000 - began,
          open: (await said(GATE_IN[kind], / open after /)) - began,
          app,
        };
      }),
    );
    const started = lines.find(({ msg }) => msg === 'started');
    if (kind !== 'without' && started === undefined) throw new Error('the log of the controller has no line "started"');
    // The first start after the reboot counts as a restart, too.
    const gateRestarts = (pod: V1Pod) =>
      kind === 'without' ? 0 : restartsOf([pod], pod, GATE_IN[kind]) - restartsOf(before, pod, GATE_IN[kind]) - 1;
    const reboot: Reboot = {
      pods,
      ...(started && { controller: Date.parse(started.time) - began }),
      gateRestarts: after.reduce((sum, pod) => sum + gateRestarts(pod), 0),
      repairs: lines.filter(({ msg }) => msg === 'repaired').length,
    };
    await core.deleteCollectionNamespacedPod({ namespace: NAMESPACE, gracePeriodSeconds: 1 });
    await until(
      'gone: the pods',
      () => this.#pods(),
      ({ length }) => length === 0,
      LIMIT_MS,
    );
    if (kind !== 'without') await this.stopController();
    return reboot;
  }

  /** Waits until `is` holds for every pod. If time runs out, the error shows the pods for which it does not. */
  async #all(what: string, is: (pod: V1Pod) => boolean): Promise<V1Pod[]> {
    let pods: V1Pod[] = [];
    const others = async () => {
      pods = await this.#pods();
      for (const service of this.mesh.node.services.values())
        if (service.ended())
          throw new Error(`${service.name} ended:\n${readFileSync(service.log, 'utf8').slice(-2000)}`);
      return pods.filter((pod) => !is(pod));
    };
    await until(what, others, ({ length }) => length === 0 && pods.length > 0, LIMIT_MS);
    return pods;
  }

  /** Lists the pods after a pause, because a list costs the API server CPU that the starting pods need. */
  async #pods(): Promise<V1Pod[]> {
    await sleep(LOOK_MS);
    return (await this.mesh.core.listNamespacedPod({ namespace: NAMESPACE })).items;
  }

  #controllerLines(since: number): LogLine[] {
    const { namespace, name, uid } = this.#controller?.metadata ?? {};
    const folder = this.mesh.node.path(join(LOGS, `${namespace}_${name}_${uid}`, CONTROLLER));
    return globSync('*.log', { cwd: folder })
      .flatMap((file) => readFileSync(join(folder, file), 'utf8').split('\n'))
      .flatMap((line) => (line.includes(' F {') ? [JSON.parse(line.slice(line.indexOf('{'))) as LogLine] : []))
      .filter(({ time }) => Date.parse(time) >= since);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.mesh.stop();
  }
}

function statusOf({ status }: V1Pod, container: string): V1ContainerStatus | undefined {
  const all = [...(status?.initContainerStatuses ?? []), ...(status?.containerStatuses ?? [])];
  return all.find(({ name }) => name === container);
}

function restartsOf(pods: readonly V1Pod[], { metadata }: V1Pod, container: string): number {
  const pod = pods.find((each) => each.metadata?.uid === metadata?.uid);
  return (pod && statusOf(pod, container)?.restartCount) ?? Number.NaN;
}

/**
 * The resources that the chart gives to the controller. A container without a request gets almost no CPU on a full node. The
 * file is read when it is needed, since the image of the harness has this module, but not the chart.
 */
function chartResources(): V1ResourceRequirements {
  const { resources } = parse(readFileSync(VALUES, 'utf8')) as { resources: V1ResourceRequirements };
  return resources;
}
