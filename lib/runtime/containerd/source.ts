/**
 * containerd's own events, and before them the folders of its bundles. Both come before RunPodSandbox returns, and the
 * bundle names the pod and its netns.
 */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { keepNewest } from '../../bounded.ts';
import { onNode } from '../node-paths.ts';
import { opened } from '../opened.ts';
import type { EventSource, Reporter, Runtime } from '../source.ts';
import { type Bundle, readBundle } from './bundle.ts';
import { bundleChanges } from './bundle-changes.ts';
import type { TaskCreate } from './events.ts';
import { bundleFolders } from './state.ts';

/** A runtime that does not know the API says so within 10 ms. */
const OPEN_AFTER_MS = 30;

/** More containers than a node runs. */
const MOST_SEEN = 4096;

/** containerd keeps all bundles of Kubernetes in one folder. */
const MOST_WATCHED = 8;

/** A bundle's folder appears a moment before its content. It is looked at as often, once a millisecond. */
const BUNDLE_ATTEMPTS = 20;

export const containerd: EventSource = {
  name: 'containerd',

  async connect(runtime, signal) {
    const { cri, version } = runtime;
    if (version.runtimeName !== 'containerd') throw new Error(`the runtime is ${version.runtimeName}`);
    // Only here: the command line reads the list of sources, and protobufjs takes longer to load than most verbs to run.
    const { taskCreates } = await import('./events.ts');
    const tasks = await opened(taskCreates(cri.channel, signal), OPEN_AFTER_MS);
    return (reporter) => new Following({ ...runtime, ...reporter, signal }).run(tasks);
  },
};

type Connection = Runtime & Reporter & { signal: AbortSignal };

class Following {
  readonly #connection: Connection;
  /** Containers that were reported, by bundle or by event. */
  readonly #seen = new Map<string, true>();
  readonly #watched = new Set<string>();

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  async run(tasks: AsyncIterable<TaskCreate>): Promise<void> {
    const { criSocket, hostRoot } = this.#connection;
    const known = bundleFolders(criSocket).find((folder) => existsSync(onNode(hostRoot, folder)));
    if (known !== undefined) this.#watch(known);
    for await (const created of tasks) {
      // The first event shows where containerd keeps its bundles.
      this.#watch(dirname(created.bundle));
      if (this.#isNew(created.containerId)) await this.#reportTask(created);
    }
  }

  /** `folder` is a path on the node. */
  #watch(folder: string): void {
    if (this.#watched.has(folder) || this.#watched.size >= MOST_WATCHED) return;
    this.#watched.add(folder);
    void this.#reportBundles(onNode(this.#connection.hostRoot, folder));
  }

  /** Until the signal; never rejects. containerd's events report what is missed here. */
  async #reportBundles(folder: string): Promise<void> {
    try {
      for await (const { id, change } of bundleChanges(folder, this.#connection.signal)) {
        if (change === 'removed') this.#seen.delete(id);
        else if (this.#isNew(id)) void this.#reportNewBundle(folder, id);
      }
    } catch {
      // The folder is not mounted here.
    }
  }

  async #reportNewBundle(folder: string, id: string): Promise<void> {
    const { signal, poller } = this.#connection;
    for (let attempt = 0; attempt < BUNDLE_ATTEMPTS && !signal.aborted; attempt++) {
      const bundle = await readBundle(join(folder, id)).catch(() => undefined);
      if (bundle !== undefined) return this.#report(id, bundle);
      await sleep(1);
    }
    // containerd's event of it was ignored if it came meanwhile.
    this.#seen.delete(id);
    poller.expect(id);
  }

  /** The bundle or the event may come first. */
  #isNew(id: string): boolean {
    if (this.#seen.has(id)) return false;
    keepNewest(this.#seen, id, true, MOST_SEEN);
    return true;
  }

  async #reportTask({ containerId, bundle }: TaskCreate): Promise<void> {
    const { hostRoot, poller } = this.#connection;
    try {
      this.#report(containerId, await readBundle(onNode(hostRoot, bundle)));
    } catch {
      // The bundle is not mounted here, or gone already.
      poller.expect(containerId);
    }
  }

  /** Ignores a container that is not a sandbox, and a pod on the host's network, which has no netns of its own. */
  #report(id: string, { sandbox, hostNetwork, uid, netnsPath }: Bundle): void {
    if (!sandbox || hostNetwork) return;
    this.#connection.report({
      sandboxId: id,
      podUid: uid,
      ...(netnsPath !== undefined && { netnsPath, justMade: true }),
    });
  }
}
