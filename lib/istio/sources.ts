/** Values of options as text, each with the place it came from. Nothing is parsed here. */

import type { Origin } from '../options/values.ts';
import { type OptionKey, optionList } from './options.ts';

export interface Given extends Origin {
  text: string;
}

/** What one place gives. Of several sources the first that has an option decides it. */
export type Source = Partial<Record<OptionKey, Given>>;

/** `values` holds what stood on the command line, by long flag without dashes; true for a flag without a value. */
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
 * From environment variables. One set to the empty text is an empty list where the option is a list with a meaning
 * for it, and is as good as unset otherwise.
 *
 * The kubelet sets ENVOY_PORT=tcp://10.0.0.1:80 in each pod whose namespace has a Service named envoy, and the like
 * for other names; a value of that form was not meant for us.
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

/** Lists have an initial value of "*" or "", or name several; everything else cannot be empty. */
function takesEmpty(initial: string): boolean {
  return initial === '' || initial === '*' || initial.includes(',');
}
