/**
 * The messages of the CRI v1 that are used here, with the fields that are used.
 *
 * https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto
 */
import { codecOf, compileSchema } from '../../protobuf.ts';
import { method } from '../method.ts';

export interface VersionResponse {
  /** `containerd`, `cri-o`, `docker`. */
  runtimeName: string;
  runtimeVersion: string;
}

interface Metadata {
  name: string;
  uid: string;
  namespace: string;
  attempt: number;
}

type State = 'SANDBOX_READY' | 'SANDBOX_NOTREADY';

export interface PodSandbox {
  id: string;
  metadata: Metadata | null;
  state: State;
  /** Nanoseconds since 1970. */
  createdAt: string;
}

interface ListPodSandboxRequest {
  filter: { state?: { state: State }; labelSelector?: Record<string, string> };
}

export interface PodSandboxStatus extends PodSandbox {
  network: { ip: string; additionalIps: { ip: string }[] } | null;
  linux: { namespaces: { options: { network: 'POD' | 'CONTAINER' | 'NODE' | 'TARGET' } | null } | null } | null;
}

export interface PodSandboxStatusResponse {
  status: PodSandboxStatus | null;
  /** With `verbose`, whatever the runtime likes. */
  info: Record<string, string>;
}

export interface ContainerEvent {
  containerId: string;
  containerEventType: ContainerEventType;
  podSandboxStatus: PodSandboxStatus | null;
}

const EVENT_TYPES = [
  'CONTAINER_CREATED_EVENT',
  'CONTAINER_STARTED_EVENT',
  'CONTAINER_STOPPED_EVENT',
  'CONTAINER_DELETED_EVENT',
] as const;
type ContainerEventType = (typeof EVENT_TYPES)[number];

/** What PodSandbox and PodSandboxStatus have in common. */
const SANDBOX = {
  id: [1, 'string'],
  metadata: [2, 'PodSandboxMetadata'],
  state: [3, 'PodSandboxState'],
  createdAt: [4, 'int64'],
} as const;

const SCHEMA = compileSchema({
  Empty: {},
  VersionResponse: { runtimeName: [2, 'string'], runtimeVersion: [3, 'string'] },
  ListPodSandboxRequest: { filter: [1, 'PodSandboxFilter'] },
  PodSandboxFilter: { state: [2, 'PodSandboxStateValue'], labelSelector: [3, 'string', 'map'] },
  PodSandboxStateValue: { state: [1, 'PodSandboxState'] },
  PodSandboxState: ['SANDBOX_READY', 'SANDBOX_NOTREADY'],
  ListPodSandboxResponse: { items: [1, 'PodSandbox', 'repeated'] },
  PodSandbox: SANDBOX,
  PodSandboxMetadata: { name: [1, 'string'], uid: [2, 'string'], namespace: [3, 'string'], attempt: [4, 'uint32'] },
  PodSandboxStatusRequest: { podSandboxId: [1, 'string'], verbose: [2, 'bool'] },
  PodSandboxStatusResponse: { status: [1, 'PodSandboxStatus'], info: [2, 'string', 'map'] },
  PodSandboxStatus: { ...SANDBOX, network: [5, 'PodSandboxNetworkStatus'], linux: [6, 'LinuxPodSandboxStatus'] },
  PodSandboxNetworkStatus: { ip: [1, 'string'], additionalIps: [2, 'PodIP', 'repeated'] },
  PodIP: { ip: [1, 'string'] },
  LinuxPodSandboxStatus: { namespaces: [1, 'Namespace'] },
  Namespace: { options: [2, 'NamespaceOption'] },
  NamespaceOption: { network: [1, 'NamespaceMode'] },
  NamespaceMode: ['POD', 'CONTAINER', 'NODE', 'TARGET'],
  ContainerEvent: {
    containerId: [1, 'string'],
    containerEventType: [2, 'ContainerEventType'],
    podSandboxStatus: [4, 'PodSandboxStatus'],
  },
  ContainerEventType: EVENT_TYPES,
});

const SERVICE = '/runtime.v1.RuntimeService';
const empty = codecOf<Record<string, never>>(SCHEMA, 'Empty');

export const version = method(`${SERVICE}/Version`, empty, codecOf<VersionResponse>(SCHEMA, 'VersionResponse'));
export const listPodSandbox = method(
  `${SERVICE}/ListPodSandbox`,
  codecOf<ListPodSandboxRequest>(SCHEMA, 'ListPodSandboxRequest'),
  codecOf<{ items: PodSandbox[] }>(SCHEMA, 'ListPodSandboxResponse'),
);
export const podSandboxStatus = method(
  `${SERVICE}/PodSandboxStatus`,
  codecOf<{ podSandboxId: string; verbose: boolean }>(SCHEMA, 'PodSandboxStatusRequest'),
  codecOf<PodSandboxStatusResponse>(SCHEMA, 'PodSandboxStatusResponse'),
);
export const getContainerEvents = method(
  `${SERVICE}/GetContainerEvents`,
  empty,
  codecOf<ContainerEvent>(SCHEMA, 'ContainerEvent'),
  'stream',
);
