/** The CRI v1 of this node, as far as it tells of pods' sandboxes; and containerd's own events, on the same socket. */
import { Channel, type RuntimeError } from './channel.ts';
import {
  type ContainerEvent,
  decodeTaskCreate,
  getContainerEvents,
  listPodSandbox,
  podSandboxStatus,
  subscribe,
  type TaskCreate,
  type VersionResponse,
  version,
} from './messages.ts';
import { type ListedSandbox, listedSandbox, type Sandbox, sandboxOf } from './sandbox.ts';

/** A sound containerd answers within 10 ms; a busy one has been seen to take longer than a second. */
const CALL_LIMIT_MS = 5000;

/** Kubelet's, on each sandbox: https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/kubelet/pkg/types/labels.go */
const UID_LABEL = 'io.kubernetes.pod.uid';

/** `/` is none of the characters that a value may have outside quotes. */
const TASK_CREATES = 'namespace==k8s.io,topic=="/tasks/create"';

/** Every call rejects with RuntimeError; after a restart of the runtime the next ones work again. */
export class Cri {
  readonly #channel: Channel;
  readonly #limitMs: number;

  /** `socket` is a path as this process sees it; `limitMs` bounds each call. */
  constructor(socket: string, limitMs = CALL_LIMIT_MS) {
    this.#channel = new Channel(socket);
    this.#limitMs = limitMs;
  }

  version(signal?: AbortSignal): Promise<VersionResponse> {
    return this.#channel.call(version, {}, { limitMs: this.#limitMs, signal });
  }

  /** Of one pod, or all that are ready. */
  async sandboxes(of: { uid: string } | 'ready', signal?: AbortSignal): Promise<ListedSandbox[]> {
    const filter =
      of === 'ready' ? { state: { state: 'SANDBOX_READY' as const } } : { labelSelector: { [UID_LABEL]: of.uid } };
    const { items } = await this.#channel.call(listPodSandbox, { filter }, { limitMs: this.#limitMs, signal });
    return items.map(listedSandbox);
  }

  /** Undefined when there is no such sandbox (any more). */
  async sandbox(id: string): Promise<Sandbox | undefined> {
    try {
      return sandboxOf(
        await this.#channel.call(podSandboxStatus, { podSandboxId: id, verbose: true }, { limitMs: this.#limitMs }),
      );
    } catch (error) {
      if ((error as RuntimeError).code === 'NOT_FOUND') return undefined;
      throw error;
    }
  }

  /** Containerd 1.7 gives each event to one subscriber only: what is read here, the kubelet does not get. */
  containerEvents(signal: AbortSignal): AsyncGenerator<ContainerEvent, void> {
    return this.#channel.stream(getContainerEvents, {}, signal);
  }

  /** Containers and sandboxes that are about to start; of containerd alone, where each subscriber hears of all. */
  async *taskCreates(signal: AbortSignal): AsyncGenerator<TaskCreate, void> {
    for await (const { event } of this.#channel.stream(subscribe, { filters: [TASK_CREATES] }, signal)) {
      if (event !== null) yield decodeTaskCreate(event.value);
    }
  }

  close(): void {
    this.#channel.close();
  }
}
