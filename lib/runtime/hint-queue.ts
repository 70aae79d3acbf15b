/** Hints on their way to one consumer: the newest of each sandbox, and no more than a node can have. */
import { dropOldest } from '../bounded.ts';

export interface SandboxHint {
  sandboxId: string;
  /** As the runtime has it. */
  podUid?: string;
  /** On the node. Where it is told, the netns is there and connected, and no container of the pod has been started. */
  netnsPath?: string;
}

/** Far more sandboxes than a node runs. */
const LIMIT = 4096;

export class HintQueue {
  readonly #hints = new Map<string, SandboxHint>();
  #wake: (() => void) | undefined;
  #dropped = 0;

  get dropped(): number {
    return this.#dropped;
  }

  /** Takes the place of an older hint of the same sandbox; of too many the oldest is dropped. */
  push(hint: SandboxHint): void {
    this.#hints.set(hint.sandboxId, { ...this.#hints.get(hint.sandboxId), ...hint });
    if (dropOldest(this.#hints, LIMIT)) this.#dropped++;
    this.#wake?.();
  }

  /** Ends with the signal, also while it waits. */
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
