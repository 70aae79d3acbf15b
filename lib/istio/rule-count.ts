/**
 * How many rules a spec makes, known before one of them is made. Whoever may create pods chooses the lists, and one of them
 * times another can be a million.
 */
import type { OptionKey } from './options.ts';
import type { RedirectSpec } from './redirect.ts';

/**
 * Rules of one pod. Each takes the kernel about 200 bytes a family, and the controller 1.5 KB as long as the pod lives. No
 * configuration that is in use has a tenth of it.
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
    // For TCP and UDP in nat, and for what is asked and answered in raw.
    ['dnsServers', typeof dns === 'object' ? dns.servers.length * 4 : 4],
    // What it sends to itself, in both families, what others send to it, the rest, its DNS, its marks.
    ['proxyUids', spec.proxyUids.length * 8],
    ['proxyGids', spec.proxyGids.length * 8],
  ];
}
