/**
 * A ruleset: the rules for a pod's network namespace, as plain data.
 *
 * `plan.ts` makes it, `iptables.ts` prints it, and the native addon compiles it to bytes for the kernel, and reads
 * installed rules back in the same types. Nothing here is ever parsed from text.
 */

export type Family = 4 | 6;

/** In the order in which a packet meets them. */
export type TableName = 'raw' | 'mangle' | 'nat';

export interface Ruleset {
  /** Families that get rules; each at most once, 4 before 6. */
  families: Family[];
  tables: Table[];
  routes: Routes;
}

export interface Table {
  name: TableName;
  chains: Chain[];
}

export interface Chain {
  name: string;
  /** A chain of the kernel (PREROUTING, OUTPUT). Rules are added to it, and its other rules are not changed. */
  builtin: boolean;
  /** Rules for the top of the chain, in this order. Only in builtin chains. */
  inserts: Rule[];
  /** The rules in order. They are all rules of our chain; in a builtin chain they are appended. */
  rules: Rule[];
}

export interface Rule {
  /** Absent means that each family of the ruleset has the rule. */
  family?: Family;
  source?: AddressMatch;
  destination?: AddressMatch;
  inInterface?: string;
  outInterface?: string;
  protocol?: 'tcp' | 'udp';
  /** In the order in which the kernel evaluates them. */
  matches: Match[];
  target: Target;
}

export interface AddressMatch {
  cidr: Cidr;
  not: boolean;
}

/** `address` in canonical text (RFC 5952 for IPv6), host bits zero; `prefix` in bits. */
export interface Cidr {
  family: Family;
  address: string;
  prefix: number;
}

/** Both ends inclusive, 1 to 65535; a single port has `first === last`. */
export interface PortRange {
  first: number;
  last: number;
}

export type Match =
  /** The protocol's own match (`-p tcp --dport 80`, `--dport 8000:8100`); the rule must have a protocol. */
  | { kind: 'port'; side: 'source' | 'destination'; range: PortRange; not: boolean }
  /** Destination ports, at most 15 slots; a range takes two (linux/netfilter/xt_multiport.h). */
  | { kind: 'multiport'; ports: PortRange[]; not: boolean }
  /** Exactly one of uid and gid. */
  | { kind: 'owner'; uid?: number; gid?: number; not: boolean }
  | { kind: 'conntrack'; states: ConntrackState[] }
  | { kind: 'mark'; value: number; not: boolean }
  | { kind: 'connmark'; value: number; not: boolean }
  | { kind: 'comment'; text: string };

export type ConntrackState = 'INVALID' | 'RELATED' | 'ESTABLISHED' | 'NEW';

export type Target =
  | { kind: 'accept' }
  | { kind: 'drop' }
  | { kind: 'return' }
  | { kind: 'jump'; chain: string }
  | { kind: 'redirect'; port: number }
  /** Mask is always 0xffffffff. */
  | { kind: 'tproxy'; port: number; mark: number }
  | { kind: 'set-mark'; value: number }
  | { kind: 'save-mark' }
  | { kind: 'restore-mark' }
  | { kind: 'ct-zone'; zone: number };

export interface Routes {
  /** `::6/128` on lo, in a netns with IPv6: the source address of the sidecar's own passthrough traffic. */
  loopback6: boolean;
  /** Per family: `ip rule fwmark <mark> lookup <table>` and `local default dev lo table <table>`. */
  tproxy?: { mark: number; table: number };
}

/**
 * The comment of our rules in builtin chains that do not jump to one of our chains. A later change or clean-up removes
 * only rules with it.
 */
export const RULE_COMMENT = 'istio-pod-network-controller';

/**
 * The names of our chains, which are Istio's own names. A chain with such a name counts as ours, whatever created it.
 */
export const OUR_CHAINS = [
  'ISTIO_DIVERT',
  'ISTIO_DROP',
  'ISTIO_INBOUND',
  'ISTIO_IN_REDIRECT',
  'ISTIO_OUTPUT',
  'ISTIO_OUTPUT_DNS',
  'ISTIO_REDIRECT',
  'ISTIO_TPROXY',
] as const;

/** The chains of long lists are ours too (trees.ts): this and a number. Istio has no such chains. */
export const LIST_CHAIN = 'ISTIO_LIST_';
