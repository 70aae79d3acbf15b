/** What rules do to packets, jumps followed. */
import type { Target } from '../model.ts';
import { type Box, disjoint, isEmpty, meet } from './box.ts';
import type { Field } from './model.ts';

/** A rule whose conditions are a box. */
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

/** Of a table. A chain is asked for only once it is in `chains`. */
export class Effects {
  readonly #chains: ReadonlyMap<string, readonly Step[]>;

  constructor(chains: ReadonlyMap<string, readonly Step[]>) {
    this.#chains = chains;
  }

  /** Where something happens to a packet other than that it returns. */
  acts({ box, target }: Step): Box[] {
    if (target.kind === 'return') return [];
    if (target.kind !== 'jump') return [box];
    const acts = (this.#chains.get(target.chain) ?? []).flatMap((step) => this.acts(step));
    return acts.map((act) => meet(box, act)).filter((act) => !isEmpty(act));
  }

  /** Packets that never get to the next rule. */
  ends({ box, target }: Step): Box[] {
    switch (target.kind) {
      case 'accept':
      case 'drop':
      case 'return':
      case 'redirect':
        return [box];
      case 'jump': {
        const steps = this.#chains.get(target.chain) ?? [];
        const returning = steps.findIndex((step) => step.target.kind === 'return');
        const certain = returning === -1 ? steps : steps.slice(0, returning);
        return certain.flatMap((step) => this.ends(step)).map((end) => meet(box, end));
      }
      default:
        return [];
    }
  }

  writes({ target }: Step): Field[] {
    if (target.kind !== 'jump') return [...(WRITES[target.kind] ?? [])];
    return (this.#chains.get(target.chain) ?? []).flatMap((step) => this.writes(step));
  }

  reads({ box, target }: Step): Field[] {
    const fields = [...box.keys(), ...(READS[target.kind] ?? [])];
    if (target.kind !== 'jump') return fields;
    return [...fields, ...(this.#chains.get(target.chain) ?? []).flatMap((step) => this.reads(step))];
  }

  /** Whether two rules that follow one another may change places. */
  commute(a: Step, b: Step): boolean {
    if (this.#changesFor(a, b) || this.#changesFor(b, a)) return false;
    if (sameTarget(a.target, b.target)) return true;
    const [these, those] = [a, b].map((step) => (step.target.kind === 'return' ? [step.box] : this.acts(step)));
    return these?.every((one) => those?.every((other) => disjoint(one, other))) ?? false;
  }

  #changesFor(writer: Step, reader: Step): boolean {
    const written = this.writes(writer);
    return written.length > 0 && this.reads(reader).some((field) => written.includes(field));
  }
}

export function sameTarget(a: Target, b: Target): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
