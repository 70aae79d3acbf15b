/** Collects rules in the order in which Istio writes them, and sorts them into a Ruleset. */
import {
  type Chain,
  type Cidr,
  type Family,
  type Match,
  OUR_CHAINS,
  type PortRange,
  type Routes,
  RULE_COMMENT,
  type Rule,
  type Ruleset,
  type Table,
  type TableName,
  type Target,
} from './model.ts';

/** An incomplete rule: fields that are left out are absent, and `matches` is empty. */
export type Draft = Omit<Rule, 'matches'> & { matches?: Match[] };

type Builtin = 'PREROUTING' | 'OUTPUT';
type Ours = (typeof OUR_CHAINS)[number];

const TABLES: readonly TableName[] = ['raw', 'mangle', 'nat'];
const BUILTINS: readonly string[] = ['PREROUTING', 'OUTPUT'] satisfies Builtin[];

interface Collected {
  /** Groups of rules for the top of the chain, the last one topmost. */
  top: Rule[][];
  rules: Rule[];
}

export class RulesetBuilder {
  readonly #families: readonly Family[];
  readonly #tables = new Map<TableName, Map<string, Collected>>();

  constructor(families: readonly Family[]) {
    this.#families = families;
  }

  /** Appends rules like `-A`. Drafts of other families are ignored. */
  append(table: TableName, chain: Builtin | Ours, ...drafts: Draft[]): void {
    const rules = this.#rulesOf(chain, drafts);
    if (rules.length > 0) this.#chain(table, chain).rules.push(...rules);
  }

  /** Inserts rules at the top like `-I CHAIN 1`, and keeps the order of `drafts`. */
  prepend(table: TableName, chain: Builtin | Ours, ...drafts: Draft[]): void {
    const rules = this.#rulesOf(chain, drafts);
    if (rules.length > 0) this.#chain(table, chain).top.push(rules);
  }

  build(routes: Routes): Ruleset {
    const tables: Table[] = [];
    for (const name of TABLES) {
      const chains = this.#tables.get(name);
      if (chains !== undefined) tables.push({ name, chains: [...chains].map(chain).sort(byPlace) });
    }
    return { families: [...this.#families], tables, routes };
  }

  #rulesOf(chain: string, drafts: Draft[]): Rule[] {
    return drafts
      .filter(({ family }) => family === undefined || this.#families.includes(family))
      .map((draft) => complete(chain, draft));
  }

  #chain(table: TableName, chain: string): Collected {
    const chains = this.#tables.get(table) ?? new Map<string, Collected>();
    this.#tables.set(table, chains);
    const found = chains.get(chain) ?? { top: [], rules: [] };
    chains.set(chain, found);
    return found;
  }
}

/** Joins two rulesets of different families. A packet meets the rules of one family only, and their order stays. */
export function join(...rulesets: [Ruleset, Ruleset]): Ruleset {
  const tables = TABLES.flatMap((name): Table[] => {
    const chains = new Map<string, Chain>();
    for (const { families, tables } of rulesets) {
      for (const chain of tables.find((table) => table.name === name)?.chains ?? []) {
        const known = chains.get(chain.name) ?? { ...chain, inserts: [], rules: [] };
        const inserts = merge(
          known.inserts,
          chain.inserts.flatMap((rule) => inFamilies(rule, families)),
        );
        const rules = merge(
          known.rules,
          chain.rules.flatMap((rule) => inFamilies(rule, families)),
        );
        chains.set(chain.name, { ...known, inserts, rules });
      }
    }
    return chains.size === 0 ? [] : [{ name, chains: [...chains.values()].sort(byPlace) }];
  });
  const [one, other] = rulesets;
  const loopback6 = one.routes.loopback6 || other.routes.loopback6;
  const families = [...one.families, ...other.families].toSorted();
  return { families, tables, routes: { ...other.routes, ...one.routes, loopback6 } };
}

/** Merges two lists and keeps the order of each. Rules that differ only in their family become one if the order allows it. */
function merge(rules: readonly Rule[], others: readonly Rule[]): Rule[] {
  const merged: Rule[] = [];
  const texts = others.map((rule) => JSON.stringify({ ...rule, family: 0 }));
  let next = 0;
  for (const rule of rules) {
    const twin = texts.indexOf(JSON.stringify({ ...rule, family: 0 }), next);
    if (twin < 0) {
      merged.push(rule);
      continue;
    }
    const { family: _, ...both } = rule;
    merged.push(...others.slice(next, twin), both);
    next = twin + 1;
  }
  return [...merged, ...others.slice(next)];
}

function inFamilies(rule: Rule, families: readonly Family[]): Rule[] {
  return rule.family === undefined ? families.map((family) => ({ ...rule, family })) : [rule];
}

/** Adds our comment to a rule in a builtin chain that does not jump to our chain, so that it is recognised as ours. */
function complete(chain: string, draft: Draft): Rule {
  const matches = [...(draft.matches ?? [])];
  const ours = draft.target.kind === 'jump' && (OUR_CHAINS as readonly string[]).includes(draft.target.chain);
  if (isBuiltin(chain) && !ours) matches.push({ kind: 'comment', text: RULE_COMMENT });
  return { ...draft, matches };
}

function chain([name, { top: groups, rules }]: [string, Collected]): Chain {
  const top = groups.toReversed().flat();
  return isBuiltin(name)
    ? { name, builtin: true, inserts: top, rules }
    : { name, builtin: false, inserts: [], rules: [...top, ...rules] };
}

/** Sorts the chains of a table: the kernel's come first, in its order, then ours by name, as libiptc keeps them. */
export function byPlace(a: Chain, b: Chain): number {
  const place = ({ name, builtin }: Chain) => (builtin ? BUILTINS.indexOf(name) : BUILTINS.length);
  return place(a) - place(b) || (a.name < b.name ? -1 : 1);
}

function isBuiltin(name: string): boolean {
  return BUILTINS.includes(name);
}

export const toPort = (port: number | PortRange, not = false): Match => ({
  kind: 'port',
  side: 'destination',
  range: range(port),
  not,
});

export const fromPort = (port: number): Match => ({ kind: 'port', side: 'source', range: range(port), not: false });

function range(port: number | PortRange): PortRange {
  return typeof port === 'number' ? { first: port, last: port } : port;
}

export const jump = (chain: Ours): Target => ({ kind: 'jump', chain });
export const RETURN: Target = { kind: 'return' };

export const is = (cidr: Cidr) => ({ cidr, not: false });
export const isNot = (cidr: Cidr) => ({ cidr, not: true });
