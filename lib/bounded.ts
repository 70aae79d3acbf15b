/** Maps that do not grow without end: of too many entries the first, which is the oldest, goes. */

/** Whether there were more than `most`. To be called after each entry. */
export function dropOldest<K>(kept: Map<K, unknown>, most: number): boolean {
  const [oldest] = kept.keys();
  return kept.size > most && kept.delete(oldest as K);
}

/** Puts an entry last, also one that was there. */
export function keepNewest<K, V>(kept: Map<K, V>, key: K, value: V, most: number): void {
  kept.delete(key);
  kept.set(key, value);
  dropOldest(kept, most);
}
