/** Makes and ends sandboxes as the kubelet does, by the CRI itself. The kubelet must be down, or it ends them. */
import { randomUUID } from 'node:crypto';
import { codecOf, compileSchema } from '../../lib/protobuf.ts';
import { Channel } from '../../lib/runtime/channel.ts';
import { type Method, method } from '../../lib/runtime/method.ts';
import { patience } from '../support/patience.ts';

/** https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto */
const SCHEMA = compileSchema({
  Empty: {},
  Id: { podSandboxId: [1, 'string'] },
  RunRequest: { config: [1, 'Config'] },
  Config: {
    metadata: [1, 'PodSandboxMetadata'],
    hostname: [2, 'string'],
    labels: [6, 'string', 'map'],
    linux: [8, 'Linux'],
  },
  PodSandboxMetadata: { name: [1, 'string'], uid: [2, 'string'], namespace: [3, 'string'], attempt: [4, 'uint32'] },
  Linux: { cgroupParent: [1, 'string'], securityContext: [2, 'SecurityContext'] },
  SecurityContext: { namespaceOptions: [1, 'NamespaceOption'] },
  NamespaceOption: { network: [1, 'Mode'], usernsOptions: [5, 'UserNamespace'] },
  UserNamespace: { mode: [1, 'Mode'] },
  Mode: ['POD', 'CONTAINER', 'NODE'],
});

/** host: the node's network; userns: a netns that a user namespace of the pod owns. */
type Network = 'own' | 'host' | 'userns';

interface NamespaceOption {
  network: 'POD' | 'NODE';
  usernsOptions?: { mode: 'POD' };
}

interface Config {
  metadata: { name: string; uid: string; namespace: string; attempt: number };
  hostname: string;
  labels: Record<string, string>;
  linux: { cgroupParent: string; securityContext: { namespaceOptions: NamespaceOption } };
}

const SERVICE = '/runtime.v1.RuntimeService';
const id = codecOf<Id>(SCHEMA, 'Id');
const empty = codecOf<object>(SCHEMA, 'Empty');
const runPodSandbox = method(`${SERVICE}/RunPodSandbox`, codecOf<{ config: Config }>(SCHEMA, 'RunRequest'), id);
const stopPodSandbox = method(`${SERVICE}/StopPodSandbox`, id, empty);
const removePodSandbox = method(`${SERVICE}/RemovePodSandbox`, id, empty);

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
  async run({ uid, namespace, name }: DrivenPod, attempt = 0, network: Network = 'own'): Promise<string> {
    const labels = {
      'io.kubernetes.pod.name': name,
      'io.kubernetes.pod.namespace': namespace,
      'io.kubernetes.pod.uid': uid,
    };
    const namespaceOptions: NamespaceOption = {
      network: network === 'host' ? 'NODE' : 'POD',
      ...(network === 'userns' && { usernsOptions: { mode: 'POD' } }),
    };
    const linux = {
      cgroupParent: `/${this.#cgroup}/kubepods/besteffort/pod${uid}`,
      securityContext: { namespaceOptions },
    };
    // containerd refuses a name of its own on the node's network.
    const hostname = network === 'host' ? '' : name;
    const config = { metadata: { name, uid, namespace, attempt }, hostname, labels, linux };
    return (await this.#call(runPodSandbox, { config })).podSandboxId;
  }

  stop(podSandboxId: string): Promise<unknown> {
    return this.#call(stopPodSandbox, { podSandboxId });
  }

  /** Stops it and removes what is left of it. */
  async end(podSandboxId: string): Promise<void> {
    await this.stop(podSandboxId);
    await this.#call(removePodSandbox, { podSandboxId });
  }

  close(): void {
    this.#channel.close();
  }

  #call<Request, Response>(method: Method<Request, Response>, request: Request): Promise<Response> {
    return this.#channel.call(method, request, { limitMs: LIMIT_MS * patience() });
  }
}
