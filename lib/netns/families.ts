/** Which address families of a netns get rules, and which rules. */
import { Failure } from '../errors.ts';
import type { Redirect } from '../istio/redirect.ts';
import type { Identity } from '../native/addon.ts';
import type { Family } from '../ruleset/model.ts';

/** Each family of a pod is in at most one of the lists. */
export interface Families {
  captured: Family[];
  /** Captured without exceptions, so that every connection of the family is refused. */
  blocked: Family[];
  /** Without rules although the pod has an address of this family: its traffic bypasses the mesh. */
  left: Family[];
  /** Whether the rules of IPv6 can have `::6` on lo. */
  loopback6: boolean;
  /** One sentence about the family that the proxy does not serve, and what happens to its traffic. */
  note?: string;
}

/**
 * Families that the settings name are captured. `auto` captures those of `addresses`, which the API has of the pod, and of the
 * addresses in the netns, as far as the proxy serves them. Without dual stack Istio's Envoy listens on IPv4 only, unless the
 * pod has IPv6 alone (istio/pilot/pkg/networking/core/listener_address.go). `unserved` says what becomes of the rest.
 * native/gate decides in the same way.
 *
 * Without any address every family that the kernel has there is captured: an address may come later, and rules that meet no
 * packets do no harm. Throws Failure if IPv6 is off in the netns, and is named or the only family of the pod.
 */
export function familiesOf(
  { path, addresses: held, ipv6 }: Pick<Identity, 'path' | 'addresses' | 'ipv6'>,
  { families: named, dualStack, unserved }: Pick<Redirect, 'families' | 'dualStack' | 'unserved'>,
  addresses: readonly string[] = [],
): Families {
  if (named !== 'auto' && named.includes(6) && !ipv6) throw new Failure('EAFNOSUPPORT', { subject: path });
  const all = [...addresses, ...held];
  const present = ([4, 6] as const).filter((family) => all.some((address) => familyOf(address) === family));
  if (named === 'auto' && present.length === 0) return only(ipv6 ? [4, 6] : [4], ipv6);
  // Istio takes no account of link-local addresses. EKS gives a pod of IPv6 one of IPv4.
  const both = present.includes(6) && all.some((address) => familyOf(address) === 4 && !address.startsWith('169.254.'));
  const served = (family: Family) => family === 4 || (ipv6 && (dualStack || !both));
  const captured = named !== 'auto' ? named : present.filter(served);
  const rest = present.filter((family) => !captured.includes(family));
  if (captured.length === 0) throw new Failure('EAFNOSUPPORT', { subject: path });
  const [family] = rest;
  if (family === undefined) return only(captured, ipv6);
  const why =
    named !== 'auto'
      ? `--ip-families is ${named.join()}`
      : ipv6
        ? 'the proxy listens on IPv4 only (ISTIO_DUAL_STACK is not "true")'
        : 'IPv6 is off on lo in this network namespace (sysctl net.ipv6.conf.lo.disable_ipv6)';
  // The proxy cannot be reached over an lo without IPv6.
  const done = unserved === 'capture' && !ipv6 ? 'block' : unserved;
  const note = `IPv${family} of this pod ${OUTCOMES[done]}: ${why}`;
  if (done === 'capture') return { ...only([...captured, ...rest].toSorted(), ipv6), note };
  const [blocked, left] = done === 'block' ? [rest, []] : [[], rest];
  return { captured, blocked, left, loopback6: ipv6, note };
}

const OUTCOMES = {
  leave: 'is left out of the mesh, and its traffic bypasses the proxy',
  capture: 'is redirected to the proxy, which refuses connections of a family on which it does not listen',
  block: 'is refused',
};

function only(captured: Family[], loopback6: boolean): Families {
  return { captured, blocked: [], left: [], loopback6 };
}

function familyOf(address: string): Family {
  return address.includes(':') ? 6 : 4;
}
