/** A source of runtime events: it reports new sandboxes before the API server can. */
import type { Cri } from './cri/client.ts';
import type { VersionResponse } from './cri/messages.ts';
import type { SandboxHint } from './hint-queue.ts';
import type { SandboxPoller } from './sandbox-poller.ts';

/** The runtime of a node, as a source finds it. */
export interface Runtime {
  cri: Cri;
  /** What `cri` answered just now. */
  version: VersionResponse;
  /** The socket of `cri` as a path on the node. Absent if it is not known. */
  criSocket: string | undefined;
  /** Where the runtime keeps netns, as a path on the node. */
  netnsFolder: string;
  /** Where the node's files are, as this process sees them; see onNode(). */
  hostRoot: string;
  /** The runtime is to refuse the sandbox of an enrolled pod whose rules are not installed. Only NRI can do that. */
  failClosed?: boolean;
  /** The source calls this with the milliseconds for which the runtime waited for an answer. Only NRI does. */
  waited?: (ms: number) => void;
}

export interface Reporter {
  report(hint: SandboxHint): void;
  /** Finds sandboxes for events that do not name them. */
  poller: SandboxPoller;
}

/** Reports sandboxes until the connection ends. Resolves if the runtime ends it, and rejects with the reason otherwise. */
export type Follow = (reporter: Reporter) => Promise<void>;

export interface EventSource {
  /** The value of --runtime-events, and the label of the metric. */
  name: string;
  /** It reports the sandboxes that were there before, so the runtime's list is not needed. */
  lists?: boolean;
  /** Why `auto` does not use this source of a runtime that offers it, in half a sentence; undefined if it does. */
  caution?(version: VersionResponse): string | undefined;
  /**
   * Connects. Rejects with the reason, in half a sentence, if the runtime does not offer this source. Nothing is reported
   * before the caller follows. The signal ends the connection.
   */
  connect(runtime: Runtime, signal: AbortSignal): Promise<Follow>;
}

export interface SourceChoice {
  /** Absent if the runtime offers none. */
  chosen?: { source: EventSource; follow: Follow };
  /** Names the runtime, and says why each source before the chosen one was rejected. */
  reason: string;
}

/**
 * Connects to the first of `sources` that the runtime offers. If there is a choice, a source with a caution is not used.
 * Rejects after the signal.
 */
export async function chooseSource(
  sources: readonly EventSource[],
  runtime: Runtime,
  signal: AbortSignal,
): Promise<SourceChoice> {
  const { runtimeName, runtimeVersion } = runtime.version;
  const reasons = [`${runtimeName} ${runtimeVersion}`];
  for (const source of sources) {
    const caution = sources.length > 1 ? source.caution?.(runtime.version) : undefined;
    if (caution !== undefined) {
      reasons.push(`${source.name}: ${caution}`);
      continue;
    }
    try {
      const follow = await source.connect(runtime, signal);
      return { chosen: { source, follow }, reason: reasons.join('; ') };
    } catch (error) {
      signal.throwIfAborted();
      reasons.push(`${source.name}: ${(error as Error).message}`);
    }
  }
  return { reason: reasons.join('; ') };
}
