/** What the controller reads of one pod, made by hand. */
import type { PodRules } from '../../lib/observe/rules.ts';
import { formOf } from '../../lib/ruleset/form.ts';
import { rulesetOf } from './command-line.ts';

const VERIFIED = { ok: true, ahead: [], doubts: [], legacy: [], iptablesNft: [], nftables: [] };
const ROUTES = { missing: [], surplus: [] };
/** A pod whose plan has no rule that `lines` has in its table nat. */
export function podRules(name: string, lines: readonly string[]): PodRules {
  const form = formOf(rulesetOf([]), 'nftables', { counters: false });
  const surplus = { table: 'nat' as const, chains: [{ name: 'x', rules: lines.map((opaque) => ({ opaque })) }] };
  const nftables = lines.length === 0 ? [] : [surplus];
  const verified = { ...VERIFIED, ok: lines.length === 0, nftables, routes: ROUTES } as unknown as PodRules['verified'];
  return { namespace: 'shop', name, form, verified };
}
