/**
 * Ruleset -> NftRuleset, rule by rule, as Istio writes it natively (istio/tools/istio-nftables/pkg/capture/run.go).
 *
 * One meaning is xtables' and not yet nft's: a condition with `not` on skuid or skgid also holds for a packet without a
 * socket (linux/net/netfilter/xt_owner.c), where nft's breaks off the rule (nft_meta.c). `simplify.ts` leaves none.
 */
import ipaddr from 'ipaddr.js';
import type { AddressMatch, Chain, Cidr, ConntrackState, Match, Rule, Ruleset, TableName, Target } from '../model.ts';
import { normal } from './intervals.ts';
import type { NftRule, NftRuleset } from './model.ts';
import { type Condition, FIELDS, type Field, type Hook, type Interval, type NftChain } from './model.ts';

/** linux/netfilter_ipv4.h; xtables' tables have the same. */
const PRIORITY: Record<TableName, number> = { raw: -300, mangle: -150, nat: -100 };
export const NFPROTO = { 4: 2, 6: 10 } as const;
export const L4PROTO = { tcp: 6, udp: 17 } as const;
/** linux/netfilter/nf_conntrack_common.h, NF_CT_STATE_BIT. */
const STATE: Record<ConntrackState, number> = { INVALID: 1, ESTABLISHED: 2, RELATED: 4, NEW: 8 };
const ADDRESS = {
  4: { source: 'ip saddr', destination: 'ip daddr' },
  6: { source: 'ip6 saddr', destination: 'ip6 daddr' },
} as const;

/** `counters`: whether each rule counts its packets. */
export function lower({ families, tables, routes }: Ruleset, { counters }: { counters: boolean }): NftRuleset {
  const only = families.length === 1 ? families[0] : undefined;
  const lowerChain = (table: TableName, { name, builtin, inserts, rules }: Chain): NftChain => ({
    name: nftChainName(name),
    ...(builtin && { hook: hookOf(table, name) }),
    rules: [...inserts, ...rules].flatMap((rule) => {
      const family = rule.family ?? (builtin ? only : undefined);
      return family === undefined || families.includes(family) ? lowerRule({ ...rule, ...(family && { family }) }) : [];
    }),
  });
  const lowerRule = (rule: Rule): NftRule[] => {
    const conditions = conditionsOf(rule);
    return conditions === undefined
      ? []
      : targetsOf(rule.target).map((target) => ({ conditions, counter: counters, target }));
  };
  return {
    families,
    tables: tables.map(({ name, chains }) => ({ name, chains: chains.map((chain) => lowerChain(name, chain)) })),
    routes,
  };
}

/** `ISTIO_IN_REDIRECT` is `istio-in-redirect`. */
export function nftChainName(name: string): string {
  return name.toLowerCase().replaceAll('_', '-');
}

function hookOf(table: TableName, chain: string): Hook {
  const hook = chain === 'PREROUTING' ? 'prerouting' : 'output';
  const type = table === 'nat' ? 'nat' : table === 'mangle' && hook === 'output' ? 'route' : 'filter';
  return { type, hook, priority: PRIORITY[table] };
}

/** Undefined where no packet can match. */
export function conditionsOf(rule: Rule): Condition[] | undefined {
  const { source, destination, inInterface, outInterface, protocol, matches } = rule;
  if ([source, destination].some((address) => address?.not && address.cidr.prefix === 0)) return undefined;
  const family = rule.family ?? source?.cidr.family ?? destination?.cidr.family;
  const conditions = [
    ...(inInterface === undefined ? [] : [one('iifname', nameValue(inInterface))]),
    ...(outInterface === undefined ? [] : [one('oifname', nameValue(outInterface))]),
    ...(family === undefined ? [] : [one('nfproto', NFPROTO[family])]),
    ...addressCondition('source', source),
    ...addressCondition('destination', destination),
    ...(protocol === undefined ? [] : [one('l4proto', L4PROTO[protocol])]),
    ...matches.flatMap(matchCondition),
  ];
  return conditions.sort((a, b) => FIELDS.indexOf(a.field) - FIELDS.indexOf(b.field));
}

function matchCondition(match: Match): Condition[] {
  switch (match.kind) {
    case 'port':
      return [{ field: match.side === 'source' ? 'sport' : 'dport', not: match.not, values: [interval(match.range)] }];
    case 'multiport':
      return [{ field: 'dport', not: match.not, values: [...normal(match.ports.map(interval))] }];
    case 'owner':
      return [one(match.uid === undefined ? 'skgid' : 'skuid', match.uid ?? match.gid ?? 0, match.not)];
    case 'conntrack': {
      const bits = match.states.map((state) => STATE[state]).sort((a, b) => a - b);
      return [{ field: 'ct state', not: false, values: bits.map((bit) => interval({ first: bit, last: bit })) }];
    }
    case 'mark':
      return [one('mark', match.value, match.not)];
    case 'connmark':
      return [one('ct mark', match.value, match.not)];
    case 'comment':
      // It tells our rules from those of others; in these tables all are ours.
      return [];
  }
}

/**
 * xtables' TPROXY drops a packet for which nobody listens (linux/net/netfilter/xt_TPROXY.c); nft's breaks off the rule
 * (nft_tproxy.c), so the drop is a rule of its own.
 */
function targetsOf(target: Target): Target[] {
  if (target.kind === 'tproxy') return [target, { kind: 'drop' }];
  return [target.kind === 'jump' ? { kind: 'jump', chain: nftChainName(target.chain) } : target];
}

function addressCondition(side: 'source' | 'destination', match: AddressMatch | undefined): Condition[] {
  if (match === undefined || match.cidr.prefix === 0) return [];
  return [{ field: ADDRESS[match.cidr.family][side], not: match.not, values: [cidrInterval(match.cidr)] }];
}

export function cidrInterval({ family, address, prefix }: Cidr): Interval {
  const first = bigEndian(ipaddr.parse(address).toByteArray());
  return { first, last: first + (1n << BigInt((family === 4 ? 32 : 128) - prefix)) - 1n };
}

function nameValue(name: string): bigint {
  return bigEndian([...Buffer.alloc(16).fill(name, 0, Buffer.byteLength(name))]);
}

function bigEndian(bytes: number[]): bigint {
  return bytes.reduce((value, byte) => (value << 8n) | BigInt(byte), 0n);
}

function one(field: Field, value: number | bigint, not = false): Condition {
  return { field, not, values: [interval({ first: value, last: value })] };
}

/** Both ends belong to it. */
export function interval({ first, last }: { first: number | bigint; last: number | bigint }): Interval {
  return { first: BigInt(first), last: BigInt(last) };
}
