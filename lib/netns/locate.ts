/**
 * From a pod of this node to its netns: by the path that the runtime reported, by the CRI, by containerd's own state, by
 * the cgroups of processes. What they name is checked in the kernel: it must be a netns, not the node's own, and hold one
 * of the pod's addresses.
 */
import { Failure } from '../errors.ts';
import type { Identity } from '../native/addon.ts';
import { bundleFolders, ContainerdState } from '../runtime/containerd/state.ts';
import type { Cri } from '../runtime/cri/client.ts';
import { onNode } from '../runtime/node-paths.ts';
import { type Candidate, firstOf, type Identify, identifyPodNetns } from './identify.ts';
import { NodeNetns } from './node-netns.ts';
import { firstProcesses, isProcessOf } from './proc.ts';

/** A pod as the runtime knows it. */
export interface RuntimePod {
  /** `runtimeUid` of a PodRecord, lib/istio/pod.ts. */
  uid: string;
  namespace: string;
  name: string;
  /** Those that the API has, none at first. */
  ips: readonly string[];
}

/** What a runtime reported of the pod's newest sandbox. */
export interface NetnsHint {
  /** Path on the node. */
  path: string;
  /** Nobody has installed anything there yet; see Native.identify(). */
  fresh: boolean;
  /** Those of this sandbox. Absent or empty if the runtime did not name them; the pod's in the API are then expected. */
  ips?: readonly string[] | undefined;
}

export interface Located {
  /** As this process sees it. */
  path: string;
  source: 'hint' | 'cri' | 'containerd-state' | 'proc';
  /** Absent for a hint, and if only a process was found that is not the sandbox's own. */
  sandboxId?: string;
  netns: Identity;
}

/** Why the netns of a pod was not located. Only `host-network` is final. docs/operate.md has this table. */
export const NOT_LOCATED = {
  'no-sandbox': {
    means: 'the runtime has no sandbox for the pod yet, or no longer',
    remedy: 'read the Events of the pod with `kubectl describe pod`; the cause is usually the CNI plugin',
  },
  stopped: {
    means: 'the newest sandbox of the pod has ended',
    remedy: 'read the Events of the pod with `kubectl describe pod`; the cause is usually the CNI plugin',
  },
  'host-network': { means: 'the pod has no netns of its own', remedy: '' },
  'not-reached': {
    means: 'there is a sandbox, but its netns cannot be reached',
    remedy: 'mount `/run/netns` with `mountPropagation: HostToContainer`',
  },
  'other-addresses': {
    means: "the netns has none of the pod's addresses, so the controller does not enter it",
    remedy: 'report this bug: the runtime names the netns of another pod',
  },
  ambiguous: {
    means: 'the processes of the pod are in several netns, so the controller enters none',
    remedy: "mount the runtime's socket; this happens only without it",
  },
  unavailable: {
    means: 'no source could be queried',
    remedy: "mount the runtime's socket (`containerRuntime`, `criSocket`); see `ipnc doctor`",
  },
};

export type Reason = keyof typeof NOT_LOCATED;

export interface NotLocated {
  path: undefined;
  reason: Reason;
  /** One line for each source that was asked. */
  detail: string;
}

export interface LocatorOptions {
  /** Absent if no CRI can be reached. */
  cri?: Pick<Cri, 'sandboxes' | 'sandbox'>;
  /** Path on the node; containerd keeps its state near it. */
  criSocket?: string;
  /** Where the node's files are, as this process sees them; see onNode(). */
  hostRoot?: string;
  /** A /proc with the node's processes; the one under `hostRoot` if absent. */
  proc?: string;
  identify?: Identify;
}

export class Locator {
  readonly #cri: LocatorOptions['cri'];
  readonly #state: ContainerdState;
  readonly #hostRoot: string;
  readonly #proc: string;
  readonly #identify: Identify;
  readonly #node: NodeNetns | undefined;

  constructor({ cri, criSocket, hostRoot = '', proc, identify = identifyPodNetns }: LocatorOptions) {
    this.#cri = cri;
    this.#state = new ContainerdState(bundleFolders(criSocket).map((folder) => onNode(hostRoot, folder)));
    this.#hostRoot = hostRoot;
    this.#proc = proc ?? onNode(hostRoot, '/proc');
    this.#identify = identify;
    this.#node =
      cri && new NodeNetns(cri, (path) => identify(onNode(hostRoot, path), { proc: this.#proc }), this.#proc);
  }

  /** Tries the hint first, and then searches. Never rejects. */
  async locate(pod: RuntimePod, hint?: NetnsHint): Promise<Located | NotLocated> {
    /** Sandboxes that the runtime calls stopped: no other source may offer them. */
    const ended = new Set<string>();
    const failures: NotLocated[] = [];
    const ask = async (source: Located['source'], search: Promise<Located | NotLocated>) => {
      const answer = await search.catch((error: unknown) => none('unavailable', String(error)));
      if (answer.path === undefined)
        failures.push({ ...answer, detail: `${source}: ${answer.reason}: ${answer.detail}` });
      return answer;
    };

    if (hint !== undefined) {
      const hinted = await this.#byHint(pod, hint);
      if (hinted.path !== undefined) return hinted;
    }
    const listed = await ask('cri', this.#byCri(pod, ended));
    if (listed.path !== undefined || listed.reason === 'host-network') return listed;
    const kept = await ask('containerd-state', this.#byState(pod, ended));
    if (kept.path !== undefined || kept.reason === 'host-network') return kept;
    // This reads all of /proc: not for a pod that the runtime says it does not have.
    if ([listed, kept].some(({ reason }) => reason === 'not-reached') || failures.every(isUnavailable)) {
      const seen = await ask('proc', this.#byProcesses(pod, ended));
      if (seen.path !== undefined) return seen;
    }
    const says = failures.find((failure) => failure.reason !== 'no-sandbox' && !isUnavailable(failure));
    const reason = says?.reason ?? (failures.every(isUnavailable) ? 'unavailable' : 'no-sandbox');
    return none(reason, failures.map(({ detail }) => detail).join('\n'));
  }

  /** A hint that is outdated is not an answer: another source knows better. */
  async #byHint(pod: RuntimePod, { path, fresh, ips = [] }: NetnsHint): Promise<Located | NotLocated> {
    const addresses = ips.length > 0 ? ips : pod.ips;
    return located(await this.#firstOf([onNode(this.#hostRoot, path)], addresses, fresh), 'hint', undefined);
  }

  async #byCri(pod: RuntimePod, ended: Set<string>): Promise<Located | NotLocated> {
    if (this.#cri === undefined) return none('unavailable', 'no socket');
    const listed = (await this.#cri.sandboxes({ uid: pod.uid })).filter((sandbox) => isOf(sandbox, pod));
    for (const { id, state } of listed) if (state === 'stopped') ended.add(id);
    const newest = newestOf(listed);
    const sandbox = newest && (await this.#cri.sandbox(newest.id));
    if (sandbox === undefined) return none('no-sandbox', 'it has no sandbox of this pod');
    const { id, ips, pid, netnsPath } = sandbox;
    if (sandbox.hostNetwork) return none('host-network', id);
    if (sandbox.state === 'stopped' || sandbox.netnsClosed || pid === 0) {
      ended.add(id);
      return none('stopped', id);
    }
    // After a sandbox was replaced the API has the old one's addresses for a while, but the runtime has the new ones.
    const candidate = await this.#candidate(pod, netnsPath, pid, ips.length > 0 ? ips : pod.ips);
    return located(candidate, 'cri', id);
  }

  async #byState(pod: RuntimePod, ended: Set<string>): Promise<Located | NotLocated> {
    const sandboxes = await this.#state.sandboxes();
    if (sandboxes === undefined) return none('unavailable', 'its folder does not exist');
    const newest = newestOf(sandboxes.filter((sandbox) => isOf(sandbox, pod) && !ended.has(sandbox.id)));
    if (newest === undefined) return none('no-sandbox', 'it has no sandbox of this pod');
    const { id, hostNetwork, netnsPath } = newest;
    if (hostNetwork) return none('host-network', id);
    const pid = await this.#state.pidOf(id);
    if (pid !== undefined && !isProcessOf(this.#proc, pid, pod.uid)) {
      // It has ended, or this process does not see the node's pid namespace. It does if it sees any other sandbox's process.
      for (const { id, uid } of sandboxes) {
        const other = await this.#state.pidOf(id);
        if (other !== undefined && isProcessOf(this.#proc, other, uid)) return none('stopped', newest.id);
      }
    }
    return located(await this.#candidate(pod, netnsPath, pid, pod.ips), 'containerd-state', id);
  }

  async #byProcesses(pod: RuntimePod, ended: Set<string>): Promise<Located | NotLocated> {
    const processes = await firstProcesses(this.#proc, pod.uid);
    const live = processes.filter(({ containerId }) => !ended.has(containerId ?? ''));
    const pauses = live.filter(({ pause }) => pause);
    const found = new Map<bigint, Located>();
    // Seeing no process proves nothing: this may be another pid namespace than the node's.
    let failure = none('unavailable', 'there is no process of this pod');
    for (const { pid, pause, containerId } of pauses.length > 0 ? pauses : live) {
      const candidate = await this.#candidate(pod, undefined, pid, pod.ips);
      const answer = located(candidate, 'proc', pause ? containerId : undefined);
      if (answer.path === undefined) failure = answer;
      // Its pid may have become another's meanwhile.
      else if (isProcessOf(this.#proc, pid, pod.uid)) found.set(answer.netns.cookie, answer);
    }
    const [only, ...others] = found.values();
    if (only === undefined) return failure;
    if (others.length === 0) return only;
    return none('ambiguous', [only, ...others].map(({ path }) => path).join(', '));
  }

  /** By the file that the runtime keeps, or by a process of the sandbox: a pid of the node may be another's here. */
  #candidate(
    { uid }: RuntimePod,
    file: string | undefined,
    pid: number | undefined,
    ips: readonly string[],
  ): Promise<Candidate> {
    const ofFile = file === undefined ? undefined : onNode(this.#hostRoot, file);
    const ofProcess =
      pid !== undefined && isProcessOf(this.#proc, pid, uid) ? `${this.#proc}/${pid}/ns/net` : undefined;
    return this.#firstOf([ofFile, ofProcess], ips);
  }

  #firstOf(paths: readonly (string | undefined)[], ips: readonly string[], fresh = false): Promise<Candidate> {
    return firstOf(paths, ips, async (path) => {
      const netns = await this.#identify(path, { proc: this.#proc, fresh });
      if (await this.#node?.is(netns)) throw new Failure('ERR_HOST_NETNS', { subject: path });
      return netns;
    });
  }
}

function located(candidate: Candidate, source: Located['source'], sandboxId: string | undefined): Located | NotLocated {
  if (candidate.path === undefined) return candidate;
  return { ...candidate, source, ...(sandboxId !== undefined && { sandboxId }) };
}

function none(reason: Reason, detail: string): NotLocated {
  return { path: undefined, reason, detail };
}

function isUnavailable({ reason }: NotLocated): boolean {
  return reason === 'unavailable';
}

function isOf(sandbox: { uid: string; namespace: string; name: string }, pod: RuntimePod): boolean {
  return sandbox.uid === pod.uid && sandbox.namespace === pod.namespace && sandbox.name === pod.name;
}

function newestOf<S extends { attempt?: number; createdAt: bigint }>(sandboxes: S[]): S | undefined {
  const later = (a: S, b: S) =>
    (a.attempt ?? 0) > (b.attempt ?? 0) || ((a.attempt ?? 0) === (b.attempt ?? 0) && a.createdAt > b.createdAt);
  return sandboxes.reduce<S | undefined>((newest, next) => (newest && !later(next, newest) ? newest : next), undefined);
}
