/** What becomes known of pods from the API, as soon as it is. */

import type { ApiClient } from '../../lib/kube/client.ts';
import { Informer } from '../../lib/kube/informer.ts';
import { NETNS } from '../../lib/kube/status.ts';
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

interface PodObject {
  metadata: { uid: string; name: string; annotations?: Record<string, string> };
  /** Without a node the name is absent, or empty in protobuf. */
  spec: { nodeName?: string };
  status?: { conditions?: { type: string; status: string }[] };
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
        const { metadata, spec, status } = object as PodObject;
        const ready = status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') === true;
        const marked = metadata.annotations?.[NETNS] !== undefined;
        return { uid: metadata.uid, name: metadata.name, bound: Boolean(spec.nodeName), marked, ready };
      },
      onEvent: ({ object }) => this.#look(object),
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
