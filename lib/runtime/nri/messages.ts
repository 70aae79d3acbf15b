/**
 * The messages of NRI and of ttrpc, its transport, with the fields that are used here.
 *
 * https://github.com/containerd/nri/blob/main/pkg/api/api.proto
 * https://github.com/containerd/ttrpc/blob/main/request.proto
 */
import { codecOf, compileSchema } from '../../protobuf.ts';

export interface Request {
  service: string;
  method: string;
  payload: Uint8Array;
}

export interface Response {
  /** Absent or code 0: the call succeeded. Codes are those of gRPC. */
  status?: { code: number; message: string } | null;
  payload?: Uint8Array;
}

export interface PodSandbox {
  id: string;
  name: string;
  uid: string;
  namespace: string;
  linux: { namespaces: { type: string; path: string }[] } | null;
  /** Not set by containerd 1.7. */
  ips: string[];
}

/** `Event.RUN_POD_SANDBOX`. */
export const RUN_POD_SANDBOX = 1;

const SCHEMA = compileSchema({
  Request: { service: [1, 'string'], method: [2, 'string'], payload: [3, 'bytes'] },
  Response: { status: [1, 'Status'], payload: [2, 'bytes'] },
  Status: { code: [1, 'int32'], message: [2, 'string'] },

  Empty: {},
  RegisterPluginRequest: { pluginName: [1, 'string'], pluginIdx: [2, 'string'] },
  ConfigureRequest: { requestTimeout: [5, 'int64'] },
  ConfigureResponse: { events: [2, 'int32'] },
  SynchronizeRequest: { pods: [1, 'PodSandbox', 'repeated'], more: [3, 'bool'] },
  SynchronizeResponse: { more: [2, 'bool'] },
  StateChangeEvent: { event: [1, 'int32'], pod: [2, 'PodSandbox'] },
  RunPodSandboxRequest: { pod: [1, 'PodSandbox'] },
  PodSandbox: {
    id: [1, 'string'],
    name: [2, 'string'],
    uid: [3, 'string'],
    namespace: [4, 'string'],
    linux: [8, 'LinuxPodSandbox'],
    ips: [10, 'string', 'repeated'],
  },
  LinuxPodSandbox: { namespaces: [5, 'LinuxNamespace', 'repeated'] },
  LinuxNamespace: { type: [1, 'string'], path: [2, 'string'] },
});

export const request = codecOf<Request>(SCHEMA, 'Request');
export const response = codecOf<Response>(SCHEMA, 'Response');
export const empty = codecOf<object>(SCHEMA, 'Empty');
export const registerPluginRequest = codecOf<{ pluginName: string; pluginIdx: string }>(
  SCHEMA,
  'RegisterPluginRequest',
);
/** Milliseconds. */
export const configureRequest = codecOf<{ requestTimeout: string }>(SCHEMA, 'ConfigureRequest');
export const configureResponse = codecOf<{ events: number }>(SCHEMA, 'ConfigureResponse');
export const synchronizeRequest = codecOf<{ pods: PodSandbox[]; more: boolean }>(SCHEMA, 'SynchronizeRequest');
export const synchronizeResponse = codecOf<{ more: boolean }>(SCHEMA, 'SynchronizeResponse');
export const stateChangeEvent = codecOf<{ event: number; pod: PodSandbox | null }>(SCHEMA, 'StateChangeEvent');
export const runPodSandboxRequest = codecOf<{ pod: PodSandbox | null }>(SCHEMA, 'RunPodSandboxRequest');
