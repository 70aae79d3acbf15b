/** A pod's sandbox, as a runtime describes it. https://github.com/kubernetes/cri-api */
import { mappingOf, networkOf } from '../oci.ts';
import type { PodSandbox, PodSandboxStatus, PodSandboxStatusResponse } from './messages.ts';

/** What a list says of each sandbox. */
export interface ListedSandbox {
  id: string;
  /** The runtime's uid of the pod: `runtimeUid` of a PodRecord, lib/istio/pod.ts. */
  uid: string;
  namespace: string;
  name: string;
  /** The number of sandboxes that the pod has had before. */
  attempt: number;
  state: 'ready' | 'stopped';
  /** Nanoseconds since 1970. */
  createdAt: bigint;
}

export interface Sandbox extends ListedSandbox {
  ips: string[];
  /** Path on the node. Absent if the runtime does not name it (cri-dockerd). Still named after the sandbox has ended. */
  netnsPath: string | undefined;
  /** In the node's pid namespace; 0 after its end. Absent without a process (CRI-O), or if the runtime does not name it. */
  pid: number | undefined;
  /** The runtime has removed the netns. */
  netnsClosed: boolean;
  hostNetwork: boolean;
}

export function listedSandbox({ id, metadata, state, createdAt }: PodSandbox | PodSandboxStatus): ListedSandbox {
  const { uid = '', namespace = '', name = '', attempt = 0 } = metadata ?? {};
  const ready = state === 'SANDBOX_READY';
  return { id, uid, namespace, name, attempt, state: ready ? 'ready' : 'stopped', createdAt: BigInt(createdAt) };
}

/** Undefined where the answer has no status. */
export function sandboxOf({ status, info }: PodSandboxStatusResponse): Sandbox | undefined {
  if (status === null) return undefined;
  const { pid, netNamespaceClosed, runtimeSpec } = parse(info.info);
  const { ip = '', additionalIps = [] } = status.network ?? {};
  const network = runtimeSpec ? networkOf(runtimeSpec) : undefined;
  return {
    ...listedSandbox(status),
    ips: [ip, ...additionalIps.map(({ ip }) => ip)].filter((ip) => ip !== ''),
    netnsPath: network?.path,
    pid: Number.isInteger(pid) ? Number(pid) : undefined,
    netnsClosed: netNamespaceClosed === true,
    hostNetwork: status.linux?.namespaces?.options?.network === 'NODE' || network?.host === true,
  };
}

/** What containerd (1.6 to 2.x) and CRI-O answer as `info.info` to a verbose request. */
function parse(json: string | undefined): { pid?: unknown; netNamespaceClosed?: unknown; runtimeSpec?: unknown } {
  try {
    return mappingOf(JSON.parse(json ?? '{}'));
  } catch {
    return {};
  }
}
