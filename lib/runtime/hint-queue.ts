/** Hints on their way to one consumer: the newest of each sandbox, in a bounded number. */
import { dropOldest } from '../bounded.ts';

export interface SandboxHint {
  sandboxId: string;
  /** The runtime's uid of the pod, which for a static pod is not the API's. */
  podUid?: string;
  /** Path on the node of a netns that exists and is connected. */
  netnsPath?: string;
  /** With `netnsPath`: no container of the pod has been started yet. */
  justMade?: boolean;
  /** The pod's addresses in the sandbox. Absent or empty if the source does not know them. */
  ips?: readonly string[];
  /** To be called if the pod is enrolled, before `proceed`. */
  enrolled?: () => void;
  /**
   * The runtime waits for this call before it goes on with the pod, but for a limited time. To be called once nothing
   * has to be installed any more, or with the reason why the rules of an enrolled pod are not installed. Further calls
   * do nothing.
   */
  proceed?: (problem?: string) => void;
}

/** Many times the sandboxes that a node runs. */
const LIMIT = 4096;

export class HintQueue {
  readonly #hints = new Map<string, SandboxHint>();
  #wake: (() => void) | undefined;
  #dropped = 0;

  get dropped(): number {
    return this.#dropped;
  }

  /**
   * Completes an older hint of the same sandbox and pod, and replaces one of another pod. If there are too many, the
   * oldest is dropped.
   */
  push(hint: SandboxHint): void {
    const older = this.#hints.get(hint.sandboxId);
    this.#hints.set(hint.sandboxId, older?.podUid === hint.podUid ? { ...older, ...hint } : hint);
    if (dropOldest(this.#hints, LIMIT)) this.#dropped++;
    this.#wake?.();
  }

  /** Ends with the signal, even while it waits. */
  async *take(signal: AbortSignal): AsyncGenerator<SandboxHint, void> {
    const wake = () => this.#wake?.();
    signal.addEventListener('abort', wake);
    try {
      while (!signal.aborted) {
        const [first] = this.#hints.values();
        if (first === undefined) {
          await new Promise<void>((resolve) => {
            this.#wake = resolve;
          });
          continue;
        }
        this.#hints.delete(first.sandboxId);
        yield first;
      }
    } finally {
      signal.removeEventListener('abort', wake);
    }
  }
}
