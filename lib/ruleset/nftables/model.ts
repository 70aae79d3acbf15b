/**
 * The nftables form of a ruleset: the same rules as conditions on fields, as the kernel's nf_tables evaluates them.
 *
 * Made from a `Ruleset` by `lower.ts`, made cheaper by `simplify.ts`, printed by `text.ts`, compiled by the native
 * addon (native/nftables/rule.h has the same shapes), and read back from the kernel in the same types.
 */
import type { Family, Routes, TableName, Target } from '../model.ts';

/**
 * By their names in nft(8), in the order in which the conditions of a rule stand. A field of the packet needs a
 * condition on its protocol besides: `ip saddr` one of `nfproto` ipv4, `dport` one of `l4proto` tcp, udp or both.
 */
export const FIELDS = [
  'iifname',
  'oifname',
  'nfproto',
  'ip saddr',
  'ip daddr',
  'ip6 saddr',
  'ip6 daddr',
  'l4proto',
  'sport',
  'dport',
  'skuid',
  'skgid',
  'mark',
  'ct mark',
  'ct state',
] as const;
export type Field = (typeof FIELDS)[number];

/**
 * Inclusive. Addresses, ports, ids and marks are numbers; a name of an interface is its 16 bytes, padded with zeros, as
 * one big-endian number; `nfproto` is 2 or 10, `l4proto` 6 or 17.
 */
export interface Interval {
  first: bigint;
  last: bigint;
}

/** The field is in one of the intervals, or with `not` in none. At most one condition on a field without `not`. */
export interface Condition {
  field: Field;
  not: boolean;
  /** Sorted, disjoint, at least one. Of `ct state` each is one bit (linux/netfilter/nf_conntrack_common.h). */
  values: Interval[];
}

export interface NftRule {
  /** All must hold. In the order of FIELDS. */
  conditions: Condition[];
  /** Whether the rule counts packets and bytes. */
  counter: boolean;
  target: Target;
}

export interface NftChain {
  /** As Istio has it: `istio-inbound`; `prerouting` and `output` for those with a hook. */
  name: string;
  hook?: Hook;
  rules: NftRule[];
}

export interface Hook {
  type: 'filter' | 'nat' | 'route';
  hook: 'prerouting' | 'output';
  priority: number;
}

export interface NftTable {
  /** `nat` is the table `inet istio-proxy-nat`. */
  name: TableName;
  chains: NftChain[];
}

export interface NftRuleset {
  families: Family[];
  tables: NftTable[];
  routes: Routes;
}

/** A rule that this version did not write: its expressions, as far as they can be named. */
export interface OpaqueRule {
  opaque: string;
}

export interface ActualNftTable {
  table: TableName;
  chains: { name: string; hook?: Hook; rules: (NftRule | OpaqueRule)[] }[];
}
