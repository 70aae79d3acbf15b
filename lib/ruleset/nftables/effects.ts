/** What rules do to packets, jumps followed. */
import type { Target } from '../model.ts';
import { type Box, disjoint, isEmpty, meet } from './box.ts';
import type { Field } from './model.ts';

/** A rule whose conditions are a box. It never changes: a changed rule is another one. */
export interface Step {
  box: Box;
  counter: boolean;
  target: Target;
}

/** Of which fields a target changes the value for the rules after it; after `tproxy` there are none. */
const WRITES: Partial<Record<Target['kind'], readonly Field[]>> = {
  'set-mark': ['mark'],
  'restore-mark': ['mark'],
  'save-mark': ['ct mark'],
  'ct-zone': ['ct mark', 'ct state'],
};
const READS: Partial<Record<Target['kind'], readonly Field[]>> = { 'save-mark': ['mark'], 'restore-mark': ['ct mark'] };

/** A jump with more places where something happens is not compared with others place by place. */
const MOST_ACTS = 64;

/** Of a table. A chain is asked for only once it is in `chains`, and is not changed after that. */
export class Effects {
  /** Of boxes, so far: whoever makes rules cheaper gives up after so many. */
  comparisons = 0;
  readonly #chains: ReadonlyMap<string, readonly Step[]>;
  readonly #acts = new WeakMap<Step, readonly Box[]>();
  readonly #ends = new WeakMap<Step, readonly Box[]>();
  /** By chain. */
  readonly #written = new Map<string, readonly Field[]>();
  readonly #read = new Map<string, readonly Field[]>();

  constructor(chains: ReadonlyMap<string, readonly Step[]>) {
    this.#chains = chains;
  }

  /** Where something happens to a packet other than that it returns. */
  acts(step: Step): readonly Box[] {
    return remembered(this.#acts, step, ({ box, target }) => {
      if (target.kind === 'return') return [];
      if (target.kind !== 'jump') return [box];
      const acts = this.#chain(target.chain).flatMap((inner) => this.acts(inner));
      return acts.map((act) => meet(box, act)).filter((act) => !isEmpty(act));
    });
  }

  /** Packets that never get to the next rule. */
  ends(step: Step): readonly Box[] {
    return remembered(this.#ends, step, ({ box, target }) => {
      switch (target.kind) {
        case 'accept':
        case 'drop':
        case 'return':
        case 'redirect':
          return [box];
        case 'jump': {
          const steps = this.#chain(target.chain);
          const returning = steps.findIndex((inner) => inner.target.kind === 'return');
          const certain = returning === -1 ? steps : steps.slice(0, returning);
          return certain.flatMap((inner) => this.ends(inner)).map((end) => meet(box, end));
        }
        default:
          return [];
      }
    });
  }

  writes({ target }: Step): readonly Field[] {
    if (target.kind !== 'jump') return WRITES[target.kind] ?? [];
    const { chain } = target;
    return remembered(this.#written, chain, () => distinct(this.#chain(chain).flatMap((step) => this.writes(step))));
  }

  reads({ box, target }: Step): Field[] {
    const fields = [...box.keys(), ...(READS[target.kind] ?? [])];
    if (target.kind !== 'jump') return fields;
    const { chain } = target;
    const inner = remembered(this.#read, chain, () => distinct(this.#chain(chain).flatMap((step) => this.reads(step))));
    return [...fields, ...inner];
  }

  /** Whether two rules that follow one another may change places; false where finding out would be work. */
  commute(a: Step, b: Step): boolean {
    this.comparisons++;
    if (this.#changesFor(a, b) || this.#changesFor(b, a)) return false;
    if (sameTarget(a.target, b.target)) return true;
    const [these, those] = [this.#touched(a), this.#touched(b)];
    if (these.length > MOST_ACTS || those.length > MOST_ACTS) return false;
    this.comparisons += these.length * those.length;
    return these.every((one) => those.every((other) => disjoint(one, other)));
  }

  /** Whether what one of the rules does to a packet changes what the other one sees. */
  #changesFor(writer: Step, reader: Step): boolean {
    const written = this.writes(writer);
    return written.length > 0 && this.reads(reader).some((field) => written.includes(field));
  }

  #touched(step: Step): readonly Box[] {
    return step.target.kind === 'return' ? [step.box] : this.acts(step);
  }

  #chain(name: string): readonly Step[] {
    return this.#chains.get(name) ?? [];
  }
}

/** What was made for the key, or what `make` makes of it now. */
export function remembered<K, V>(
  made: { get(key: K): V | undefined; set(key: K, value: V): unknown },
  key: K,
  make: (key: K) => V,
): V {
  const known = made.get(key);
  if (known !== undefined) return known;
  const value = make(key);
  made.set(key, value);
  return value;
}

function distinct(fields: readonly Field[]): readonly Field[] {
  return [...new Set(fields)];
}

export function sameTarget(a: Target, b: Target): boolean {
  return a === b || textOf(a) === textOf(b);
}

const texts = new WeakMap<Target, string>();

/** The same for targets that do the same. */
function textOf(target: Target): string {
  return remembered(texts, target, JSON.stringify);
}
