/** Pods whose gate's image the node has, or has to pull from a registry. */
import { readFileSync } from 'node:fs';
import { images } from '../../test/cluster/images/images.ts';
import { type Pushed, Registry } from '../../test/cluster/images/registry.ts';
import { NAMESPACE } from '../../test/cluster/mesh-pod.ts';
import { deletePod } from '../../test/cluster/pods.ts';
import { containerSaid, LOGS, now } from '../end-to-end/instants.ts';
import { Watcher } from '../end-to-end/watcher.ts';
import type { ColdNode } from './node.ts';
import { gateInSidecar } from './pods.ts';

const LIMIT_MS = 120_000;

export interface Pulled {
  /** Milliseconds from the creation of the pod to the first line of its application. */
  app: number;
  /** Milliseconds that PullImage took. */
  pull: number;
}

export class Pulls implements AsyncDisposable {
  readonly #node: ColdNode;
  readonly #registry: Registry;
  readonly #watcher: Watcher;
  #newest: Pushed | undefined;
  #made = 0;

  private constructor(node: ColdNode, registry: Registry, watcher: Watcher) {
    this.#node = node;
    this.#registry = registry;
    this.#watcher = watcher;
  }

  static async start(node: ColdNode): Promise<Pulls> {
    const { mesh } = node;
    const registry = await Registry.start(mesh.controlPlane, mesh.node);
    return new Pulls(node, registry, await Watcher.start(mesh.admin, NAMESPACE));
  }

  /** Bytes of the gate's image as it is pulled. */
  get compressed(): number {
    return this.#newest?.compressed ?? Number.NaN;
  }

  /** One pod whose gate's image has layers that the node has never seen. */
  async pulled(): Promise<Pulled> {
    const image = await images['pod-network-gate']();
    const name = `gate:${this.#made}`;
    const unique = { path: 'number', content: Buffer.from(name) };
    const pushed = this.#registry.push(name, { ...image, layers: image.layers.map((layer) => [...layer, unique]) });
    this.#newest = pushed;
    const app = await this.#run('pulled', pushed);
    const pull = this.#pullOf(pushed);
    if (!pushed.fetched() || pull === undefined) throw new Error(`the node did not pull ${pushed.reference}`);
    return { app, pull };
  }

  /** The same with the image that was pulled last. Milliseconds as of `app`. */
  async present(): Promise<number> {
    if (this.#newest === undefined) throw new Error('no image was pulled before');
    const asked = this.#registry.requests;
    const app = await this.#run('present', this.#newest);
    if (this.#registry.requests !== asked) throw new Error(`the node pulled ${this.#newest.reference} again`);
    return app;
  }

  async #run(prefix: string, { reference }: Pushed): Promise<number> {
    const { core, node } = this.#node.mesh;
    const name = `${prefix}-${this.#made++}`;
    const ready = this.#watcher.ready(name, LIMIT_MS);
    const created = now();
    await core.createNamespacedPod({ namespace: NAMESPACE, body: gateInSidecar(name, reference) });
    const { uid } = await ready;
    const app = await containerSaid(node.path(LOGS), { namespace: NAMESPACE, name, uid }, 'app', /./);
    await deletePod(core, name, NAMESPACE);
    return app - created;
  }

  /** As containerd's log has it, in which quotes are escaped. */
  #pullOf({ reference }: Pushed): number | undefined {
    const log = readFileSync(this.#node.mesh.node.services.get('containerd')?.log ?? '', 'utf8');
    const line = log.split('\n').find((line) => line.includes(`Pulled image \\"${reference}\\"`));
    const [, minutes = 0, value, unit] = / in (?:(\d+)m(?=\d))?([\d.]+)(m?s)"/.exec(line ?? '') ?? [];
    return value === undefined ? undefined : 60_000 * Number(minutes) + Number(value) * (unit === 's' ? 1000 : 1);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watcher[Symbol.asyncDispose]();
    await this.#registry[Symbol.asyncDispose]();
  }
}
