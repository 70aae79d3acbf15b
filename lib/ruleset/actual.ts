/** What is installed in a network namespace, as it is read back from the kernel. */
import type { Family, Match, Rule, TableName } from './model.ts';
import type { ActualNftTable } from './nftables/model.ts';

/** A match this version does not know, as the kernel holds it. */
export interface OpaqueMatch {
  kind: 'opaque';
  name: string;
  revision: number;
  /** Hex. */
  data: string;
}

export interface OpaqueTarget {
  kind: 'opaque';
  name: string;
  revision: number;
  data: string;
}

/** A rule as read from the kernel. */
export interface ActualRule extends Omit<Rule, 'matches' | 'target'> {
  matches: (Match | OpaqueMatch)[];
  target: Rule['target'] | OpaqueTarget;
}

export interface ActualChain {
  name: string;
  builtin: boolean;
  /** In a builtin chain only the rules that are ours. */
  rules: ActualRule[];
}

export interface ActualTable {
  family: Family;
  table: TableName;
  chains: ActualChain[];
}

/** Where a network namespace differs from its plan. */
export interface Drift {
  /** Tables that differ, as they are now. */
  legacy: ActualTable[];
  nftables: ActualNftTable[];
  /** What is Istio's in the tables of iptables-nft, where nothing of ours is ever wanted. */
  iptablesNft: ActualTable[];
  /** Missing and surplus routes, rules and addresses, as the arguments of `ip` that make them. */
  routes: { missing: string[]; surplus: string[] };
}
