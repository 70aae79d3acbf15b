/** Reads the controller's configuration file: YAML with one mapping, whose keys are flags without dashes. */
import { parseDocument } from 'yaml';
import { ConfigError } from '../errors.ts';
import { nearest } from '../options/nearest.ts';

/** The size limit of a ConfigMap (k8s.io/api/core/v1, MaxSecretSize; etcd's limit on an object is 1.5 MiB). */
const MAX_BYTES = 1_048_576;

/**
 * Returns the text of each key; the items of a list are joined by commas. Invalid keys and values are added to
 * `problems` and left out of the result.
 *
 * @param name the name of the file in messages
 * @param known the valid keys
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
      refuse(name, key, 'not an option of "ipnc run"', nearest(key, known) ?? 'one of its flags, without dashes');
    } else if (isPlain(value)) {
      entries.set(key, String(value));
    } else if (Array.isArray(value) && value.every(isPlain)) {
      entries.set(key, value.join(','));
    } else {
      refuse(field, JSON.stringify(value), 'has the wrong type', 'a string, number or boolean, or a list of them');
    }
  }
  return entries;
}

type Refuse = (field: string, value: string | undefined, wrong: string, expected: string) => void;

function parse(text: string, name: string, refuse: Refuse): object {
  if (Buffer.byteLength(text) > MAX_BYTES) {
    refuse(name, undefined, 'larger than a ConfigMap', `at most ${MAX_BYTES} bytes`);
    return {};
  }
  try {
    const document = parseDocument(text, { logLevel: 'error' });
    const [error] = document.errors;
    if (error !== undefined) throw error;
    const value = document.toJS() as unknown;
    if (value === null) return {};
    if (typeof value === 'object' && !Array.isArray(value)) return value;
    refuse(name, JSON.stringify(value), 'not a mapping of options', 'a mapping such as "enroll: both"');
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
