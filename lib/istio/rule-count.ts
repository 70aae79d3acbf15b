/**
 * Counts the rules of a spec before one of them is made. A pod's creator chooses the lists, and the product of two
 * lists can be a million.
 */
import type { OptionKey } from './options.ts';
import type { RedirectSpec } from './redirect.ts';

/**
 * The most rules of one pod. Each rule needs about 200 bytes for each family in the kernel, and 1.5 KB in the
 * controller, as long as the pod lives. Known configurations have less than a tenth of it.
 */
export const MAX_RULES = 4096;

/**
 * Rules of `plan`, in all tables, by the option that makes them; a rule of both families counts once. Never too low.
 * The trees of long lists (lib/ruleset/trees.ts) have at most half as many rules more.
 */
export function rulesByOption(spec: RedirectSpec): [option: OptionKey, rules: number][] {
  const { mode, inbound, outbound, dns, ownerGroups } = spec;
  if (mode === 'NONE') return [];
  const tproxy = mode === 'TPROXY';
  const count = (list: '*' | readonly unknown[]) => (list === '*' ? 1 : list.length);
  const cidrs = count(outbound.cidrs);
  const servers = typeof dns === 'object' ? dns.servers.length : 1;
  const interfaces = spec.excludeInterfaces.length + spec.rerouteInterfaces.length;
  const rerouted = outbound.excludePorts.length + outbound.excludeCidrs.length + outbound.ports.length;
  return [
    ['excludeInterfaces', spec.excludeInterfaces.length * (tproxy ? 4 : 2)],
    ['rerouteInterfaces', spec.rerouteInterfaces.length * ((tproxy ? 2 : 1) + cidrs + rerouted)],
    ['inboundPorts', count(inbound.include) * (tproxy ? 2 : 1)],
    ['inboundExclude', inbound.include === '*' ? inbound.exclude.length : 0],
    ['outboundExcludePorts', outbound.excludePorts.length * 2],
    ['outboundExcludeCidrs', outbound.excludeCidrs.length],
    ['outboundPorts', outbound.ports.length],
    ['outboundCidrs', cidrs],
    ['ownerGroupsExclude', ownerGroups.exclude.length],
    // TCP and UDP in nat, requests and answers in raw, and the requests on each interface.
    ['dnsServers', (dns === 'off' ? 1 : servers) * (4 + (dns === 'off' ? 0 : interfaces))],
    // Traffic to itself in both families, traffic from others to it, other traffic, its DNS, and its marks.
    ['proxyUids', spec.proxyUids.length * 8],
    ['proxyGids', spec.proxyGids.length * 8],
  ];
}
