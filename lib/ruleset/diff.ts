/** The difference between the planned and the installed rules, in the syntax of iptables-save or of nft. */

import type { ActualTable, Drift } from './actual.ts';
import type { Form } from './form.ts';
import { chainLine, ruleText } from './iptables.ts';
import type { Chain, Family, Rule, Ruleset, TableName } from './model.ts';
import type { ActualNftTable, NftTable } from './nftables/model.ts';
import { nftChainHead, nftRuleText, nftTableName } from './nftables/text.ts';

/** A table or the routes. Its `lines` begin with ' ' (as planned), '-' (missing) or '+' (surplus). */
export interface DiffSection {
  /** The table is one of iptables-nft. */
  nft?: true;
  family?: Family | 'inet';
  table?: TableName;
  lines: string[];
}

/**
 * With more pairs of lines than this, a chain is not aligned, but shown as completely missing and completely surplus.
 */
const MAX_PAIRS = 4_000_000;

const NOTHING: Pick<Ruleset, 'families' | 'tables'> = { families: [], tables: [] };

/**
 * Empty if `verified` found no drift. A section without '-' and '+' differs in details that its text does not show.
 * `maxPairs` bounds the time for each chain.
 */
export function diff(expected: Form, verified: Drift, maxPairs = MAX_PAIRS): DiffSection[] {
  const legacy = expected.backend === 'iptables-legacy' ? expected.ruleset : NOTHING;
  const nftables = expected.backend === 'nftables' ? expected.ruleset.tables : [];
  const sections: DiffSection[] = [
    ...verified.legacy.map((actual) => ({
      family: actual.family,
      table: actual.table,
      lines: tableDiff(legacy, actual, maxPairs),
    })),
    ...verified.iptablesNft.map((actual) => ({
      nft: true as const,
      family: actual.family,
      table: actual.table,
      lines: tableDiff(NOTHING, actual, maxPairs),
    })),
    ...verified.nftables.map((actual) => {
      const wanted = nftables.find(({ name }) => name === actual.table);
      return { family: 'inet' as const, table: actual.table, lines: nftTableDiff(wanted, actual, maxPairs) };
    }),
  ];
  const { missing, surplus } = verified.routes;
  if (missing.length + surplus.length > 0) {
    sections.push({ lines: [...missing.map((line) => `-ip ${line}`), ...surplus.map((line) => `+ip ${line}`)] });
  }
  return sections;
}

/** `# IPv4 nat`, `# IPv4 nat of iptables-nft`, `# table inet istio-proxy-nat`, `# routes`. */
export function heading({ nft, family, table }: DiffSection): string {
  if (table === undefined) return '# routes';
  if (family === 'inet') return `# table ${nftTableName(table)}`;
  return `# IPv${family} ${table}${nft ? ' of iptables-nft' : ''}`;
}

/** The chains of a table, one after the other with their braces, as `nft list` prints them. */
function nftTableDiff(wanted: NftTable | undefined, actual: ActualNftTable, maxPairs: number): string[] {
  const before = wanted?.chains ?? [];
  const names = new Set([...before, ...actual.chains].map(({ name }) => name));
  const surplus = wanted === undefined ? [`+table ${nftTableName(actual.table)}`] : [];
  const chains = [...names].flatMap((name) => {
    const lines = (chain: ActualNftTable['chains'][number] | undefined) =>
      chain === undefined ? [] : [...nftChainHead(chain), ...chain.rules.map((rule) => `  ${nftRuleText(rule)}`), '}'];
    const [was, is] = [before, actual.chains].map((chains) => lines(chains.find((chain) => chain.name === name)));
    return align(was ?? [], is ?? [], maxPairs);
  });
  return [...surplus, ...chains];
}

function tableDiff(expected: Pick<Ruleset, 'families' | 'tables'>, actual: ActualTable, maxPairs: number): string[] {
  const { family } = actual;
  const wanted = expected.families.includes(family)
    ? (expected.tables.find(({ name }) => name === actual.table)?.chains ?? [])
    : [];
  const names = new Set([...wanted, ...actual.chains].map(({ name }) => name));
  const chains = [...names].map((name) => ({
    name,
    before: wanted.find((chain) => chain.name === name),
    after: actual.chains.find((chain) => chain.name === name),
  }));
  return [
    ...chains.flatMap(({ name, before, after }) => {
      if ((before ?? after)?.builtin === true) return [];
      return [`${after === undefined ? '-' : before === undefined ? '+' : ' '}${chainLine(name)}`];
    }),
    ...chains.flatMap(({ name, before, after }) => {
      const text = (rule: Rule | ActualTable['chains'][number]['rules'][number]) =>
        `-A ${name} ${ruleText(rule, family)}`;
      return align(rulesOf(before, family).map(text), (after?.rules ?? []).map(text), maxPairs);
    }),
  ];
}

function rulesOf(chain: Chain | undefined, family: Family): Rule[] {
  const rules = chain === undefined ? [] : [...chain.inserts, ...chain.rules];
  return rules.filter((rule) => rule.family === undefined || rule.family === family);
}

/** Aligns two lists by their longest common subsequence. A line that moved is shown as missing and as surplus. */
function align(before: string[], after: string[], maxPairs: number): string[] {
  if (before.length * after.length > maxPairs) {
    return [...before.map((line) => `-${line}`), ...after.map((line) => `+${line}`)];
  }
  const width = after.length + 1;
  const common = new Uint32Array((before.length + 1) * width);
  const at = (i: number, j: number) => common[i * width + j] ?? 0;
  for (let i = before.length - 1; i >= 0; i--) {
    for (let j = after.length - 1; j >= 0; j--) {
      common[i * width + j] = before[i] === after[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
    }
  }
  const lines: string[] = [];
  let i = 0;
  let j = 0;
  while (i < before.length || j < after.length) {
    if (i < before.length && before[i] === after[j]) {
      lines.push(` ${before[i++]}`);
      j++;
    } else if (j >= after.length || (i < before.length && at(i + 1, j) >= at(i, j + 1))) {
      lines.push(`-${before[i++]}`);
    } else {
      lines.push(`+${after[j++]}`);
    }
  }
  return lines;
}
