import { Failure } from '../errors.ts';

/** How much of a value is shown in a message; the rest is counted. */
const SHOWN = 48;

/**
 * A configuration that cannot be honoured. Nothing has been touched when it is thrown.
 *
 * `message` is `<field>: <value>: <what would be right>`, one line, the value quoted, escaped and cut short.
 */
export class ConfigError extends Failure {
  override readonly name = 'ConfigError';
  /** The flag, environment variable, annotation or file the value came from, as its author would write it. */
  readonly field: string;
  /** As it was given, however long. Absent where the fault is a value that is missing. */
  readonly value: string | undefined;
  /** What is wrong, and what would be right. */
  readonly expected: string;

  constructor(field: string, value: string | undefined, expected: string) {
    super('ERR_CONFIG', {
      message: value === undefined ? `${field}: ${expected}` : `${field}: ${shown(value)}: ${expected}`,
    });
    this.field = field;
    this.value = value;
    this.expected = expected;
  }
}

/** `value` in quotes, safe to print on a terminal: control and format characters escaped, at most 48 characters. */
function shown(value: string): string {
  const characters = Array.from(value.slice(0, 2 * SHOWN));
  const cut = characters.length > SHOWN || value.length > 2 * SHOWN;
  const text = JSON.stringify(characters.slice(0, SHOWN).join('')).replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}]/gu,
    (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  );
  return cut ? `${text}... (${value.length} characters)` : text;
}
