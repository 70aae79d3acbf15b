/** Which address families a netns gets rules for. */
import { Failure } from '../errors.ts';
import type { Identity } from '../native/addon.ts';
import type { Family } from '../ruleset/model.ts';

/**
 * `named` are installed as they are. `auto`: the families of `addresses`, which the API has of the pod, and those of the
 * addresses in the netns. Without any address it is every family that the kernel has there: an address may come later,
 * and rules that meet no packets do no harm. Throws Failure if IPv6 is named and off in the netns.
 */
export function familiesOf(
  { path, families, ipv6 }: Pick<Identity, 'path' | 'families' | 'ipv6'>,
  named: 'auto' | Family[],
  addresses: readonly string[] = [],
): Family[] {
  if (named !== 'auto') {
    if (!named.includes(6) || ipv6) return named;
    throw new Failure('EAFNOSUPPORT', { subject: path });
  }
  const known = new Set([...addresses.map((address) => (address.includes(':') ? 6 : 4)), ...families]);
  const possible: Family[] = ipv6 ? [4, 6] : [4];
  const wanted = possible.filter((family) => known.has(family));
  return wanted.length > 0 ? wanted : possible;
}
