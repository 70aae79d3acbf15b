/** Whether a runtime serves a stream of events at all: if it does not, it ends the stream at once. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { RuntimeError } from './channel.ts';

/** Why the stream ended within `limitMs`; undefined if it was still open then. Rejects after the signal. */
export async function earlyEnd(
  open: (signal: AbortSignal) => AsyncIterable<unknown>,
  limitMs: number,
  signal: AbortSignal,
): Promise<string | undefined> {
  const end = new AbortController();
  const ended = drain(open(AbortSignal.any([signal, end.signal]))).then(
    () => 'its events are off',
    (error: Partial<RuntimeError>) => error.status ?? String(error),
  );
  const reason = await Promise.race([ended, sleep(limitMs, undefined, { signal: end.signal })]);
  end.abort();
  await ended;
  signal.throwIfAborted();
  return reason;
}

async function drain(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of stream);
}
