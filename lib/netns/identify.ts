/** Whether a path names a netns that can be a pod's, and this pod's. */
import ipaddr from 'ipaddr.js';
import { Failure } from '../errors.ts';
import { type Identity, native } from '../native/addon.ts';
import { netnsOf } from './proc.ts';

export interface IdentifyOptions {
  /** A /proc with the node's processes, if they are seen here. */
  proc: string;
  /** Nobody has installed anything there yet; see Native.identify(). */
  fresh?: boolean;
}

export type Identify = (path: string, options: IdentifyOptions) => Promise<Identity>;

/**
 * Rejects with Failure: ERR_NOT_NETNS if `path` is not a netns; ERR_HOST_NETNS if it is the netns of this process,
 * of the machine, or of the node.
 */
export const identifyPodNetns: Identify = async (path, { proc, fresh = false }) => {
  const netns = await native().identify(path, { fresh });
  // The node may be a container: its netns is then neither the machine's nor that of this process.
  const nodes = netnsOf(proc, 1);
  if (nodes?.dev === netns.dev && nodes.ino === netns.ino) {
    throw new Failure('ERR_HOST_NETNS', { subject: path });
  }
  return netns;
};

export type Candidate =
  | { path: string; netns: Identity }
  | { path: undefined; reason: 'not-reached' | 'other-addresses'; detail: string };

/**
 * The netns at the first of `paths` that can be identified, if it holds one of `addresses`. Without addresses any netns
 * is accepted. Never rejects.
 */
export async function firstOf(
  paths: readonly (string | undefined)[],
  addresses: readonly string[],
  identify: (path: string) => Promise<Identity>,
): Promise<Candidate> {
  const failures: string[] = [];
  for (const path of paths) {
    if (path === undefined) continue;
    try {
      const netns = await identify(path);
      if (holdsOne(netns.addresses, addresses)) return { path, netns };
      const held = netns.addresses.join(', ') || 'no address';
      const detail = `${path} has ${held}, expected one of ${addresses.join(', ')}`;
      return { path: undefined, reason: 'other-addresses', detail };
    } catch (error) {
      failures.push(`${path}: ${error instanceof Failure ? error.code : String(error)}`);
    }
  }
  return { path: undefined, reason: 'not-reached', detail: failures.join('; ') || 'no source names its netns' };
}

function holdsOne(held: readonly string[], wanted: readonly string[]): boolean {
  if (wanted.length === 0) return true;
  const forms = new Set(held.map(canonical));
  return wanted.some((address) => forms.has(canonical(address)));
}

function canonical(address: string): string {
  return ipaddr.isValid(address) ? ipaddr.parse(address).toNormalizedString() : address;
}
