/** Whether what a runtime names is a netns, and this pod's. */
import ipaddr from 'ipaddr.js';
import type { NativeError } from '../errors.ts';
import type { Identity } from '../native/addon.ts';

export type Entrance =
  | { path: string; netns: Identity }
  | { path: undefined; reason: 'not-reached' | 'other-addresses'; detail: string };

/**
 * The first of `paths` at which a netns is, if it holds one of `addresses`; any will do where none are known. The
 * host's netns, and what is none at all, are refused by `identify`.
 */
export async function enter(
  identify: (path: string) => Promise<Identity>,
  paths: (string | undefined)[],
  addresses: readonly string[],
): Promise<Entrance> {
  const failures: string[] = [];
  for (const path of paths) {
    if (path === undefined) continue;
    try {
      const netns = await identify(path);
      if (holdsOne(netns.addresses, addresses)) return { path, netns };
      const held = netns.addresses.join(', ') || 'no address';
      const detail = `${path} holds ${held}, and not ${addresses.join(', ')}`;
      return { path: undefined, reason: 'other-addresses', detail };
    } catch (error) {
      failures.push(`${path}: ${(error as NativeError).code ?? String(error)}`);
    }
  }
  return { path: undefined, reason: 'not-reached', detail: failures.join('; ') || 'nobody tells where its netns is' };
}

function holdsOne(held: string[], wanted: readonly string[]): boolean {
  if (wanted.length === 0) return true;
  const forms = new Set(held.map(canonical));
  return wanted.some((address) => forms.has(canonical(address)));
}

function canonical(address: string): string {
  return ipaddr.isValid(address) ? ipaddr.parse(address).toNormalizedString() : address;
}
