/** Collects the values of options as text, each with the place that it came from. Nothing is parsed here. */

import type { Origin } from '../options/values.ts';
import { type OptionKey, optionList } from './options.ts';

export interface Given extends Origin {
  text: string;
}

/** The options of one place. If several sources have an option, the first one decides it. */
export type Source = Partial<Record<OptionKey, Given>>;

/** `values` has the flags of the command line. The key is the long flag without dashes; true means no value. */
export function flagSource(values: ReadonlyMap<string, string | true>): Source {
  const source: Source = {};
  for (const [key, { flag, short }] of optionList) {
    const value = values.get(flag);
    if (value === undefined) continue;
    const field = `${short === undefined ? '' : `-${short}, `}--${flag}`;
    source[key] = { text: value === true ? 'true' : value, field, source: 'flag' };
  }
  return source;
}

/**
 * Reads environment variables. An empty variable means an empty list if the option accepts one, and otherwise counts as
 * unset.
 *
 * The kubelet sets ENVOY_PORT=tcp://10.0.0.1:80 in each pod whose namespace has a Service named envoy, and similar
 * variables for other Services. Values of that form are ignored.
 */
export function environmentSource(
  environment: Readonly<Record<string, string | undefined>>,
  place = 'environment',
  source: Origin['source'] = 'environment',
): Source {
  const found: Source = {};
  for (const [key, { env = [], initial = '' }] of optionList) {
    for (const name of env) {
      const text = environment[name];
      if (text === undefined || /^(tcp|udp|sctp):\/\//.test(text)) continue;
      if (text === '' && !takesEmpty(initial)) continue;
      found[key] = { text, field: `${name} (${place})`, source };
      break;
    }
  }
  return found;
}

/** Whether the option is a list: its initial value is "*", "" or has a comma. Other options cannot be empty. */
function takesEmpty(initial: string): boolean {
  return initial === '' || initial === '*' || initial.includes(',');
}
