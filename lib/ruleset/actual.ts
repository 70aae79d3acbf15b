/** The types of installed rules, as they are read back from the kernel. */
import type { Family, Match, Rule, TableName } from './model.ts';
import type { ActualNftTable } from './nftables/model.ts';

/** A match that this version does not know, in the kernel's form. */
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
  /** In a builtin chain, only our rules. */
  rules: ActualRule[];
}

export interface ActualTable {
  family: Family;
  table: TableName;
  chains: ActualChain[];
}

/** The differences between the installed rules of a network namespace and the planned ones. */
export interface Drift {
  /** The current content of the tables that differ. */
  legacy: ActualTable[];
  nftables: ActualNftTable[];
  /** What is Istio's in the tables of iptables-nft, where nothing of ours is ever wanted. */
  iptablesNft: ActualTable[];
  /** Missing and surplus routes, policy rules and addresses, as the arguments of `ip` that create them. */
  routes: { missing: string[]; surplus: string[] };
}
