/**
 * A ruleset: what is to stand in a pod's network namespace, as plain data.
 *
 * Made by `plan.ts`, printed by `iptables.ts`, compiled to kernel-ready bytes by the native addon, and read back
 * from the kernel in the same types. Nothing here is ever parsed from text.
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
  /** A chain of the kernel's own (PREROUTING, OUTPUT): we add to it and leave the rest of it alone. */
  builtin: boolean;
  /** Rules that go to the top, first one topmost. Only in builtin chains. */
  inserts: Rule[];
  /** Rules in order: the whole of a chain of ours; in a builtin chain they are appended. */
  rules: Rule[];
}

export interface Rule {
  /** Absent: the rule stands in each family of the ruleset. */
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
 * Marks the rules in builtin chains that do not jump to a chain of ours as ours, so that a later change or clean-up
 * takes them away and no other.
 */
export const RULE_COMMENT = 'istio-pod-network-controller';

/** The chains that are ours, by name, whoever made them: Istio's own names. */
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
