/** Converts a Ruleset to nftables' form, with as few rules and conditions as Istio's chains permit. */
import type { Ruleset } from './model.ts';
import { lower } from './nftables/lower.ts';
import type { NftRuleset } from './nftables/model.ts';
import { simplify } from './nftables/simplify.ts';

/** `counters`: whether each rule counts its packets. */
export function nftables(ruleset: Ruleset, options: { counters: boolean }): NftRuleset {
  return simplify(lower(ruleset, options));
}
