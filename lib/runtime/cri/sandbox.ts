/** A pod's sandbox, as a runtime tells of it. https://github.com/kubernetes/cri-api */
import type { PodSandbox, PodSandboxStatus, PodSandboxStatusResponse } from './messages.ts';

/** What a list tells. */
export interface ListedSandbox {
  id: string;
  /** The runtime's: for a static pod not the API's. See runtimeUid() in ../pods.ts. */
  uid: string;
  namespace: string;
  name: string;
  /** Counts the sandboxes that the pod has had. */
  attempt: number;
  state: 'ready' | 'stopped';
  /** Nanoseconds since 1970. */
  createdAt: bigint;
}

export interface Sandbox extends ListedSandbox {
  ips: string[];
  /** On the node. Absent where the runtime does not tell, as cri-dockerd does not. Told after its end as well. */
  netnsPath: string | undefined;
  /** In the node's pid namespace; 0 after its end. Absent where there is none (CRI-O), or the runtime does not tell. */
  pid: number | undefined;
  /** The runtime has taken the netns away. */
  netnsClosed: boolean;
  hostNetwork: boolean;
}

/** What containerd (all of 1.6 to 2.x) and CRI-O answer as `info.info` when asked to be verbose. */
interface VerboseInfo {
  pid?: number;
  netNamespaceClosed?: boolean;
  runtimeSpec?: OciSpec | null;
}

/** https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#namespaces */
export interface OciSpec {
  annotations?: Record<string, string>;
  linux?: { namespaces?: { type: string; path?: string }[] };
}

export function listedSandbox({ id, metadata, state, createdAt }: PodSandbox | PodSandboxStatus): ListedSandbox {
  const { uid = '', namespace = '', name = '', attempt = 0 } = metadata ?? {};
  const ready = state === 'SANDBOX_READY';
  return { id, uid, namespace, name, attempt, state: ready ? 'ready' : 'stopped', createdAt: BigInt(createdAt) };
}

/** Undefined where the answer has no status. */
export function sandboxOf({ status, info }: PodSandboxStatusResponse): Sandbox | undefined {
  if (status === null) return undefined;
  const { pid, netNamespaceClosed = false, runtimeSpec } = parse(info.info);
  const { ip = '', additionalIps = [] } = status.network ?? {};
  const network = runtimeSpec ? networkOf(runtimeSpec) : undefined;
  return {
    ...listedSandbox(status),
    ips: [ip, ...additionalIps.map(({ ip }) => ip)].filter((ip) => ip !== ''),
    netnsPath: network?.path,
    pid,
    netnsClosed: netNamespaceClosed,
    hostNetwork: status.linux?.namespaces?.options?.network === 'NODE' || network?.host === true,
  };
}

/** A specification without a netns of its own is one of the node's netns. */
export function networkOf({ linux }: OciSpec): { host: boolean; path: string | undefined } {
  const entry = linux?.namespaces?.find(({ type }) => type === 'network');
  return { host: linux?.namespaces !== undefined && entry === undefined, path: entry?.path || undefined };
}

function parse(json: string | undefined): VerboseInfo {
  try {
    return JSON.parse(json ?? '{}') as VerboseInfo;
  } catch {
    return {};
  }
}
