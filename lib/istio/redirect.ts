/**
 * Makes a RedirectSpec, the typed, complete and valid redirect settings of one pod, from flags, environment and a Pod.
 * `plan.ts` turns it into rules.
 *
 * The first source with an option decides it, and only that value is parsed. On the command line the order is flags,
 * then environment. With a Pod it is flags, then the Pod (see `pod-sources.ts`); the caller's environment is ignored.
 * For the controller it is the Pod, then the cluster's defaults. The last source are the defaults of `options.ts`,
 * which are what Istio injects today.
 */

import { ConfigError, printable } from '../errors.ts';
import { addresses, cidrText, isLoopback } from '../options/addresses.ts';
import { nearest } from '../options/nearest.ts';
import { nameServers } from '../options/resolv-conf.ts';
import type { Unserved } from '../options/values.ts';
import type { Cidr, Family, PortRange } from '../ruleset/model.ts';
import { PROXY } from './containers.ts';
import {
  annotationNames,
  isUnknownOption,
  type OptionKey,
  type OptionValues,
  optionList,
  options,
  UNKNOWN,
} from './options.ts';
import type { Pod } from './pod.ts';
import { declaredPorts, podSources } from './pod-sources.ts';
import { MAX_RULES, rulesByOption } from './rule-count.ts';
import type { Given, Source } from './sources.ts';

export interface RedirectSpec {
  mode: 'REDIRECT' | 'TPROXY' | 'NONE';
  /** The proxy's ports for outbound traffic, for inbound traffic, and for tunnels. */
  proxyPort: number;
  inboundPort: number;
  tunnelPort: number;
  /** Each list has at least one entry. */
  proxyUids: number[];
  proxyGids: number[];
  /** `exclude` counts only where `include` is `*`, and always has the agent's own ports. */
  inbound: { include: '*' | PortRange[]; exclude: PortRange[] };
  /** `ports` are captured regardless of the destination. */
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
  /** `auto`: those of the netns that the proxy serves. */
  families: 'auto' | Family[];
  /** Whether the proxy serves both families of a pod that has both. */
  dualStack: boolean;
  /** What becomes of a family that is not served. The administrator's choice: nothing in a Pod makes it weaker. */
  unserved: Unserved;
  /** Messages of one line for the user. */
  warnings: string[];
}

/** The agent's metrics, health and Prometheus ports (istio/cni/pkg/plugin/sidecar_redirect.go). */
const AGENT_PORTS = [15020, 15021, 15090];

/**
 * Throws ConfigError for the first invalid value. `servers` is called only if DNS capture needs the name servers and no
 * option names them.
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
  if (pod !== undefined) warnings.push(...unknownOptions(pod));
  if (pod !== undefined && spec.mode !== 'NONE') warnings.push(...likeTheProxy(pod, spec));
  const excluded = given.inboundExclude;
  if (excluded !== undefined && spec.inbound.include !== '*' && meet(spec.inbound.include, values.inboundExclude)) {
    const text = JSON.stringify(excluded.text);
    warnings.push(`${excluded.field}: ${text} has no effect: exclusions count only if all inbound ports are captured`);
  }
  // Without a Pod nothing is known of a proxy.
  const dualStack = values.dualStack ?? pod === undefined;
  return { spec, families: values.families, dualStack, unserved: values.unservedFamilies, warnings };
}

/** The controller's settings for pods that do not have their own. */
export interface ClusterDefaults {
  /** Each value has the source `default`. */
  redirect: Source;
  /** The inbound ports of a pod that names none: all, or those that its containers declare. */
  defaultInboundPorts: '*' | 'declared';
}

/** Like `redirect`, for the controller: the settings of the pod take precedence over the cluster's defaults. */
export function podRedirect(pod: Pod, { redirect: given, defaultInboundPorts }: ClusterDefaults): Redirect {
  const declared = defaultInboundPorts === 'declared' ? declaredPorts(pod) : {};
  return redirect({ pod, defaults: { ...declared, ...given } });
}

/** Whether a captured CIDR is loopback, in either family, so that traffic from the pod to itself is captured too. */
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

/** One line for all annotations that look like an option and are none, because only a few Events are sent for one pod. */
function unknownOptions({ metadata: { annotations = {} } = {} }: Pod): string[] {
  const unknown = Object.keys(annotations).filter(isUnknownOption).slice(0, UNKNOWN.most);
  if (unknown.length === 0) return [];
  const each = unknown.map((name) => {
    const meant = nearest(name, annotationNames);
    return meant === undefined ? printable(name) : `${printable(name)} (did you mean ${meant}?)`;
  });
  return [`annotations that are not options and have no effect: ${each.join(', ')}; docs/cli.md lists all options`];
}

function read(key: OptionKey, given: Given | undefined): unknown {
  const { parse, initial, flag } = options[key];
  if (given !== undefined) return parse(given.text, given);
  return initial === undefined ? undefined : parse(initial, { field: `--${flag}`, source: 'default' });
}

function meet(some: readonly PortRange[], others: readonly PortRange[]): boolean {
  return some.some((one) => others.some((other) => one.first <= other.last && other.first <= one.last));
}

function withAgentPorts(ports: PortRange[]): PortRange[] {
  const missing = AGENT_PORTS.filter((agent) => !ports.some(({ first, last }) => first === agent && last === agent));
  return [...ports, ...missing.map((port) => ({ first: port, last: port }))];
}

/**
 * As in Istio, --capture-all-dns has an effect only with --redirect-dns. The name servers of a pod are unknown outside
 * of it, so all DNS of a pod is captured unless a flag names servers; Istio's CNI does the same. Servers that are named
 * for the whole cluster apply to each pod that captures DNS, unless the pod explicitly asks for all DNS.
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

/** Whether the pod explicitly asks for all DNS. ISTIO_META_DNS_CAPTURE sets both options, so it is not explicit. */
function asksForAll({ captureAllDns }: OptionValues, given: Source): boolean {
  const { captureAllDns: all, redirectDns: some } = given;
  return captureAllDns && all?.source === 'pod' && all.field !== some?.field;
}

/** Checks values that are invalid only in combination. */
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
