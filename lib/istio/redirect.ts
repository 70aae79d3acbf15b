/**
 * RedirectSpec: what is to be redirected in one pod, typed, complete and valid. Made from flags, environment and a
 * Pod; `plan.ts` turns it into rules.
 *
 * Of the sources the first that names an option decides it, and only what decides is parsed:
 * on the command line flags, then the environment; with a Pod flags, then the Pod (see `pod-sources.ts`), and
 * the caller's environment not at all; for the controller the Pod, then the cluster's defaults; at last the defaults of
 * `redirect/options.ts`, which are what Istio injects today.
 */

import { ConfigError } from '../errors.ts';
import { addresses, cidrText, isLoopback } from '../options/addresses.ts';
import { nameServers } from '../options/resolv-conf.ts';
import type { Cidr, Family, PortRange } from '../ruleset/model.ts';
import { PROXY } from './containers.ts';
import { type OptionKey, type OptionValues, optionList, options } from './options.ts';
import type { Pod } from './pod.ts';
import { declaredPorts, podSources } from './pod-sources.ts';
import { MAX_RULES, rulesByOption } from './rule-count.ts';
import type { Given, Source } from './sources.ts';

export interface RedirectSpec {
  mode: 'REDIRECT' | 'TPROXY' | 'NONE';
  /** Where outbound traffic goes, where inbound traffic goes, and the proxy's own tunnel. */
  proxyPort: number;
  inboundPort: number;
  tunnelPort: number;
  /** At least one of each. */
  proxyUids: number[];
  proxyGids: number[];
  /** `exclude` counts only where `include` is `*`, and always has the agent's own ports. */
  inbound: { include: '*' | PortRange[]; exclude: PortRange[] };
  /** `ports` are captured whatever the destination. */
  outbound: { cidrs: '*' | Cidr[]; excludeCidrs: Cidr[]; ports: PortRange[]; excludePorts: PortRange[] };
  /** `exclude` counts only where `include` is `*`. */
  ownerGroups: { include: '*' | number[]; exclude: number[] };
  excludeInterfaces: string[];
  /** Interfaces of virtual machines, whose incoming traffic is outbound traffic of the pod. */
  rerouteInterfaces: string[];
  /** Servers as CIDRs of full length. */
  dns: 'off' | 'all' | { servers: Cidr[] };
  dropInvalid: boolean;
  /** IPv4. */
  loopback: Cidr;
  tproxy: { mark: number; table: number };
}

export interface Redirect {
  spec: RedirectSpec;
  /** `auto`: to be taken from the netns. */
  families: 'auto' | Family[];
  /** One line each, for whoever asked. */
  warnings: string[];
}

/** The agent's metrics, health and Prometheus ports (istio/cni/pkg/plugin/sidecar_redirect.go). */
const AGENT_PORTS = [15020, 15021, 15090];

/**
 * Throws ConfigError on the first value that cannot be honoured. `servers` is asked only if DNS capture needs the
 * name servers and no option names them.
 */
export function redirect(
  {
    flags = {},
    environment = {},
    pod,
    defaults = {},
  }: { flags?: Source; environment?: Source; pod?: Pod; defaults?: Source },
  servers: () => string[] = nameServers,
): Redirect {
  const sources = pod === undefined ? [flags, environment, defaults] : [flags, ...podSources(pod, defaults)];
  const given: Source = Object.assign({}, ...sources.toReversed());
  const values = Object.fromEntries(optionList.map(([key]) => [key, read(key, given[key])])) as OptionValues;
  const warnings: string[] = [];
  const spec: RedirectSpec = {
    mode: values.mode,
    proxyPort: values.proxyPort,
    inboundPort: values.inboundPort,
    tunnelPort: values.tunnelPort,
    proxyUids: values.proxyUids,
    proxyGids: values.proxyGids ?? values.proxyUids,
    inbound: { include: values.inboundPorts, exclude: withAgentPorts(values.inboundExclude) },
    outbound: {
      cidrs: values.outboundCidrs,
      excludeCidrs: values.outboundExcludeCidrs,
      ports: values.outboundPorts,
      excludePorts: values.outboundExcludePorts,
    },
    ownerGroups: { include: values.ownerGroups, exclude: values.ownerGroupsExclude },
    excludeInterfaces: values.excludeInterfaces,
    rerouteInterfaces: values.rerouteInterfaces,
    dns: dns(values, given, pod !== undefined, servers, warnings),
    dropInvalid: values.dropInvalid,
    loopback: values.loopback,
    tproxy: { mark: values.tproxyMark, table: values.tproxyTable },
  };
  checkTogether(spec, values, given);
  if (pod !== undefined && spec.mode !== 'NONE') warnings.push(...likeTheProxy(pod, spec));
  return { spec, families: values.families, warnings };
}

/** What the controller is told for the whole cluster, where a pod says nothing. */
export interface ClusterDefaults {
  /** Each of source `default`. */
  redirect: Source;
  /** Where nothing names inbound ports: all, or those that the containers declare. */
  defaultInboundPorts: '*' | 'declared';
}

/** As `redirect`, for a pod of the controller's: the pod goes before the cluster's defaults. */
export function podRedirect(pod: Pod, { redirect: given, defaultInboundPorts }: ClusterDefaults): Redirect {
  const declared = defaultInboundPorts === 'declared' ? declaredPorts(pod) : {};
  return redirect({ pod, defaults: { ...declared, ...given } });
}

/** Whether a captured CIDR is loopback, in either family: then traffic of the pod to itself is captured too. */
export function capturesLoopback({ outbound: { cidrs } }: RedirectSpec): boolean {
  return cidrs !== '*' && cidrs.some(isLoopback);
}

/** A line for each uid and gid of the proxy that a container of the application has. */
function likeTheProxy({ spec: { containers = [], securityContext: ofPod } = {} }: Pod, spec: RedirectSpec): string[] {
  const found = new Map<string, string>();
  for (const { name, securityContext } of containers) {
    if (name === undefined || name === PROXY) continue;
    const user = securityContext?.runAsUser ?? ofPod?.runAsUser;
    const group = securityContext?.runAsGroup ?? ofPod?.runAsGroup;
    const shared =
      user !== undefined && spec.proxyUids.includes(user)
        ? `uid ${user}`
        : group !== undefined && spec.proxyGids.includes(group)
          ? `gid ${group}`
          : undefined;
    if (shared !== undefined && !found.has(shared)) found.set(shared, name);
  }
  return Array.from(
    found,
    ([id, name]) =>
      `container ${name} has the proxy's ${id}, so nothing that it sends is captured; give it another one`,
  );
}

function read(key: OptionKey, given: Given | undefined): unknown {
  const { parse, initial, flag } = options[key];
  if (given !== undefined) return parse(given.text, given);
  return initial === undefined ? undefined : parse(initial, { field: `--${flag}`, source: 'default' });
}

function withAgentPorts(ports: PortRange[]): PortRange[] {
  const missing = AGENT_PORTS.filter((agent) => !ports.some(({ first, last }) => first === agent && last === agent));
  return [...ports, ...missing.map((port) => ({ first: port, last: port }))];
}

/**
 * As Istio, --capture-all-dns counts only with --redirect-dns. The servers of a pod are not known outside of it, so
 * there all DNS is captured unless a flag names them, as Istio's CNI does it. Servers named for the whole cluster are
 * those of each pod that captures DNS, unless it asks for all of it in so many words.
 */
function dns(
  values: OptionValues,
  given: Source,
  isPod: boolean,
  servers: () => string[],
  warnings: string[],
): RedirectSpec['dns'] {
  if (values.dnsServers !== undefined) {
    const { field = '', text = '', source } = given.dnsServers ?? {};
    if (source === 'default' && !values.redirectDns) return 'off';
    if (source === 'default' && asksForAll(values, given)) return 'all';
    if (!values.redirectDns)
      throw new ConfigError(field, text, 'has no effect without --redirect-dns', 'both or neither');
    if (values.captureAllDns && given.captureAllDns?.source !== 'pod') {
      throw new ConfigError(field, text, 'has no effect with --capture-all-dns', 'one of the two');
    }
    return { servers: values.dnsServers };
  }
  if (!values.redirectDns) return 'off';
  if (values.captureAllDns || isPod) return 'all';
  const found = addresses(servers().join(','), { field: '/etc/resolv.conf', source: 'default' });
  if (found.length > 0) return { servers: found };
  warnings.push('DNS capture is off, because /etc/resolv.conf names no server; use --dns-servers or --capture-all-dns');
  return 'off';
}

/** ISTIO_META_DNS_CAPTURE stands for both options, so it says nothing of which servers. */
function asksForAll({ captureAllDns }: OptionValues, given: Source): boolean {
  const { captureAllDns: all, redirectDns: some } = given;
  return captureAllDns && all?.source === 'pod' && all.field !== some?.field;
}

/** What no value shows by itself. */
function checkTogether(spec: RedirectSpec, { families }: OptionValues, given: Source): void {
  const lists: [OptionKey, '*' | Cidr[]][] = [
    ['outboundCidrs', spec.outbound.cidrs],
    ['outboundExcludeCidrs', spec.outbound.excludeCidrs],
    ['dnsServers', given.dnsServers !== undefined && typeof spec.dns === 'object' ? spec.dns.servers : []],
  ];
  for (const [key, cidrs] of lists) {
    const origin = given[key];
    if (families === 'auto' || cidrs === '*' || origin === undefined || origin.source === 'pod') continue;
    if (origin.source === 'default' && given.families?.source === 'pod') continue;
    const stray = cidrs.find(({ family }) => !families.includes(family));
    if (stray !== undefined) {
      const value = key === 'dnsServers' ? stray.address : cidrText(stray);
      const wrong = `an IPv${stray.family} value, but --ip-families is ${families.join(',')}`;
      throw new ConfigError(origin.field, value, wrong, 'values of these families only');
    }
  }
  const counts = rulesByOption(spec);
  const total = counts.reduce((sum, [, rules]) => sum + rules, 0);
  if (total <= MAX_RULES) return;
  const [[largest, rules]] = counts.sort(([, a], [, b]) => b - a) as [(typeof counts)[number]];
  const { field = `--${options[largest].flag}`, text } = given[largest] ?? {};
  throw new ConfigError(field, text, `leads to ${rules} of ${total} rules`, `at most ${MAX_RULES} rules in total`);
}
