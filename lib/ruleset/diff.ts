/** What differs between a Ruleset and what the kernel holds, in iptables-save syntax. */
import type { ActualTable, VerifyResult } from '../native.ts';
import { chainLine, ruleText } from './iptables.ts';
import type { Chain, Family, Rule, Ruleset, TableName } from './model.ts';

/** A table or the routes; `lines` begin with ' ' (stands as it should), '-' (missing) or '+' (surplus). */
export interface DiffSection {
  family?: Family;
  table?: TableName;
  lines: string[];
}

/** Above this many pairs of lines a chain is shown as all missing and all surplus rather than aligned. */
const MAX_PAIRS = 4_000_000;

/** Empty if `verified` found no drift. A section without '-' and '+' differs in what its text does not show. */
export function diff(expected: Ruleset, verified: Pick<VerifyResult, 'tables' | 'routes'>): DiffSection[] {
  const sections: DiffSection[] = verified.tables.map((actual) => ({
    family: actual.family,
    table: actual.table,
    lines: tableDiff(expected, actual),
  }));
  const { missing, surplus } = verified.routes;
  if (missing.length + surplus.length > 0) {
    sections.push({ lines: [...missing.map((line) => `-ip ${line}`), ...surplus.map((line) => `+ip ${line}`)] });
  }
  return sections;
}

/** `# IPv4 nat`, `# routes`. */
export function heading({ family, table }: DiffSection): string {
  return table === undefined ? '# routes' : `# IPv${family} ${table}`;
}

function tableDiff(expected: Ruleset, actual: ActualTable): string[] {
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
      return align(rulesOf(before, family).map(text), (after?.rules ?? []).map(text));
    }),
  ];
}

function rulesOf(chain: Chain | undefined, family: Family): Rule[] {
  const rules = chain === undefined ? [] : [...chain.inserts, ...chain.rules];
  return rules.filter((rule) => rule.family === undefined || rule.family === family);
}

/** The longest common subsequence keeps its place; of two that moved, one shows as missing and as surplus. */
function align(before: string[], after: string[]): string[] {
  if (before.length * after.length > MAX_PAIRS) {
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
