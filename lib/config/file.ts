/** The controller's configuration file: YAML, one mapping of flags without dashes. */
import { parseDocument } from 'yaml';
import { ConfigError } from '../errors.ts';

/** A ConfigMap holds no more (etcd's limit on an object is 1.5 MiB; k8s.io/api/core/v1, MaxSecretSize). */
const MAX_BYTES = 1_048_576;
/** Further away a suggestion is a guess. */
const NEAR = 3;

/**
 * The text of each key, a list's items joined by commas. What is wrong goes to `problems`, and is left out.
 *
 * @param name the file, in messages
 * @param known the keys there are
 */
export function readEntries(
  text: string,
  name: string,
  known: readonly string[],
  problems: ConfigError[],
): Map<string, string> {
  const entries = new Map<string, string>();
  const refuse: Refuse = (field, value, wrong, expected) => {
    problems.push(new ConfigError(field, value, wrong, expected));
  };
  const mapping = parse(text, name, refuse);
  for (const [key, value] of Object.entries(mapping)) {
    const field = `${key} in ${name}`;
    if (!known.includes(key)) {
      refuse(name, key, 'not an option of "ipnc run"', nearest(key, known) ?? 'a flag of it, without dashes');
    } else if (isPlain(value)) {
      entries.set(key, String(value));
    } else if (Array.isArray(value) && value.every(isPlain)) {
      entries.set(key, value.join(','));
    } else {
      refuse(field, JSON.stringify(value), 'of the wrong type', 'a text, number or boolean, or a list of them');
    }
  }
  return entries;
}

type Refuse = (field: string, value: string | undefined, wrong: string, expected: string) => void;

function parse(text: string, name: string, refuse: Refuse): object {
  if (Buffer.byteLength(text) > MAX_BYTES) {
    refuse(name, undefined, 'larger than a ConfigMap can be', `at most ${MAX_BYTES} bytes`);
    return {};
  }
  try {
    const document = parseDocument(text, { logLevel: 'error' });
    const [error] = document.errors;
    if (error !== undefined) throw error;
    const value = document.toJS() as unknown;
    if (value === null) return {};
    if (typeof value === 'object' && !Array.isArray(value)) return value;
    refuse(name, JSON.stringify(value), 'not a mapping of options', 'one such as "enroll: both"');
  } catch (error) {
    const [first = ''] = (error instanceof Error ? error.message : String(error)).split('\n');
    const wrong = `not YAML: ${first.replace(/[\p{Cc}\p{Cf}]/gu, '?').slice(0, 120)}`;
    refuse(name, undefined, wrong, 'a mapping of options');
  }
  return {};
}

function isPlain(value: unknown): value is string | number | boolean {
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean';
}

/** The known key least unlike `key`; `excludeNamespaces` and `EXCLUDE_NAMESPACES` are as good as the right spelling. */
function nearest(key: string, known: readonly string[]): string | undefined {
  const plain = (text: string) => text.replace(/[-_]/g, '').toLowerCase();
  const wanted = plain(key.slice(0, 64));
  const [best] = known
    .map((name) => ({ name, distance: distance(wanted, plain(name)) }))
    .filter(({ name, distance }) => distance <= Math.min(NEAR, plain(name).length / 3))
    .sort((one, other) => one.distance - other.distance);
  return best?.name;
}

/** Levenshtein's. */
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
