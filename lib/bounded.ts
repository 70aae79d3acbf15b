/** Bounds the size of maps: the first entry, which is the oldest, is dropped for a new one. */

/**
 * Drops the oldest entry if there are more than `most`, and returns whether it did. Callers call it after each entry.
 */
export function dropOldest<K>(kept: Map<K, unknown>, most: number): boolean {
  const [oldest] = kept.keys();
  return kept.size > most && kept.delete(oldest as K);
}

/** Adds an entry as the newest one, even if the map already has it. */
export function keepNewest<K, V>(kept: Map<K, V>, key: K, value: V, most: number): void {
  kept.delete(key);
  kept.set(key, value);
  dropOldest(kept, most);
}
