/** Makes and ends sandboxes as the kubelet does, by the CRI itself. The kubelet must be down, or it ends them. */
import { randomUUID } from 'node:crypto';
import { fromJSON } from '@grpc/proto-loader';
import { Channel } from '../../lib/runtime/cri/channel.ts';
import { type Method, POD_SANDBOX_METADATA } from '../../lib/runtime/cri/messages.ts';

/** https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto */
const RUN: object = {
  RuntimeService: {
    methods: {
      RunPodSandbox: { requestType: 'RunRequest', responseType: 'Id' },
      StopPodSandbox: { requestType: 'Id', responseType: 'Empty' },
      RemovePodSandbox: { requestType: 'Id', responseType: 'Empty' },
    },
  },
  Empty: { fields: {} },
  Id: { fields: { podSandboxId: { id: 1, type: 'string' } } },
  RunRequest: { fields: { config: { id: 1, type: 'Config' } } },
  Config: {
    fields: {
      metadata: { id: 1, type: 'PodSandboxMetadata' },
      hostname: { id: 2, type: 'string' },
      labels: { keyType: 'string', id: 6, type: 'string' },
      linux: { id: 8, type: 'Linux' },
    },
  },
  PodSandboxMetadata: POD_SANDBOX_METADATA,
  Linux: { fields: { cgroupParent: { id: 1, type: 'string' } } },
};
const packages = fromJSON({ nested: { runtime: { nested: { v1: { nested: { ...RUN } } } } } });

interface Id {
  podSandboxId: string;
}

export interface DrivenPod {
  uid: string;
  namespace: string;
  name: string;
}

const LIMIT_MS = 20_000;

/** With names that the kubelet would give. `cgroup` is the folder of cgroups in which the pods' are made. */
export class CriDriver {
  readonly #channel: Channel;
  readonly #cgroup: string;

  constructor(socket: string, cgroup: string) {
    this.#channel = new Channel(socket);
    this.#cgroup = cgroup;
  }

  pod(name: string): DrivenPod {
    return { uid: randomUUID(), namespace: 'default', name };
  }

  /** The sandbox's id. */
  async run({ uid, namespace, name }: DrivenPod, attempt = 0): Promise<string> {
    const labels = {
      'io.kubernetes.pod.name': name,
      'io.kubernetes.pod.namespace': namespace,
      'io.kubernetes.pod.uid': uid,
    };
    const linux = { cgroupParent: `/${this.#cgroup}/kubepods/besteffort/pod${uid}` };
    const config = { metadata: { name, uid, namespace, attempt }, hostname: name, labels, linux };
    return (await this.#call<{ config: typeof config }, Id>('RunPodSandbox', { config })).podSandboxId;
  }

  stop(podSandboxId: string): Promise<unknown> {
    return this.#call<Id, unknown>('StopPodSandbox', { podSandboxId });
  }

  /** Stops it and removes what is left of it. */
  async end(podSandboxId: string): Promise<void> {
    await this.stop(podSandboxId);
    await this.#call<Id, unknown>('RemovePodSandbox', { podSandboxId });
  }

  close(): void {
    this.#channel.close();
  }

  #call<Request, Response>(name: string, request: Request): Promise<Response> {
    const service = packages['runtime.v1.RuntimeService'] as unknown as Record<string, Method<Request, Response>>;
    return this.#channel.call(service[name] as Method<Request, Response>, request, { limitMs: LIMIT_MS });
  }
}
