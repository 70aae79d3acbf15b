/**
 * Turns a RedirectSpec into a Ruleset: Istio's rules in Istio's order (istio/tools/istio-iptables/pkg/capture/run.go).
 * The
 * order matters: an exception comes before the rules that it is an exception to.
 */

import { OUTBOUND_MARK } from '../options/values.ts';
import { type Draft, fromPort, is, isNot, join, jump, RETURN, RulesetBuilder, toPort } from '../ruleset/builder.ts';
import type { Cidr, Family, Match, PortRange, Routes, Ruleset, TableName } from '../ruleset/model.ts';
import { capturesLoopback, type RedirectSpec } from './redirect.ts';

/** The agent's DNS listener (istio/tools/istio-iptables/pkg/constants: IstioAgentDNSListenerPort). */
const DNS_LISTENER = 15053;

/** Conntrack zones: 1 between agent and servers, 2 between applications and agent, so that tuples cannot clash. */
const UPSTREAM_ZONE = 1;
const CLIENT_ZONE = 2;

/** The address that the proxy's own inbound passthrough comes from. */
const PASSTHROUGH: readonly Cidr[] = [
  { family: 4, address: '127.0.0.6', prefix: 32 },
  { family: 6, address: '::6', prefix: 128 },
];
const LOOPBACK6: Cidr = { family: 6, address: '::1', prefix: 128 };

/** The matches for an owner of traffic. Uids come before gids. */
interface Owner {
  kind: 'uid' | 'gid';
  is: Match;
  isNot: Match;
}

/** Families that are captured and, if there are any, those that are blocked; each at most once in all. */
interface PlannedFamilies {
  captured: readonly Family[];
  blocked: readonly Family[];
  /** Whether lo can have `::6`. */
  loopback6: boolean;
}

/**
 * `families`: those that get rules. NONE gives a Ruleset without tables and routes.
 *
 * A blocked family is redirected to the proxy without the exceptions that are options. Nobody listens there for this family,
 * so that the kernel refuses its connections at once.
 */
export function plan(spec: RedirectSpec, families: readonly Family[] | PlannedFamilies): Ruleset {
  const { captured, blocked, loopback6 } = 'captured' in families ? families : whole(families);
  const rules = rulesOf(spec, captured);
  const all = blocked.length === 0 ? rules : join(rules, rulesOf(withoutExceptions(spec), blocked));
  return { ...all, routes: { ...all.routes, loopback6: all.routes.loopback6 && loopback6 } };
}

function whole(captured: readonly Family[]): PlannedFamilies {
  return { captured, blocked: [], loopback6: true };
}

function withoutExceptions(spec: RedirectSpec): RedirectSpec {
  return {
    ...spec,
    inbound: { include: '*', exclude: [] },
    outbound: { cidrs: '*', excludeCidrs: [], ports: [], excludePorts: [] },
    ownerGroups: { include: '*', exclude: [] },
    excludeInterfaces: [],
    rerouteInterfaces: [],
  };
}

function rulesOf(spec: RedirectSpec, families: readonly Family[]): Ruleset {
  const ordered = families.toSorted();
  const to = new RulesetBuilder(ordered);
  if (spec.mode === 'NONE') return to.build({ loopback6: false });
  excludeInterfaces(to, spec);
  if (spec.dropInvalid) dropInvalid(to);
  to.append('nat', 'ISTIO_INBOUND', { protocol: 'tcp', matches: [toPort(spec.tunnelPort)], target: RETURN });
  redirectTo(to, 'ISTIO_REDIRECT', spec.proxyPort);
  redirectTo(to, 'ISTIO_IN_REDIRECT', spec.inboundPort);
  inbound(to, spec);
  to.append('nat', 'OUTPUT', { target: jump('ISTIO_OUTPUT') });
  for (const port of spec.outbound.excludePorts) {
    to.append('nat', 'ISTIO_OUTPUT', { protocol: 'tcp', matches: [toPort(port)], target: RETURN });
    to.append('nat', 'ISTIO_OUTPUT', { protocol: 'udp', matches: [toPort(port)], target: RETURN });
  }
  for (const cidr of PASSTHROUGH) {
    const { family } = cidr;
    to.append('nat', 'ISTIO_OUTPUT', { family, source: is(cidr), outInterface: 'lo', target: RETURN });
  }
  for (const owner of proxyOwners(spec)) proxyTraffic(to, spec, owner);
  ownerGroups(to, spec);
  if (spec.dns !== 'off') dns(to, spec);
  outbound(to, spec);
  if (spec.mode === 'TPROXY') tproxyTail(to, spec);
  return to.build(routes(spec, ordered));
}

function excludeInterfaces(to: RulesetBuilder, spec: RedirectSpec): void {
  const tables: TableName[] = spec.mode === 'TPROXY' ? ['nat', 'mangle'] : ['nat'];
  for (const table of tables) {
    for (const name of spec.excludeInterfaces) {
      to.append(table, 'PREROUTING', { inInterface: name, target: RETURN });
      to.append(table, 'OUTPUT', { outInterface: name, target: RETURN });
    }
  }
  for (const name of spec.rerouteInterfaces) {
    to.prepend('nat', 'PREROUTING', { inInterface: name, target: RETURN });
    // Otherwise TPROXY would take what the machine sends for inbound traffic, before nat sees it.
    if (spec.mode === 'TPROXY') to.prepend('mangle', 'PREROUTING', { inInterface: name, target: RETURN });
  }
}

function dropInvalid(to: RulesetBuilder): void {
  const invalid: Match = { kind: 'conntrack', states: ['INVALID'] };
  to.append('mangle', 'PREROUTING', { matches: [invalid], target: jump('ISTIO_DROP') });
  to.append('mangle', 'ISTIO_DROP', { target: { kind: 'drop' } });
}

function redirectTo(to: RulesetBuilder, chain: 'ISTIO_REDIRECT' | 'ISTIO_IN_REDIRECT', port: number): void {
  to.append('nat', chain, { protocol: 'tcp', target: { kind: 'redirect', port } });
}

function inbound(to: RulesetBuilder, spec: RedirectSpec): void {
  const { include, exclude } = spec.inbound;
  if (include.length === 0) return;
  const tproxy = spec.mode === 'TPROXY';
  const table = tproxy ? 'mangle' : 'nat';
  if (tproxy) {
    const { mark } = spec.tproxy;
    to.append('mangle', 'ISTIO_DIVERT', { target: { kind: 'set-mark', value: mark } }, { target: { kind: 'accept' } });
    const target = { kind: 'tproxy', port: spec.inboundPort, mark } as const;
    to.append('mangle', 'ISTIO_TPROXY', ...notLoopback(spec, { protocol: 'tcp', target }));
  }
  to.append(table, 'PREROUTING', { protocol: 'tcp', target: jump('ISTIO_INBOUND') });
  if (include === '*') {
    for (const port of exclude) {
      to.append(table, 'ISTIO_INBOUND', { protocol: 'tcp', matches: [toPort(port)], target: RETURN });
    }
  }
  const ports: (PortRange | undefined)[] = include === '*' ? [undefined] : include;
  for (const port of ports) {
    const matches = port === undefined ? [] : [toPort(port)];
    if (tproxy) {
      const established: Match = { kind: 'conntrack', states: ['RELATED', 'ESTABLISHED'] };
      const divert: Draft = { protocol: 'tcp', matches: [...matches, established], target: jump('ISTIO_DIVERT') };
      to.append('mangle', 'ISTIO_INBOUND', divert, { protocol: 'tcp', matches, target: jump('ISTIO_TPROXY') });
    } else {
      to.append('nat', 'ISTIO_INBOUND', { protocol: 'tcp', matches, target: jump('ISTIO_IN_REDIRECT') });
    }
  }
}

/** Adds the rules for traffic that the proxy sends, and for traffic from the pod to itself. */
function proxyTraffic(to: RulesetBuilder, spec: RedirectSpec, owner: Owner): void {
  const captureDns = spec.dns !== 'off';
  const tunnel: Match =
    captureDns && owner.kind === 'uid'
      ? { kind: 'multiport', ports: [53, spec.tunnelPort].map((port) => ({ first: port, last: port })), not: true }
      : toPort(spec.tunnelPort, true);
  const toItself: Draft = {
    outInterface: 'lo',
    protocol: 'tcp',
    matches: [tunnel, owner.is],
    target: jump('ISTIO_IN_REDIRECT'),
  };
  to.append('nat', 'ISTIO_OUTPUT', ...notLoopback(spec, toItself));
  if (!capturesLoopback(spec)) {
    const local: Draft = { outInterface: 'lo', matches: [owner.isNot], target: RETURN };
    const butDns: Draft = { ...local, protocol: 'tcp', matches: [toPort(53, true), owner.isNot] };
    to.append('nat', 'ISTIO_OUTPUT', captureDns ? butDns : local);
  }
  to.append('nat', 'ISTIO_OUTPUT', { matches: [owner.is], target: RETURN });
}

function ownerGroups(to: RulesetBuilder, spec: RedirectSpec): void {
  const { include, exclude } = spec.ownerGroups;
  if (include === '*') {
    for (const gid of exclude) {
      to.append('nat', 'ISTIO_OUTPUT', { matches: [{ kind: 'owner', gid, not: false }], target: RETURN });
    }
  } else {
    const matches = include.map((gid): Match => ({ kind: 'owner', gid, not: true }));
    to.append('nat', 'ISTIO_OUTPUT', { matches, target: RETURN });
  }
}

function dns(to: RulesetBuilder, spec: RedirectSpec): void {
  /** Undefined means any server, of either family. */
  const servers: (Cidr | undefined)[] = typeof spec.dns === 'object' ? spec.dns.servers : [undefined];
  const reached = new Set(servers.map((server) => server?.family));
  const toServers = (protocol: 'tcp' | 'udp', target: Draft['target']): Draft[] =>
    servers.map((server) => ({ ...destination(server), protocol, matches: [toPort(53)], target }));
  const zone = (zone: number): Draft['target'] => ({ kind: 'ct-zone', zone });

  // The chains in raw hold rules for UDP only. Istio jumps there with every packet, also those of established TCP.
  to.append('raw', 'OUTPUT', { protocol: 'udp', target: jump('ISTIO_OUTPUT_DNS') });
  for (const family of reached) {
    to.append('nat', 'ISTIO_OUTPUT', { ...(family && { family }), target: jump('ISTIO_OUTPUT_DNS') });
  }
  to.append('nat', 'ISTIO_OUTPUT_DNS', ...toServers('tcp', { kind: 'redirect', port: DNS_LISTENER }));
  to.append('nat', 'ISTIO_OUTPUT_DNS', ...toServers('udp', { kind: 'redirect', port: DNS_LISTENER }));
  for (const owner of proxyOwners(spec)) {
    const upstream: Draft = { protocol: 'udp', matches: [toPort(53), owner.is], target: zone(UPSTREAM_ZONE) };
    const client: Draft = { protocol: 'udp', matches: [fromPort(DNS_LISTENER), owner.is], target: zone(CLIENT_ZONE) };
    to.append('raw', 'ISTIO_OUTPUT_DNS', upstream, client);
  }
  for (const family of reached) {
    to.append('raw', 'PREROUTING', { ...(family && { family }), protocol: 'udp', target: jump('ISTIO_INBOUND') });
  }
  to.append('raw', 'ISTIO_OUTPUT_DNS', ...toServers('udp', zone(CLIENT_ZONE)));
  for (const server of servers) {
    const from = server && { family: server.family, source: is(server) };
    const answer: Draft = { ...from, protocol: 'udp', matches: [fromPort(53)], target: zone(UPSTREAM_ZONE) };
    to.append('raw', 'ISTIO_INBOUND', answer);
  }
  // What comes from inside of the pod and is forwarded, as by Docker: its answers are looked for in the zone of answers.
  for (const name of [...spec.excludeInterfaces, ...spec.rerouteInterfaces]) {
    to.append(
      'raw',
      'ISTIO_INBOUND',
      ...toServers('udp', zone(UPSTREAM_ZONE)).map((to) => ({ ...to, inInterface: name })),
    );
  }
}

function outbound(to: RulesetBuilder, spec: RedirectSpec): void {
  const { cidrs, excludeCidrs, ports } = spec.outbound;
  for (const cidr of [spec.loopback, LOOPBACK6, ...excludeCidrs]) {
    to.append('nat', 'ISTIO_OUTPUT', { ...destination(cidr), target: RETURN });
  }
  for (const port of ports) {
    to.append('nat', 'ISTIO_OUTPUT', { protocol: 'tcp', matches: [toPort(port)], target: jump('ISTIO_REDIRECT') });
  }
  for (const cidr of cidrs === '*' ? [undefined] : cidrs) {
    const redirected: Draft = { ...destination(cidr), target: jump('ISTIO_REDIRECT') };
    to.append('nat', 'ISTIO_OUTPUT', redirected);
    for (const name of spec.rerouteInterfaces) {
      to.prepend('nat', 'PREROUTING', { ...redirected, inInterface: name });
    }
  }
  for (const name of spec.rerouteInterfaces) to.prepend('nat', 'PREROUTING', ...reroutedBefore(spec, name));
}

/** What goes before the ranges for traffic of a virtual machine, as for the pod's own. Istio forgets it. */
function reroutedBefore({ outbound: { excludePorts, excludeCidrs, ports } }: RedirectSpec, name: string): Draft[] {
  const tcp = { inInterface: name, protocol: 'tcp' } as const;
  return [
    ...excludePorts.map((port): Draft => ({ ...tcp, matches: [toPort(port)], target: RETURN })),
    ...excludeCidrs.map((cidr): Draft => ({ ...destination(cidr), inInterface: name, target: RETURN })),
    ...ports.map((port): Draft => ({ ...tcp, matches: [toPort(port)], target: jump('ISTIO_REDIRECT') })),
  ];
}

/**
 * Packets with a mark skip the rules: `mark` is set on a captured connection, 1338 on the proxy's traffic to its own
 * pod.
 */
function tproxyTail(to: RulesetBuilder, spec: RedirectSpec): void {
  const { mark } = spec.tproxy;
  const marked: Match = { kind: 'mark', value: mark, not: false };
  const tcp = { protocol: 'tcp' } as const;
  to.append('mangle', 'PREROUTING', { ...tcp, matches: [marked], target: { kind: 'save-mark' } });
  to.append('mangle', 'OUTPUT', { ...tcp, outInterface: 'lo', matches: [marked], target: RETURN });
  for (const owner of proxyOwners(spec)) {
    const target = { kind: 'set-mark', value: OUTBOUND_MARK } as const;
    to.append('mangle', 'OUTPUT', ...notLoopback(spec, { ...tcp, outInterface: 'lo', matches: [owner.is], target }));
  }
  const connection: Match = { kind: 'connmark', value: mark, not: false };
  to.append('mangle', 'OUTPUT', { ...tcp, matches: [connection], target: { kind: 'restore-mark' } });
  const passthrough = PASSTHROUGH.map((cidr): Draft => {
    return { ...tcp, family: cidr.family, source: is(cidr), inInterface: 'lo', target: RETURN };
  });
  const notFromProxy: Match = { kind: 'mark', value: OUTBOUND_MARK, not: true };
  to.prepend('mangle', 'ISTIO_INBOUND', { ...tcp, matches: [marked], target: RETURN }, ...passthrough, {
    ...tcp,
    inInterface: 'lo',
    matches: [notFromProxy],
    target: RETURN,
  });
}

function routes({ mode, inbound, tproxy }: RedirectSpec, families: readonly Family[]): Routes {
  const captured = mode === 'TPROXY' && inbound.include.length > 0;
  return { loopback6: families.includes(6), ...(captured && { tproxy }) };
}

function proxyOwners({ proxyUids, proxyGids }: RedirectSpec): Owner[] {
  const owner = (kind: 'uid' | 'gid', id: number): Owner => ({
    kind,
    is: { kind: 'owner', [kind]: id, not: false },
    isNot: { kind: 'owner', [kind]: id, not: true },
  });
  return [...proxyUids.map((id) => owner('uid', id)), ...proxyGids.map((id) => owner('gid', id))];
}

/** One rule for each family, with the loopback address of that family. */
function notLoopback({ loopback }: RedirectSpec, draft: Draft): Draft[] {
  return [loopback, LOOPBACK6].map((cidr) => ({ ...draft, family: cidr.family, destination: isNot(cidr) }));
}

function destination(cidr: Cidr | undefined): Pick<Draft, 'family' | 'destination'> {
  return cidr === undefined ? {} : { family: cidr.family, destination: is(cidr) };
}
