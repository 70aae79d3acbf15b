/** Streams of events: a runtime that does not serve one ends it at once. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { RuntimeError } from './channel.ts';

/** The stream, once it has been open for that long. Rejects with the reason if it ended before. */
export async function opened<T>(stream: AsyncGenerator<T, void>, openMs: number): Promise<AsyncGenerator<T, void>> {
  const first = stream.next();
  const ended = first.then(
    ({ done }) => (done ? 'its events are off' : undefined),
    (error: Partial<RuntimeError>) => error.status ?? String(error),
  );
  const timer = new AbortController();
  const open = sleep(openMs, undefined, { signal: timer.signal }).catch(() => undefined);
  const reason = await Promise.race([ended, open]);
  timer.abort();
  if (reason !== undefined) throw new Error(reason);
  return resume(first, stream);
}

async function* resume<T>(first: Promise<IteratorResult<T, void>>, rest: AsyncGenerator<T, void>) {
  const { done, value } = await first;
  if (done) return;
  yield value;
  yield* rest;
}
