/** The part of the CRI v1 that reports the sandboxes of this node's pods. */
import { Channel, RuntimeError } from '../channel.ts';
import {
  type ContainerEvent,
  getContainerEvents,
  listPodSandbox,
  podSandboxStatus,
  type VersionResponse,
  version,
} from './messages.ts';
import { type ListedSandbox, listedSandbox, type Sandbox, sandboxOf } from './sandbox.ts';

/** An idle containerd answers within 10 ms; a busy one was seen to take longer than a second. */
const CALL_LIMIT_MS = 5000;

/** The kubelet writes it on each sandbox: https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/kubelet/pkg/types/labels.go */
const UID_LABEL = 'io.kubernetes.pod.uid';

/** Every call rejects with RuntimeError; after a restart of the runtime the next ones work again. */
export class Cri {
  /** A runtime may serve APIs of its own on the same socket. */
  readonly channel: Channel;
  readonly #limitMs: number;

  /** `socket` is a path as this process sees it; `limitMs` bounds each call. */
  constructor(socket: string, limitMs = CALL_LIMIT_MS) {
    this.channel = new Channel(socket);
    this.#limitMs = limitMs;
  }

  version(signal?: AbortSignal): Promise<VersionResponse> {
    return this.channel.call(version, {}, { limitMs: this.#limitMs, signal });
  }

  /** The sandboxes of one pod, or all that are ready. */
  async sandboxes(of: { uid: string } | 'ready', signal?: AbortSignal): Promise<ListedSandbox[]> {
    const filter =
      of === 'ready' ? { state: { state: 'SANDBOX_READY' as const } } : { labelSelector: { [UID_LABEL]: of.uid } };
    const { items } = await this.channel.call(listPodSandbox, { filter }, { limitMs: this.#limitMs, signal });
    return items.map(listedSandbox);
  }

  /** Undefined if there is no such sandbox, or no longer. */
  async sandbox(id: string): Promise<Sandbox | undefined> {
    try {
      return sandboxOf(
        await this.channel.call(podSandboxStatus, { podSandboxId: id, verbose: true }, { limitMs: this.#limitMs }),
      );
    } catch (error) {
      if (error instanceof RuntimeError && error.status === 'NOT_FOUND') return undefined;
      throw error;
    }
  }

  /** containerd 1.7 gives each event to one subscriber only: the kubelet does not get what is read here. */
  containerEvents(signal: AbortSignal): AsyncGenerator<ContainerEvent, void> {
    return this.channel.stream(getContainerEvents, {}, signal);
  }

  close(): void {
    this.channel.close();
  }
}
