/** The running sandboxes, from containerd's own folder: before the CRI knows them, and while containerd is down. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Bundle, readBundle } from './bundle.ts';

export interface StateSandbox extends Bundle {
  id: string;
  /** When the bundle was written: nanoseconds since 1970. */
  createdAt: bigint;
}

/** It has a folder for each running container of Kubernetes, in every containerd since 1.2. */
const TASKS = 'io.containerd.runtime.v2.task/k8s.io';

const DEFAULT_STATE = '/run/containerd';

/** Where containerd may keep its bundles; k0s has its socket a folder higher. Paths on the node. */
export function bundleFolders(socket: string | undefined): string[] {
  const near = socket === undefined ? [] : [dirname(socket), join(dirname(socket), 'containerd')];
  return [...new Set([...near, DEFAULT_STATE])].map((folder) => join(folder, TASKS));
}

export class ContainerdState {
  readonly #folders: string[];
  /** The one of `#folders` that was found last. */
  #folder = '';
  /** A bundle does not change: each is read once. Undefined for a container that is not a sandbox. */
  #read = new Map<string, StateSandbox | undefined>();

  /** `folders` as this process sees them; the first that exists counts. */
  constructor(folders: string[]) {
    this.#folders = folders;
  }

  /** Undefined if no such folder exists, or it cannot be read. */
  async sandboxes(): Promise<StateSandbox[] | undefined> {
    const ids = await this.#list();
    if (ids === undefined) return undefined;
    const read = new Map<string, StateSandbox | undefined>();
    for (const id of ids) {
      try {
        read.set(id, this.#read.has(id) ? this.#read.get(id) : await this.#readOne(id));
      } catch {
        // The folder exists before its content does, and after it: the next call looks again.
      }
    }
    this.#read = read;
    return [...read.values()].filter((sandbox) => sandbox !== undefined);
  }

  /** The pid of a sandbox's first process, in the node's pid namespace; undefined until it is made. */
  async pidOf(id: string): Promise<number | undefined> {
    const pid = Number(await readFile(join(this.#folder, id, 'init.pid'), 'utf8').catch(() => ''));
    return pid > 0 ? pid : undefined;
  }

  async #list(): Promise<string[] | undefined> {
    for (const folder of this.#folders) {
      const ids = await readdir(folder).catch(() => undefined);
      if (ids === undefined) continue;
      this.#folder = folder;
      return ids;
    }
    return undefined;
  }

  async #readOne(id: string): Promise<StateSandbox | undefined> {
    const bundle = await readBundle(join(this.#folder, id));
    if (!bundle.sandbox) return undefined;
    const { mtimeNs } = await stat(join(this.#folder, id, 'config.json'), { bigint: true });
    return { ...bundle, id, createdAt: mtimeNs };
  }
}
