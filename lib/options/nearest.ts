/** Guesses what somebody meant to write. */

/** The largest edit distance of a suggestion. Beyond it a suggestion would be a guess. */
const NEAR = 3;

/**
 * The known name that is most similar to `key`; undefined if none is. Case, dashes, underscores and an annotation's prefix
 * do not matter.
 */
export function nearest(key: string, known: readonly string[]): string | undefined {
  const plain = (text: string) => withoutPrefix(text).replace(/[-_]/g, '').toLowerCase();
  const wanted = plain(key.slice(0, 128));
  const [best] = known
    .map((name) => ({ name, other: plain(name) }))
    // The distance is at least the difference of the lengths, which is cheap to compute.
    .filter(({ other }) => Math.abs(other.length - wanted.length) <= NEAR)
    .map(({ name, other }) => ({ name, other, distance: distance(wanted, other) }))
    .filter(({ other, distance }) => distance <= Math.min(NEAR, other.length / 3))
    .sort((one, other) => one.distance - other.distance);
  return best?.name;
}

/** What follows the slash of an annotation's name. */
export function withoutPrefix(name: string): string {
  return name.slice(name.indexOf('/') + 1);
}

/** The Levenshtein distance. */
function distance(one: string, other: string): number {
  let row = Array.from({ length: other.length + 1 }, (_, at) => at);
  for (const [at, letter] of [...one].entries()) {
    const next = [at + 1];
    for (let to = 0; to < other.length; to++) {
      const changed = (row[to] ?? 0) + (letter === other[to] ? 0 : 1);
      next.push(Math.min(changed, (row[to + 1] ?? 0) + 1, (next[to] ?? 0) + 1));
    }
    row = next;
  }
  return row[other.length] ?? 0;
}
