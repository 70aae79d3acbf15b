/**
 * The netns of a node that is itself a container, and whose /proc is not seen here. CRI-O keeps a file of it in
 * /run/netns for each pod on the node's network, beside the files of the other pods.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Identity } from '../native/addon.ts';
import type { Cri } from '../runtime/cri/client.ts';
import { netnsOf } from './proc.ts';

/** A runtime that hangs delays a pod no longer than this: the netns of an ordinary node is known without it. */
const LIMIT_MS = 1000;

export class NodeNetns {
  readonly #cri: Pick<Cri, 'sandboxes' | 'sandbox'>;
  /** Identifies a path on the node. */
  readonly #identify: (path: string) => Promise<Identity>;
  /** Sandboxes with a netns of their own. */
  #others = new Set<string>();
  /** Its cookie; null if the runtime does not name the node's netns. */
  #cookie: bigint | null | undefined;
  #search: Promise<void> | undefined;
  /** Whether `proc` shows the node's first process. If it does, identifyPodNetns() refuses the node's netns by itself. */
  readonly #seen: boolean;

  constructor(cri: Pick<Cri, 'sandboxes' | 'sandbox'>, identify: (path: string) => Promise<Identity>, proc: string) {
    this.#cri = cri;
    this.#identify = identify;
    const [first, own] = [netnsOf(proc, 1), netnsOf('/proc', 'self')];
    // In the pid namespace of a pod, process 1 belongs to the pod and has the same netns as this process.
    this.#seen = first !== undefined && own !== undefined && (first.dev !== own.dev || first.ino !== own.ino);
  }

  /**
   * Whether this is the node's netns. Without the node's /proc it asks the runtime for one sandbox after another, each only
   * once, until one names the node's netns. Never rejects.
   */
  async is({ cookie }: Pick<Identity, 'cookie'>): Promise<boolean> {
    if (this.#cookie === undefined && !this.#seen) {
      this.#search ??= this.#find()
        // The runtime does not answer: it is asked again at the next pod.
        .catch(() => {})
        .finally(() => {
          this.#search = undefined;
        });
      await Promise.race([this.#search, sleep(LIMIT_MS, undefined, { ref: false })]);
    }
    return this.#cookie === cookie;
  }

  async #find(): Promise<void> {
    const listed = await this.#cri.sandboxes('ready');
    // The pods on the node's network are mostly its first.
    const oldestFirst = listed.toSorted((a, b) => (a.createdAt < b.createdAt ? -1 : 1));
    const others = new Set<string>();
    for (const { id } of oldestFirst) {
      const sandbox = this.#others.has(id) ? undefined : await this.#cri.sandbox(id);
      if (sandbox?.hostNetwork) {
        this.#cookie = await this.#cookieOf(sandbox.netnsPath);
        return;
      }
      others.add(id);
    }
    this.#others = others;
  }

  /** What cannot be identified is refused in any case. */
  async #cookieOf(path: string | undefined): Promise<bigint | null> {
    if (path === undefined) return null;
    const netns = await this.#identify(path).catch(() => undefined);
    return netns?.cookie ?? null;
  }
}
