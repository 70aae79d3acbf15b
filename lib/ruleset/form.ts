/** A ruleset in the form of its backend. */
import type { Ruleset } from './model.ts';
import type { NftRuleset } from './nftables/model.ts';
import { nftables } from './nftables.ts';
import { withTrees } from './trees.ts';

/** The kernel interface that rules are written through. */
export type Backend = 'iptables-legacy' | 'nftables';

/** The rules to install. */
export type Form = { backend: 'iptables-legacy'; ruleset: Ruleset } | { backend: 'nftables'; ruleset: NftRuleset };

/** `counters`: whether each rule of nftables' form counts; iptables' always do. */
export function formOf(ruleset: Ruleset, backend: Backend, { counters }: { counters: boolean }): Form {
  return backend === 'nftables'
    ? { backend, ruleset: nftables(ruleset, { counters }) }
    : { backend, ruleset: withTrees(ruleset) };
}
