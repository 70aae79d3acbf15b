/** What becomes known of pods from the API, as soon as it is. */

import { NETNS } from '../../lib/istio/names.ts';
import type { ApiClient } from '../../lib/kube/client.ts';
import { elementsOf, entriesOf } from '../../lib/kube/encoding.ts';
import { Informer } from '../../lib/kube/informer.ts';
import { now } from './instants.ts';

/** Milliseconds since 1970. */
export interface Seen {
  uid: string;
  bound?: number;
  marked?: number;
  ready?: number;
}

interface Trimmed {
  uid: string;
  name: string;
  bound: boolean;
  marked: boolean;
  ready: boolean;
}

/** Lists and maps may be read once each, see elementsOf. */
interface PodObject {
  metadata: { uid: string; name: string; annotations?: unknown };
  status?: { conditions?: unknown };
}

export class Watcher implements AsyncDisposable {
  readonly #seen = new Map<string, Seen>();
  readonly #waiting = new Map<string, (seen: Seen) => void>();
  readonly #stop = new AbortController();
  readonly #ended: Promise<unknown>;

  private constructor(kube: ApiClient, namespace: string) {
    const { signal } = this.#stop;
    const informer = new Informer<Trimmed>({
      kube,
      path: `/api/v1/namespaces/${namespace}/pods`,
      trim: (object) => {
        const { metadata, status } = object as PodObject;
        const marked = new Map(entriesOf(metadata.annotations)).has(NETNS);
        const conditions = [...elementsOf(status?.conditions)] as { type: string; status: string }[];
        const is = (wanted: string) => conditions.some(({ type, status }) => type === wanted && status === 'True');
        return { uid: metadata.uid, name: metadata.name, bound: is('PodScheduled'), marked, ready: is('Ready') };
      },
      onEvent: ({ object }) => this.#look(object),
      // An event that cannot be read would otherwise be noticed only as a pod that is never ready.
      log: { debug: () => {}, warn: () => {}, error: (...said: unknown[]) => console.error(...said) },
    });
    this.synced = informer.synced;
    this.#ended = informer.start(signal);
  }

  readonly synced: Promise<unknown>;

  static async start(kube: ApiClient, namespace: string): Promise<Watcher> {
    const watcher = new Watcher(kube, namespace);
    await watcher.synced;
    return watcher;
  }

  /** Resolves when the pod is ready. */
  ready(name: string, limitMs: number): Promise<Seen> {
    const { promise, resolve, reject } = Promise.withResolvers<Seen>();
    const timer = setTimeout(() => reject(new Error(`pod ${name} is not ready after ${limitMs / 1000} s`)), limitMs);
    this.#waiting.set(name, resolve);
    return promise.finally(() => {
      clearTimeout(timer);
      this.#waiting.delete(name);
    });
  }

  #look({ uid, name, bound, marked, ready }: Trimmed): void {
    const seen = this.#seen.get(name) ?? { uid };
    this.#seen.set(name, seen);
    if (bound) seen.bound ??= now();
    if (marked) seen.marked ??= now();
    if (!ready) return;
    seen.ready ??= now();
    this.#waiting.get(name)?.(seen);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#ended;
  }
}
