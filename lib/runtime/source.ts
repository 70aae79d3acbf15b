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
}

export interface Connection extends Runtime {
  signal: AbortSignal;
  report(hint: SandboxHint): void;
  /** Finds sandboxes for events that do not name them. */
  poller: SandboxPoller;
}

export interface EventSource {
  /** The value of --runtime-events, and the label of the metric. */
  name: string;
  /** Why `auto` does not use this source of a runtime that offers it, in half a sentence; undefined if it does. */
  caution?(version: VersionResponse): string | undefined;
  /**
   * Why this runtime does not offer the source, in half a sentence; undefined if it does. Takes at most 100 ms, rejects
   * only after the signal, and leaves nothing behind.
   */
  lack(runtime: Runtime, signal: AbortSignal): Promise<string | undefined>;
  /** Reports sandboxes until the runtime ends the connection. Rejects if the connection fails, and after the signal. */
  follow(connection: Connection): Promise<void>;
}

export interface SourceChoice {
  /** Absent if the runtime offers none. */
  source?: EventSource;
  /** Names the runtime, and says why each source before the chosen one was rejected. */
  reason: string;
}

/**
 * The first of `sources` that the runtime offers. If there is a choice, a source with a caution is not used. Rejects after
 * the signal.
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
    const lack = caution ?? (await source.lack(runtime, signal));
    if (lack === undefined) return { source, reason: reasons.join('; ') };
    reasons.push(`${source.name}: ${lack}`);
  }
  return { reason: reasons.join('; ') };
}
