/**
 * Fewer conditions and rules for the same traffic, chain by chain.
 *
 * Each step is sound by itself, by what the rules around it say; none knows what the chains are for. That all of them
 * together are sound is what test/ruleset/nftables.test.ts shows with packets.
 *
 * A pod's creator chooses the rules. Neighbours that differ in one field are joined in linear time, however many there are.
 * What is left is compared rule by rule, and the number of comparisons is bounded by the number of rules: rules that are
 * not cheaper by then stay as they are.
 */
import {
  type Box,
  boxOf,
  conditionsOf,
  DOMAIN,
  differing,
  disjoint,
  isEmpty,
  lies,
  meet,
  NONE,
  replace,
} from './box.ts';
import { Effects, remembered, type Step, sameTarget } from './effects.ts';
import { contains, difference, normal, union, type Values } from './intervals.ts';
import { FIELDS, type Field, type NftChain, type NftRule, type NftRuleset, type NftTable } from './model.ts';

const FAMILY_OF: Partial<Record<Field, bigint>> = {
  'ip saddr': 2n,
  'ip daddr': 2n,
  'ip6 saddr': 10n,
  'ip6 daddr': 10n,
};
/** Fields that rules change, so that what held at a jump may no longer hold. */
const STATEFUL: readonly Field[] = ['mark', 'ct mark', 'ct state'];

export interface Comparisons {
  /** For each chain. */
  chain: number;
  /** For each rule of a chain, in addition. */
  rule: number;
}

/** How many boxes are compared at most. */
const COMPARISONS: Comparisons = { chain: 20_000, rule: 8 };
/** Rules that one is compared with before it is said that another may pass it. */
const MOST_PASSED = 64;

/** Leaves no condition with `not` on skuid or skgid; throws where it finds no way to that. */
export function simplify({ families, tables, routes }: NftRuleset, comparisons = COMPARISONS): NftRuleset {
  const simple = tables.map((table) => simplifyTable(table, comparisons)).filter(({ chains }) => chains.length > 0);
  return { families, tables: simple, routes };
}

/** Chains that nothing reaches, or that do nothing, are left out. */
function simplifyTable({ name, chains }: NftTable, comparisons: Comparisons): NftTable {
  const plain = new Map(chains.map((chain) => [chain.name, chain.rules.map(stepOf)]));
  const simplified = new Map<string, Step[]>();
  const effects = new Effects(simplified);
  // What a jump does is what its chain does: that chain comes first.
  const visit = (chain: string) => {
    const steps = plain.get(chain);
    if (steps === undefined || simplified.has(chain)) return;
    for (const { target } of steps) if (target.kind === 'jump') visit(target.chain);
    const limit = comparisons.chain + comparisons.rule * steps.length;
    simplified.set(chain, new Simplifier(effects, arriving(chain, plain), limit).simplify(steps));
  };
  for (const chain of chains) if (chain.hook !== undefined) visit(chain.name);
  const rulesOf = (chain: NftChain) => (simplified.get(chain.name) ?? []).map(ruleOf);
  return {
    name,
    chains: chains.map((chain) => ({ ...chain, rules: rulesOf(chain) })).filter(({ rules }) => rules.length > 0),
  };
}

function stepOf({ conditions, counter, target }: NftRule): Step {
  return { box: boxOf(conditions), counter, target };
}

function ruleOf({ box, counter, target }: Step): NftRule {
  return { conditions: conditionsOf(box), counter, target };
}

/** A box around all packets that get to a chain: what each jump to it asks for. */
function arriving(chain: string, chains: ReadonlyMap<string, readonly Step[]>): Box {
  const jumps = [...chains].flatMap(([from, steps]) => {
    const here = steps.filter(({ target }) => target.kind === 'jump' && target.chain === chain);
    const before = here.length === 0 ? new Map() : arriving(from, chains);
    return here.map(({ box }) => meet(before, box));
  });
  const fields = [...(jumps[0]?.keys() ?? [])].filter(
    (field) => !STATEFUL.includes(field) && jumps.every((box) => box.has(field)),
  );
  return new Map(fields.map((field) => [field, normal(jumps.flatMap((box) => box.get(field) ?? []))]));
}

/** Of one chain. */
class Simplifier {
  readonly #effects: Effects;
  readonly #context: Box;
  /** Of `effects.comparisons`. */
  readonly #last: number;

  /** `context`: a box around all packets that get here; `limit`: how many comparisons it may take. */
  constructor(effects: Effects, context: Box, limit: number) {
    this.#effects = effects;
    this.#context = context;
    this.#last = effects.comparisons + limit;
  }

  simplify(plain: readonly Step[]): Step[] {
    let best = this.#ownersNamed(this.#improve(this.#joinRuns(plain)));
    const excepted = this.#improve(this.#withExceptions(best));
    if (cost(excepted) < cost(best)) best = excepted;
    return this.#lowerSets(best);
  }

  /**
   * A return that looks up a set goes down past the rules that it commutes with. A lookup costs a packet more than other
   * conditions do, and the proxy's own connections return before it.
   */
  #lowerSets(steps: readonly Step[]): Step[] {
    const lowered = [...steps];
    for (let from = steps.length - 1; from >= 0; from--) {
      const step = lowered[from] as Step;
      if (step.target.kind !== 'return' || ![...step.box.values()].some((values) => values.length > 1)) continue;
      let to = from;
      for (let at = from + 1; at < lowered.length && !this.#spent; at++) {
        const below = lowered[at] as Step;
        if (!this.#effects.commute(step, below)) break;
        to = at;
      }
      lowered.splice(from, 1);
      lowered.splice(to, 0, step);
    }
    return lowered;
  }

  /** Whether nothing more is to be compared. */
  get #spent(): boolean {
    return this.#effects.comparisons >= this.#last;
  }

  /** Neighbours of the same target may be in any order: of those that differ in one field one rule does the same. */
  #joinRuns(steps: readonly Step[]): Step[] {
    const joined: Step[] = [];
    for (let at = 0, end = 0; at < steps.length; at = end) {
      const begin = steps[at] as Step;
      while (end < steps.length && sameTarget(begin.target, (steps[end] as Step).target)) end++;
      const run = steps.slice(at, end);
      // Not so where one changes what the other looks at, be it in the chain that both jump to.
      const written = this.#effects.writes(begin);
      const mayJoin = run.every((step) => !this.#effects.reads(step).some((field) => written.includes(field)));
      joined.push(...(mayJoin ? joinAll(run) : run));
    }
    return joined;
  }

  #improve(steps: readonly Step[]): Step[] {
    let now = this.#tidy(steps);
    for (let before = Number.POSITIVE_INFINITY; cost(now) < before && !this.#spent; ) {
      before = cost(now);
      now = this.#tidy(this.#raiseReturns(now));
    }
    return now;
  }

  #tidy(steps: readonly Step[]): Step[] {
    // Families last: as long as they are told apart, the rules of one move past those of the other, to their twins.
    const twins = this.#merge(this.#relax(this.#merge(steps), ['nfproto']));
    return this.#prune(this.#merge(this.#relax(twins, [])));
  }

  /**
   * A rule may go up past those it commutes with; where it then stands beside one of the same target and both differ
   * in a single field, one rule with the values of both does the same.
   */
  #merge(steps: readonly Step[]): Step[] {
    const kept: Step[] = [];
    for (let step of steps) {
      let place = kept.length;
      for (let at = place - 1; at >= 0 && !this.#spent; at--) {
        const above = kept[at] as Step;
        if (!this.#effects.commute(above, step)) break;
        const joined = join(above, step);
        if (joined === undefined) continue;
        if (place < kept.length) kept.splice(place, 1);
        step = joined;
        place = at;
        kept[place] = step;
      }
      if (place === kept.length) kept.push(step);
    }
    return kept;
  }

  /**
   * A condition says nothing if the packets it keeps out never get here, or get to a rule of the same target anyway. A
   * rule is dead if the packets it lets in are such. `keep`: fields that stay conditions.
   */
  #relax(steps: readonly Step[], keep: readonly Field[]): Step[] {
    // What rules change may be other than it was where a rule above looked at it.
    const volatile = new Set(steps.flatMap((step) => this.#effects.writes(step)));
    const never: Box[] = [...this.#context].map(
      ([field, values]) => new Map([[field, difference(DOMAIN[field], values)]]),
    );
    const relaxed: Step[] = [];
    steps.forEach((step, at) => {
      // A return of all but some owners has to lose its other conditions: see #ownersNamed. There are few of them.
      if (this.#spent && unownedField(step.box) === undefined) {
        relaxed.push(step);
        return;
      }
      const elsewhere = [...never, ...this.#companions(step, steps, at + 1)];
      this.#effects.comparisons += elsewhere.length * (step.box.size + 1);
      let { box } = step;
      for (const field of [...box.keys()].reverse()) {
        const free = freeValues(box, field, elsewhere);
        if (contains(free, box.get(field) ?? DOMAIN[field])) return;
        if (keep.includes(field) || isNeeded(field, { ...step, box })) continue;
        if (contains(free, difference(DOMAIN[field], box.get(field) ?? []))) {
          box = replace(box, field, DOMAIN[field]);
        }
      }
      if (elsewhere.some((other) => lies(box, other))) return;
      const kept = { ...step, box };
      relaxed.push(kept);
      for (const end of this.#effects.ends(kept)) {
        if (![...end.keys()].some((field) => volatile.has(field))) never.push(end);
      }
    });
    return relaxed;
  }

  /** The rules from `begin` on of the same target that could as well be right above `step`. */
  #companions(step: Step, steps: readonly Step[], begin: number): Box[] {
    const passed = [step];
    const found: Box[] = [];
    const needed = unownedField(step.box) !== undefined;
    for (let at = begin; at < steps.length && passed.length <= MOST_PASSED; at++) {
      if (this.#spent && !needed) break;
      const other = steps[at] as Step;
      const movable = passed.every((above) => this.#effects.commute(above, other));
      if (movable && sameTarget(step.target, other.target)) found.push(other.box);
      else passed.push(other);
    }
    return found;
  }

  /**
   * What does nothing: jumps without effect, and returns of packets to which no later rule does anything. What would
   * change such a packet's mark on the way is a later rule too.
   */
  #prune(steps: readonly Step[]): Step[] {
    const acts: Box[] = [];
    const kept: Step[] = [];
    for (const step of steps.toReversed()) {
      const here = this.#effects.acts(step);
      const idle = step.target.kind === 'return' ? this.#isApart(step.box, acts) : here.length === 0;
      if (idle || isEmpty(step.box)) continue;
      kept.push(step);
      acts.push(...here);
    }
    return kept.reverse();
  }

  /** Whether no packet is in the box and in one of the others; false where finding out would be too much work. */
  #isApart(box: Box, others: readonly Box[]): boolean {
    if (this.#spent) return false;
    const at = others.findIndex((other) => !disjoint(other, box));
    this.#effects.comparisons += at === -1 ? others.length : at + 1;
    return at === -1;
  }

  /** Each return goes up past other rules as far as it commutes with what it passes: so those need not except it. */
  #raiseReturns(steps: readonly Step[]): Step[] {
    const raised: Step[] = [];
    for (const step of steps) {
      let place = raised.length;
      for (let at = place - 1; step.target.kind === 'return' && at >= 0 && !this.#spent; at--) {
        const above = raised[at] as Step;
        if (!this.#effects.commute(above, step)) break;
        if (above.target.kind !== 'return') place = at;
      }
      raised.splice(place, 0, step);
    }
    return raised;
  }

  /**
   * A return of all but some owners becomes a condition on these owners in each later rule, since the end of a chain
   * is a return too: nft has no condition that also holds for packets without an owner.
   */
  #ownersNamed(steps: readonly Step[]): Step[] {
    const at = steps.findIndex(({ target, box }) => target.kind === 'return' && unownedField(box) !== undefined);
    const [box, field] = [steps[at]?.box, unownedField(steps[at]?.box)];
    if (box === undefined || field === undefined) return [...steps];
    const family = box.get('nfproto');
    if (box.size > (family === undefined ? 1 : 2))
      throw new Error(`a return of all but some owners, with conditions besides: ${[...box.keys()].join(', ')}`);
    const owners: Box = new Map(box).set(field, difference(DOMAIN[field], box.get(field) ?? []));
    // A return in one family says nothing about the other.
    const others: Box[] = family === undefined ? [] : [new Map([['nfproto', difference(DOMAIN.nfproto, family)]])];
    const later = steps
      .slice(at + 1)
      .flatMap((step) =>
        step.target.kind === 'return'
          ? step
          : [owners, ...others].map((wide) => ({ ...step, box: meet(step.box, wide) })),
      );
    return this.#ownersNamed(this.#improve([...steps.slice(0, at), ...later]));
  }

  /** Returns first, for addresses that every rule excepts. It changes nothing, and spares them the condition. */
  #withExceptions(steps: readonly Step[]): Step[] {
    const acts = steps.flatMap((step) => this.#effects.acts(step));
    const exceptions: Step[] = [];
    for (const { box, counter } of steps) {
      for (const [field, values] of box) {
        const family = FAMILY_OF[field];
        if (family === undefined) continue;
        const others = difference(DOMAIN[field], values);
        if (others.length > values.length) continue;
        const excepted: Box = new Map([
          ['nfproto', [{ first: family, last: family }]],
          [field, others],
        ]);
        const known = exceptions.some((exception) => differing(exception.box, excepted).length === 0);
        if (known || !this.#isApart(excepted, acts)) continue;
        exceptions.push({ box: excepted, counter, target: { kind: 'return' } });
      }
    }
    return [...exceptions, ...steps];
  }
}

/** In linear time: for each field in turn, the rules that differ in no other become one. */
function joinAll(run: readonly Step[]): Step[] {
  const fields = new Set(run.flatMap(({ box }) => [...box.keys()]));
  let steps = [...run];
  for (const field of FIELDS.filter((each) => fields.has(each))) {
    if (steps.length === 1) break;
    const alike = Map.groupBy(steps, ({ box }) => textOf(box, field));
    steps = [...alike.values()].flatMap(([first, ...others]) => {
      if (first === undefined || others.length === 0) return first ?? [];
      const values = [first, ...others].flatMap(({ box }) => box.get(field) ?? DOMAIN[field]);
      return { ...first, box: replace(first.box, field, normal(values)) };
    });
  }
  return steps;
}

/** The same for boxes that differ in `but` alone. */
function textOf(box: Box, but: Field): string {
  let text = '';
  for (const [field, values] of box) if (field !== but) text += `${field} ${valuesText(values)};`;
  return text;
}

const texts = new WeakMap<Values, string>();

function valuesText(values: Values): string {
  return remembered(texts, values, () => values.map(({ first, last }) => `${first}-${last}`).join());
}

/** Undefined if no single box has the packets of both, and those only, or if the targets are not the same. */
function join(a: Step, b: Step): Step | undefined {
  if (!sameTarget(a.target, b.target)) return undefined;
  if (lies(a.box, b.box)) return b;
  if (lies(b.box, a.box)) return a;
  const [field, ...more] = differing(a.box, b.box);
  if (field === undefined || more.length > 0) return undefined;
  return { ...a, box: replace(a.box, field, union(a.box.get(field) ?? [], b.box.get(field) ?? [])) };
}

/** The values of a field with which packets, otherwise as in `box`, are all in one of `others`. */
function freeValues(box: Box, field: Field, others: readonly Box[]): Values {
  const free = others.filter((other) => other.has(field) && lies(box, other, field));
  return normal(free.flatMap((other) => other.get(field) ?? []));
}

/** nft asks for the protocol before it looks into its header, or changes what is there. */
function isNeeded(field: Field, { box, target }: Step): boolean {
  if (field === 'nfproto') return [...box.keys()].some((other) => FAMILY_OF[other] !== undefined);
  if (field !== 'l4proto') return false;
  return box.has('sport') || box.has('dport') || target.kind === 'redirect' || target.kind === 'tproxy';
}

/** A field of which "none" is among the values, and yet not all are. */
function unownedField(box: Box | undefined): Field | undefined {
  return [...(box ?? [])].find(([, values]) => contains(values, [{ first: NONE, last: NONE }]))?.[0];
}

/** Two expressions a condition; a counter and a verdict a rule. */
function cost(steps: readonly Step[]): number {
  return steps.reduce((sum, { box }) => sum + 2 * box.size + 2, 0);
}
