/**
 * What is used of two gRPC interfaces, as protobufjs' JSON: nothing is read from disk, so a bundle needs no files.
 *
 * CRI v1: https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto
 * containerd: https://github.com/containerd/containerd/tree/main/api (services/events/v1, types/event, events/task)
 */
import type { MethodDefinition } from '@grpc/grpc-js';
import { fromJSON, type PackageDefinition } from '@grpc/proto-loader';

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

export interface ListPodSandboxRequest {
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
  containerEventType: string;
  podSandboxStatus: PodSandboxStatus | null;
}

export interface Envelope {
  topic: string;
  event: { value: Buffer } | null;
}

export interface TaskCreate {
  containerId: string;
  /** Folder on the node. */
  bundle: string;
}

export const POD_SANDBOX_METADATA = {
  fields: {
    name: { id: 1, type: 'string' },
    uid: { id: 2, type: 'string' },
    namespace: { id: 3, type: 'string' },
    attempt: { id: 4, type: 'uint32' },
  },
};
/** What PodSandbox and PodSandboxStatus have in common. */
const SANDBOX = {
  id: { id: 1, type: 'string' },
  metadata: { id: 2, type: 'PodSandboxMetadata' },
  state: { id: 3, type: 'PodSandboxState' },
  createdAt: { id: 4, type: 'int64' },
};

const CRI = {
  RuntimeService: {
    methods: {
      Version: { requestType: 'Empty', responseType: 'VersionResponse' },
      ListPodSandbox: { requestType: 'ListPodSandboxRequest', responseType: 'ListPodSandboxResponse' },
      PodSandboxStatus: { requestType: 'PodSandboxStatusRequest', responseType: 'PodSandboxStatusResponse' },
      GetContainerEvents: { requestType: 'Empty', responseType: 'ContainerEvent', responseStream: true },
    },
  },
  Empty: { fields: {} },
  VersionResponse: { fields: { runtimeName: { id: 2, type: 'string' }, runtimeVersion: { id: 3, type: 'string' } } },
  ListPodSandboxRequest: { fields: { filter: { id: 1, type: 'PodSandboxFilter' } } },
  PodSandboxFilter: {
    fields: {
      state: { id: 2, type: 'PodSandboxStateValue' },
      labelSelector: { keyType: 'string', id: 3, type: 'string' },
    },
  },
  PodSandboxStateValue: { fields: { state: { id: 1, type: 'PodSandboxState' } } },
  PodSandboxState: { values: { SANDBOX_READY: 0, SANDBOX_NOTREADY: 1 } },
  ListPodSandboxResponse: { fields: { items: { rule: 'repeated', id: 1, type: 'PodSandbox' } } },
  PodSandbox: { fields: SANDBOX },
  PodSandboxMetadata: POD_SANDBOX_METADATA,
  PodSandboxStatusRequest: { fields: { podSandboxId: { id: 1, type: 'string' }, verbose: { id: 2, type: 'bool' } } },
  PodSandboxStatusResponse: {
    fields: {
      status: { id: 1, type: 'PodSandboxStatus' },
      info: { keyType: 'string', id: 2, type: 'string' },
    },
  },
  PodSandboxStatus: {
    fields: {
      ...SANDBOX,
      network: { id: 5, type: 'PodSandboxNetworkStatus' },
      linux: { id: 6, type: 'LinuxPodSandboxStatus' },
    },
  },
  PodSandboxNetworkStatus: {
    fields: { ip: { id: 1, type: 'string' }, additionalIps: { rule: 'repeated', id: 2, type: 'PodIP' } },
  },
  PodIP: { fields: { ip: { id: 1, type: 'string' } } },
  LinuxPodSandboxStatus: { fields: { namespaces: { id: 1, type: 'Namespace' } } },
  Namespace: { fields: { options: { id: 2, type: 'NamespaceOption' } } },
  NamespaceOption: { fields: { network: { id: 1, type: 'NamespaceMode' } } },
  NamespaceMode: { values: { POD: 0, CONTAINER: 1, NODE: 2, TARGET: 3 } },
  ContainerEvent: {
    fields: {
      containerId: { id: 1, type: 'string' },
      containerEventType: { id: 2, type: 'ContainerEventType' },
      podSandboxStatus: { id: 4, type: 'PodSandboxStatus' },
    },
  },
  ContainerEventType: {
    values: {
      CONTAINER_CREATED_EVENT: 0,
      CONTAINER_STARTED_EVENT: 1,
      CONTAINER_STOPPED_EVENT: 2,
      CONTAINER_DELETED_EVENT: 3,
    },
  },
};

const CONTAINERD = {
  Events: {
    methods: { Subscribe: { requestType: 'SubscribeRequest', responseType: 'Envelope', responseStream: true } },
  },
  SubscribeRequest: { fields: { filters: { rule: 'repeated', id: 1, type: 'string' } } },
  Envelope: { fields: { topic: { id: 3, type: 'string' }, event: { id: 4, type: 'Any' } } },
  Any: { fields: { value: { id: 2, type: 'bytes' } } },
  TaskCreate: { fields: { containerId: { id: 1, type: 'string' }, bundle: { id: 2, type: 'string' } } },
};

const RUNTIME = 'runtime.v1';
const EVENTS = 'containerd.services.events.v1';

const packages = fromJSON(
  { nested: { ...packageOf(RUNTIME, CRI), ...packageOf(EVENTS, CONTAINERD) } },
  // Numbers of 64 bits as strings, fields that are absent with their defaults.
  { longs: String, enums: String, defaults: true },
);

/** A method, as grpc-js takes it, with the messages that it exchanges. */
export type Method<Request, Response> = MethodDefinition<Request, Response>;

export const version = method<Record<string, never>, VersionResponse>(RUNTIME, 'RuntimeService', 'Version');
export const listPodSandbox = method<ListPodSandboxRequest, { items: PodSandbox[] }>(
  RUNTIME,
  'RuntimeService',
  'ListPodSandbox',
);
export const podSandboxStatus = method<{ podSandboxId: string; verbose: boolean }, PodSandboxStatusResponse>(
  RUNTIME,
  'RuntimeService',
  'PodSandboxStatus',
);
export const getContainerEvents = method<Record<string, never>, ContainerEvent>(
  RUNTIME,
  'RuntimeService',
  'GetContainerEvents',
);
export const subscribe = method<{ filters: string[] }, Envelope>(EVENTS, 'Events', 'Subscribe');

/** The content of the Envelope of a `/tasks/create`. Throws where it is no such message. */
export function decodeTaskCreate(value: Buffer): TaskCreate {
  const type = definition(`${EVENTS}.TaskCreate`) as unknown as { deserialize(value: Buffer): TaskCreate };
  return type.deserialize(value);
}

function packageOf(name: string, messages: object): object {
  return name.split('.').reduceRight((nested, part) => ({ [part]: { nested } }), messages);
}

function method<Request, Response>(name: string, service: string, method: string): Method<Request, Response> {
  const methods = definition(`${name}.${service}`) as unknown as Record<string, Method<Request, Response>>;
  const found = methods[method];
  if (found === undefined) throw new Error(`${service} has no method ${method}`);
  return found;
}

function definition(name: string): PackageDefinition[string] {
  const found = packages[name];
  if (found === undefined) throw new Error(`there is no ${name}`);
  return found;
}
