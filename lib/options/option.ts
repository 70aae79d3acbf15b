/** What an option is: where it is given, how it is read, and how help shows it. */
import type { Parser } from './values.ts';

export interface RedirectOption<T = unknown> {
  /** Long flag without dashes. */
  flag: string;
  /** One letter. */
  short?: string;
  /** Environment variables, first found wins. */
  env?: readonly string[];
  /** Annotations of a pod, first found wins. */
  annotations?: readonly string[];
  /** What stands for the value in help; absent for a boolean. */
  placeholder?: string;
  /** As text, read by `parse` like any other; absent where the default follows from other options. */
  initial?: string;
  /** The default in words, where `initial` is absent or needs them. */
  initialText?: string;
  group: string;
  help: string;
  parse: Parser<T>;
}

/** `-p, --envoy-port <port>`; a boolean may be followed by true or false. */
export function flagsOf({ flag, short, placeholder }: RedirectOption): string {
  const value = placeholder === undefined ? '[bool]' : `<${placeholder}>`;
  return `${short === undefined ? '' : `-${short}, `}--${flag} ${value}`;
}

/** The default as help and documentation show it. */
export function defaultOf({ initial, initialText, placeholder }: RedirectOption): string | undefined {
  if (initialText !== undefined) return initialText;
  if (placeholder === undefined || initial === undefined) return undefined;
  return initial === '' ? 'none' : initial;
}
