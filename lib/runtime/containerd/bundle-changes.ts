/**
 * Containers that containerd is about to make, by the folders that it makes for them. The folder appears some 50 ms
 * before containerd's own event, which comes when runc is done.
 */
import { existsSync } from 'node:fs';
import { watch } from 'node:fs/promises';
import { join } from 'node:path';

/** Rejects with Node's error if the folder is missing or cannot be watched. Ends with the signal. */
export async function* bundleChanges(
  folder: string,
  signal: AbortSignal,
): AsyncGenerator<{ id: string; change: 'made' | 'removed' }, void> {
  try {
    for await (const { eventType, filename: id } of watch(folder, { signal })) {
      // containerd renames what it is about to remove: `.ID`.
      if (eventType !== 'rename' || id === null || id.startsWith('.')) continue;
      yield { id, change: existsSync(join(folder, id)) ? 'made' : 'removed' };
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}
