/** Reads the arguments of an injected init container with the option table: they are istio-iptables' command line. */
import { ConfigError } from '../errors.ts';
import { foreignFlags, LOG_FLAG } from './foreign.ts';
import { optionList } from './options.ts';
import type { Source } from './sources.ts';

interface Known {
  name: string;
  takesValue: boolean;
}

const known = new Map<string, Known>();
for (const [, { flag, short, placeholder }] of optionList) add(flag, short, placeholder !== undefined);
for (const { flag, short, value } of foreignFlags) add(flag, short, value);

function add(flag: string, short: string | undefined, takesValue: boolean): void {
  known.set(`--${flag}`, { name: flag, takesValue });
  if (short !== undefined) known.set(`-${short}`, { name: flag, takesValue });
}

/**
 * Reads `words` as pflag would: `--flag value`, `--flag=value`, `-f value`, `-fvalue`, `-f=value`; a boolean takes a
 * value only with `=`. A flag that neither the option table nor the list of Istio's flags has is a ConfigError: it may
 * say what to capture, and to ignore it would let traffic bypass the mesh. `place` names the container.
 */
export function argumentsSource(words: readonly string[], place: string): Source {
  const values = new Map<string, { text: string; word: string }>();
  for (let at = 0; at < words.length; at++) {
    const word = words[at] ?? '';
    const { key, attached } = split(word);
    const next = words[at + 1];
    const flag = known.get(key) ?? logFlag(key, next);
    if (flag === undefined) {
      throw new ConfigError(
        `${place} args`,
        word,
        'an unknown flag',
        'a flag of istio-iptables that this version knows',
      );
    }
    let text = attached ?? 'true';
    if (flag.takesValue && attached === undefined) {
      at++;
      if (next === undefined)
        throw new ConfigError(`${place} args ${key}`, undefined, 'the value is missing', 'a value after the flag');
      text = next;
    }
    values.set(flag.name, { text, word: key });
  }
  const source: Source = {};
  for (const [key, { flag }] of optionList) {
    const value = values.get(flag);
    if (value !== undefined) {
      source[key] = { text: value.text, field: `${place} args ${value.word}`, source: 'pod' };
    }
  }
  return source;
}

/**
 * The cluster's defaults among the words of a gate: those of the form `--flag=value` whose flag is in the option table.
 * Others are flags of the gate itself.
 */
export function defaultsSource(words: readonly string[], place: string): Source {
  const source: Source = {};
  for (const [key, { flag }] of optionList) {
    const text = words.findLast((word) => word.startsWith(`--${flag}=`))?.slice(flag.length + 3);
    if (text !== undefined) source[key] = { text, field: `${place} args --${flag}`, source: 'default' };
  }
  return source;
}

function split(word: string): { key: string; attached?: string } {
  if (word.startsWith('--')) {
    const equals = word.indexOf('=');
    return equals < 0 ? { key: word } : { key: word.slice(0, equals), attached: word.slice(equals + 1) };
  }
  const key = word.slice(0, 2);
  const rest = word.slice(2);
  return rest === '' ? { key } : { key, attached: rest.startsWith('=') ? rest.slice(1) : rest };
}

/**
 * A logging flag that the tables do not have. It is unknown whether it takes a value, but such a value never begins
 * with a dash. So a next word with a dash is read as a flag.
 */
function logFlag(key: string, next: string | undefined): Known | undefined {
  const name = key.slice(2);
  if (!key.startsWith('--') || !LOG_FLAG.test(name)) return undefined;
  return { name, takesValue: next !== undefined && !next.startsWith('-') };
}
