/** Sandboxes that are made through the CRI, as the kubelet makes them, so that the kubelet's own time does not count. */
import assert from 'node:assert/strict';
import type { V1Pod } from '@kubernetes/client-node';
import { native } from '../../lib/native/addon.ts';
import { Locator } from '../../lib/netns/locate.ts';
import { Cri } from '../../lib/runtime/cri/client.ts';
import { CriDriver, type DrivenPod } from '../support/cri-driver.ts';
import type { ControllerProcess } from './controller-process.ts';
import { Mesh, NAMESPACE } from './mesh-pod.ts';
import { until } from './pods.ts';

export interface Started {
  /** How long RunPodSandbox took, milliseconds. */
  took: number;
  /** Whether the netns had rules of ours when RunPodSandbox returned. */
  ruled: boolean;
  sandbox: string;
  /** Path of its netns on this machine. */
  netns: string;
}

export class SandboxStarts {
  readonly mesh: Mesh;
  readonly cri: Cri;
  readonly driver: CriDriver;
  readonly #locator: Locator;
  #made = 0;

  private constructor(mesh: Mesh) {
    this.mesh = mesh;
    this.cri = new Cri(mesh.node.criSocket);
    this.driver = new CriDriver(mesh.node.criSocket, mesh.node.sandbox.name);
    this.#locator = new Locator({ cri: this.cri, hostRoot: mesh.node.path('') });
  }

  /** A cluster whose kubelet is down: it would make the sandboxes itself, and end those that it does not know. */
  static async setUp(): Promise<SandboxStarts> {
    const mesh = await Mesh.start(['toolbox']);
    await mesh.node.services.get('kubelet')?.kill();
    return new SandboxStarts(mesh);
  }

  /** The name that the next pod will have. */
  next(prefix: string): string {
    return `${prefix}-${this.#made}`;
  }

  /** Creates the pod in the API, and appends a number to its name. */
  async create(body: V1Pod): Promise<DrivenPod> {
    const { core, node } = this.mesh;
    const name = this.next(body.metadata?.name ?? '');
    this.#made++;
    const spec = { ...body.spec, containers: body.spec?.containers ?? [], nodeName: node.name };
    const metadata = { ...body.metadata, name };
    const created = await core.createNamespacedPod({ namespace: NAMESPACE, body: { ...body, metadata, spec } });
    return { uid: created.metadata?.uid ?? '', namespace: NAMESPACE, name };
  }

  /** Makes the pod's sandbox. Rejects if RunPodSandbox fails. */
  async run(pod: DrivenPod): Promise<Started> {
    const began = performance.now();
    const sandbox = await this.driver.run(pod);
    const took = performance.now() - began;
    const found = await this.#locator.locate({ ...pod, ips: [] });
    assert.ok(found.path !== undefined, String(found.path === undefined && found.detail));
    const ruled = (await native().identify(found.path)).installedBackends.length > 0;
    return { took, ruled, sandbox, netns: found.path };
  }

  /**
   * Creates the pod, waits until `controller` knows it, calls `prepare`, and makes its sandbox. Rejects if RunPodSandbox
   * fails.
   */
  async start(body: V1Pod, controller?: ControllerProcess, prepare: () => void = () => {}): Promise<Started> {
    const pod = await this.create(body);
    if (controller) await known(controller, [pod]);
    prepare();
    return this.run(pod);
  }

  async end({ sandbox }: Started): Promise<void> {
    await this.driver.end(sandbox);
  }

  /** Deletes all pods of the namespace from the API. Sandboxes stay. */
  async deletePods(): Promise<void> {
    await this.mesh.core.deleteCollectionNamespacedPod({ namespace: NAMESPACE, gracePeriodSeconds: 0 });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.driver.close();
    this.cri.close();
    await this.mesh.stop();
  }
}

/** Waits until the API server has shown the pods to the controller. */
export async function known(controller: ControllerProcess, pods: readonly DrivenPod[]): Promise<void> {
  await until(
    `known: ${pods.map(({ name }) => name)}`,
    async () => [...(await controller.pods()).keys()],
    (names) => pods.every(({ name }) => names.includes(name)),
  );
}
