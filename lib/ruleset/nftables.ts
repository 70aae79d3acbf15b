/** A Ruleset in nftables' form, as cheap as it can be had with Istio's chains. */
import type { Ruleset } from './model.ts';
import { lower } from './nftables/lower.ts';
import type { NftRuleset } from './nftables/model.ts';
import { simplify } from './nftables/simplify.ts';

/** `counters`: whether each rule counts its packets. */
export function nftables(ruleset: Ruleset, options: { counters: boolean }): NftRuleset {
  return simplify(lower(ruleset, options));
}
