/**
 * Fewer conditions and rules for the same traffic, chain by chain.
 *
 * Each step is sound by itself, by what the rules around it say; none knows what the chains are for. That all of them
 * together are sound is what test/ruleset/nftables.test.ts shows with packets.
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
import { Effects, type Step, sameTarget } from './effects.ts';
import { contains, difference, normal, union, type Values } from './intervals.ts';
import type { Field, NftChain, NftRule, NftRuleset, NftTable } from './model.ts';

const FAMILY_OF: Partial<Record<Field, bigint>> = {
  'ip saddr': 2n,
  'ip daddr': 2n,
  'ip6 saddr': 10n,
  'ip6 daddr': 10n,
};
/** Fields that rules change, so that what held at a jump may no longer hold. */
const STATEFUL: readonly Field[] = ['mark', 'ct mark', 'ct state'];

/** Leaves no condition with `not` on skuid or skgid; throws where it finds no way to that. */
export function simplify({ families, tables, routes }: NftRuleset): NftRuleset {
  return { families, tables: tables.map(simplifyTable).filter(({ chains }) => chains.length > 0), routes };
}

/** Chains that nothing reaches, or that do nothing, are left out. */
function simplifyTable({ name, chains }: NftTable): NftTable {
  const plain = new Map(chains.map((chain) => [chain.name, chain.rules.map(stepOf)]));
  const simplified = new Map<string, Step[]>();
  const effects = new Effects(simplified);
  // What a jump does is what its chain does: that chain comes first.
  const visit = (chain: string) => {
    const steps = plain.get(chain);
    if (steps === undefined || simplified.has(chain)) return;
    for (const { target } of steps) if (target.kind === 'jump') visit(target.chain);
    simplified.set(chain, new Simplifier(effects, arriving(chain, plain)).simplify(steps));
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

  /** `context`: a box around all packets that get here. */
  constructor(effects: Effects, context: Box) {
    this.#effects = effects;
    this.#context = context;
  }

  simplify(plain: readonly Step[]): Step[] {
    let best = this.#ownersNamed(this.#improve(plain));
    const excepted = this.#improve(this.#withExceptions(best));
    if (cost(excepted) < cost(best)) best = excepted;
    return best;
  }

  #improve(steps: readonly Step[]): Step[] {
    let now = this.#tidy(steps);
    for (let before = Number.POSITIVE_INFINITY; cost(now) < before; ) {
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
      for (let at = place - 1; at >= 0; at--) {
        const above = kept[at] as Step;
        const joined = this.#effects.commute(above, step) ? join(above, step) : undefined;
        if (joined !== undefined) {
          if (place < kept.length) kept.splice(place, 1);
          step = joined;
          place = at;
          kept[place] = step;
        } else if (!this.#effects.commute(above, step)) break;
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
      const elsewhere = [...never, ...this.#companions(step, steps.slice(at + 1))];
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

  /** The rules below of the same target that could as well stand right above `step`. */
  #companions(step: Step, below: readonly Step[]): Box[] {
    const passed = [step];
    const found: Box[] = [];
    for (const other of below) {
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
      const idle = step.target.kind === 'return' ? acts.every((act) => disjoint(act, step.box)) : here.length === 0;
      if (idle || isEmpty(step.box)) continue;
      kept.push(step);
      acts.push(...here);
    }
    return kept.reverse();
  }

  /** Each return goes up past other rules as far as it commutes with what it passes: so those need not except it. */
  #raiseReturns(steps: readonly Step[]): Step[] {
    const raised: Step[] = [];
    for (const step of steps) {
      let place = raised.length;
      for (let at = place - 1; step.target.kind === 'return' && at >= 0; at--) {
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
    if (box.size > 1)
      throw new Error(`a return of all but some owners, with conditions besides: ${[...box.keys()].join(', ')}`);
    const owners: Box = new Map([[field, difference(DOMAIN[field], box.get(field) ?? [])]]);
    const later = steps
      .slice(at + 1)
      .map((step) => (step.target.kind === 'return' ? step : { ...step, box: meet(step.box, owners) }));
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
        if (known || !acts.every((act) => disjoint(act, excepted))) continue;
        exceptions.push({ box: excepted, counter, target: { kind: 'return' } });
      }
    }
    return [...exceptions, ...steps];
  }
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
