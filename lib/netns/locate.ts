/**
 * From a pod of this node to its network namespace: by the CRI, by containerd's own state, by the processes' cgroups.
 * Whatever they say is checked in the kernel: a netns, not the host's, and holding one of the pod's addresses.
 */
import { stat } from 'node:fs/promises';
import { type Identity, native } from '../native/addon.ts';
import { bundleFolders, ContainerdState } from '../runtime/containerd/state.ts';
import type { Cri } from '../runtime/cri/client.ts';
import { onNode } from '../runtime/node-paths.ts';
import { type Entrance, enter } from './entrance.ts';
import { firstProcesses, isProcessOf } from './proc.ts';

export interface PodRef {
  /** As the runtime has it: see runtimeUid() in ../pods.ts. */
  uid: string;
  namespace: string;
  name: string;
  /** Those that the API knows, none at first. */
  ips: readonly string[];
}

export interface Located {
  /** As this process sees it. */
  path: string;
  source: 'cri' | 'containerd-state' | 'proc';
  /** Absent where only a process was found, and it is not the sandbox's own. */
  sandboxId?: string;
  /** What stands at `path`, for apply(). */
  netns: Identity;
}

/**
 * no-sandbox: there is none, yet or any more; stopped: the newest has ended; host-network: the pod has no netns of its
 * own; not-reached: there is a sandbox, and no way to its netns; other-addresses: the netns does not hold an address of
 * the pod; ambiguous: the pod's processes are in several; unavailable: nobody could be asked. Only host-network is
 * final.
 */
export type Reason =
  | 'no-sandbox'
  | 'stopped'
  | 'host-network'
  | 'not-reached'
  | 'other-addresses'
  | 'ambiguous'
  | 'unavailable';

export interface NotLocated {
  path: undefined;
  reason: Reason;
  /** A line for each source that was asked. */
  detail: string;
}

export interface LocatorOptions {
  /** Absent on a node without a CRI to be reached. */
  cri?: Pick<Cri, 'sandboxes' | 'sandbox'>;
  /** Path on the node; near it containerd keeps its state. */
  criSocket?: string;
  /** Where the node's files are, as this process sees them; see onNode(). */
  hostRoot?: string;
  /** A /proc with the node's processes; that under `hostRoot` if absent. */
  proc?: string;
  identify?: (path: string) => Promise<Identity>;
}

export class Locator {
  readonly #cri: LocatorOptions['cri'];
  readonly #state: ContainerdState;
  readonly #hostRoot: string;
  readonly #proc: string;
  readonly #identify: (path: string) => Promise<Identity>;

  constructor({ cri, criSocket, hostRoot = '', proc, identify }: LocatorOptions) {
    this.#cri = cri;
    this.#state = new ContainerdState(bundleFolders(criSocket).map((folder) => onNode(hostRoot, folder)));
    this.#hostRoot = hostRoot;
    this.#proc = proc ?? onNode(hostRoot, '/proc');
    this.#identify = identify ?? ((path) => native().identify(path));
  }

  /** Never rejects. */
  async locatePod(pod: PodRef): Promise<Located | NotLocated> {
    /** Sandboxes that the runtime calls stopped: they are not taken from anybody else either. */
    const ended = new Set<string>();
    const failures: NotLocated[] = [];
    const ask = async (source: Located['source'], search: Promise<Located | NotLocated>) => {
      const answer = await search.catch((error: unknown) => none('unavailable', String(error)));
      if (answer.path === undefined)
        failures.push({ ...answer, detail: `${source}: ${answer.reason}: ${answer.detail}` });
      return answer;
    };

    const told = await ask('cri', this.#byCri(pod, ended));
    if (told.path !== undefined || told.reason === 'host-network') return told;
    const kept = await ask('containerd-state', this.#byState(pod, ended));
    if (kept.path !== undefined || kept.reason === 'host-network') return kept;
    // Reads all of /proc: not for a pod that somebody who should know does not know.
    if ([told, kept].some(({ reason }) => reason === 'not-reached') || failures.every(isUnavailable)) {
      const seen = await ask('proc', this.#byProcesses(pod, ended));
      if (seen.path !== undefined) return seen;
    }
    const says = failures.find((failure) => failure.reason !== 'no-sandbox' && !isUnavailable(failure));
    const reason = says?.reason ?? (failures.every(isUnavailable) ? 'unavailable' : 'no-sandbox');
    return none(reason, failures.map(({ detail }) => detail).join('\n'));
  }

  async #byCri(pod: PodRef, ended: Set<string>): Promise<Located | NotLocated> {
    if (this.#cri === undefined) return none('unavailable', 'no socket');
    const listed = (await this.#cri.sandboxes({ uid: pod.uid })).filter((sandbox) => isOf(sandbox, pod));
    for (const { id, state } of listed) if (state === 'stopped') ended.add(id);
    const newest = newestOf(listed);
    const sandbox = newest && (await this.#cri.sandbox(newest.id));
    if (sandbox === undefined) return none('no-sandbox', 'none of this pod');
    const { id, ips, pid, netnsPath } = sandbox;
    if (sandbox.hostNetwork) return none('host-network', id);
    if (sandbox.state === 'stopped' || sandbox.netnsClosed || pid === 0) {
      ended.add(id);
      return none('stopped', id);
    }
    // After a sandbox was replaced the API has the old one's addresses for a while, the runtime has those of this one.
    const entrance = await this.#enter(pod, netnsPath, pid, ips.length > 0 ? ips : pod.ips);
    return located(entrance, 'cri', id);
  }

  async #byState(pod: PodRef, ended: Set<string>): Promise<Located | NotLocated> {
    const sandboxes = await this.#state.sandboxes();
    if (sandboxes === undefined) return none('unavailable', 'no folder of it here');
    const newest = newestOf(sandboxes.filter((sandbox) => isOf(sandbox, pod) && !ended.has(sandbox.id)));
    if (newest === undefined) return none('no-sandbox', 'none of this pod');
    const { id, hostNetwork, netnsPath } = newest;
    if (hostNetwork) return none('host-network', id);
    const pid = await this.#state.pidOf(id);
    if (pid !== undefined && !isProcessOf(this.#proc, pid, pod.uid)) {
      // Ended, or in a pid namespace that this process does not see. It sees that of the node if it sees any of these.
      for (const { id, uid } of sandboxes) {
        const other = await this.#state.pidOf(id);
        if (other !== undefined && isProcessOf(this.#proc, other, uid)) return none('stopped', newest.id);
      }
    }
    return located(await this.#enter(pod, netnsPath, pid, pod.ips), 'containerd-state', id);
  }

  async #byProcesses(pod: PodRef, ended: Set<string>): Promise<Located | NotLocated> {
    const processes = await firstProcesses(this.#proc, pod.uid);
    const live = processes.filter(({ containerId }) => !ended.has(containerId ?? ''));
    const pauses = live.filter(({ pause }) => pause);
    const found = new Map<bigint, Located>();
    // That none is seen proves nothing: this may be another pid namespace than the node's.
    let failure = none('unavailable', 'no process of this pod');
    for (const { pid, pause, containerId } of pauses.length > 0 ? pauses : live) {
      const entrance = await this.#enter(pod, undefined, pid, pod.ips);
      const answer = located(entrance, 'proc', pause ? containerId : undefined);
      if (answer.path === undefined) failure = answer;
      // Between the two its pid may have become another's.
      else if (isProcessOf(this.#proc, pid, pod.uid)) found.set(answer.netns.cookie, answer);
    }
    const [only, ...others] = found.values();
    if (only === undefined) return failure;
    if (others.length === 0) return only;
    return none('ambiguous', [only, ...others].map(({ path }) => path).join(', '));
  }

  /** By the file that the runtime keeps, or by a process of the sandbox: a pid of the node may be another's here. */
  #enter(
    { uid }: PodRef,
    file: string | undefined,
    pid: number | undefined,
    ips: readonly string[],
  ): Promise<Entrance> {
    const ofFile = file === undefined ? undefined : onNode(this.#hostRoot, file);
    const ofProcess =
      pid !== undefined && isProcessOf(this.#proc, pid, uid) ? `${this.#proc}/${pid}/ns/net` : undefined;
    return enter((path) => this.#inspect(path), [ofFile, ofProcess], ips);
  }

  /** `identify` refuses the netns of this process; the node's own is another one where the node is a container. */
  async #inspect(path: string): Promise<Identity> {
    const netns = await this.#identify(path);
    const nodes = await stat(`${this.#proc}/1/ns/net`).catch(() => undefined);
    if (nodes?.dev === netns.dev && nodes.ino === netns.ino) {
      throw Object.assign(new Error(`${path} is the node's own`), { code: 'ERR_HOST_NETNS' });
    }
    return netns;
  }
}

function located(entrance: Entrance, source: Located['source'], sandboxId: string | undefined): Located | NotLocated {
  if (entrance.path === undefined) return entrance;
  return { ...entrance, source, ...(sandboxId !== undefined && { sandboxId }) };
}

function none(reason: Reason, detail: string): NotLocated {
  return { path: undefined, reason, detail };
}

function isUnavailable({ reason }: NotLocated): boolean {
  return reason === 'unavailable';
}

function isOf(sandbox: { uid: string; namespace: string; name: string }, pod: PodRef): boolean {
  return sandbox.uid === pod.uid && sandbox.namespace === pod.namespace && sandbox.name === pod.name;
}

function newestOf<S extends { attempt?: number; createdAt: bigint }>(sandboxes: S[]): S | undefined {
  const later = (a: S, b: S) =>
    (a.attempt ?? 0) > (b.attempt ?? 0) || ((a.attempt ?? 0) === (b.attempt ?? 0) && a.createdAt > b.createdAt);
  return sandboxes.reduce<S | undefined>((newest, next) => (newest && !later(next, newest) ? newest : next), undefined);
}
