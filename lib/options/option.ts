/** The definition of an option: its sources, its parser, and its help. */
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
  /** The placeholder of the value in help; absent for a boolean. */
  placeholder?: string;
  /** The default as text, which `parse` reads like any other value; absent if it depends on other options. */
  initial?: string;
  /** The default in words, if `initial` is absent or not clear by itself. */
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
