/**
 * Containers that containerd is about to make, by the folders that it makes for them: told some 50 ms before its own
 * event, which comes when runc is done.
 */
import { existsSync } from 'node:fs';
import { watch } from 'node:fs/promises';
import { join } from 'node:path';

/** Rejects with Node's error where there is no such folder, or it cannot be watched; ends with the signal. */
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
