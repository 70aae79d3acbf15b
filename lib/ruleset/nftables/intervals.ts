/** Sets of numbers, as sorted intervals that neither overlap nor touch. */
import type { Interval } from './model.ts';

export type Values = readonly Interval[];

/** Of intervals in any order. */
export function normal(intervals: Values): Values {
  const sorted = intervals.toSorted((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : 0));
  const joined: Interval[] = [];
  for (const { first, last } of sorted) {
    const before = joined.at(-1);
    if (before === undefined || first > before.last + 1n) joined.push({ first, last });
    else if (last > before.last) before.last = last;
  }
  return joined;
}

export function union(a: Values, b: Values): Values {
  const joined: Interval[] = [];
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    const [one, other] = [a[i], b[j]];
    const next = other === undefined || (one !== undefined && one.first < other.first) ? one : other;
    if (next === one) i++;
    else j++;
    const before = joined.at(-1);
    if (next === undefined) continue;
    if (before === undefined || next.first > before.last + 1n) joined.push({ ...next });
    else if (next.last > before.last) before.last = next.last;
  }
  return joined;
}

export function intersection(a: Values, b: Values): Values {
  const common: Interval[] = [];
  for (let i = 0, j = 0; ; ) {
    const [one, other] = [a[i], b[j]];
    if (one === undefined || other === undefined) return common;
    const { first } = one.first < other.first ? other : one;
    const { last } = one.last < other.last ? one : other;
    if (first <= last) common.push({ first, last });
    if (one.last < other.last) i++;
    else j++;
  }
}

export function difference(a: Values, b: Values): Values {
  const left: Interval[] = [];
  const common = intersection(a, b);
  let next = 0;
  for (const { first, last } of a) {
    let from = first;
    for (let gone = common[next]; gone !== undefined && gone.last <= last; gone = common[++next]) {
      if (gone.first > from) left.push({ first: from, last: gone.first - 1n });
      from = gone.last + 1n;
    }
    if (from <= last) left.push({ first: from, last });
  }
  return left;
}

export function contains(outer: Values, inner: Values): boolean {
  return inner.every(({ first, last }) => {
    const around = outer[endingFrom(outer, first)];
    return around !== undefined && around.first <= first && last <= around.last;
  });
}

/** Whether a value is in both. */
export function overlap(a: Values, b: Values): boolean {
  const [few, many] = a.length < b.length ? [a, b] : [b, a];
  return few.some(({ first, last }) => {
    const next = many[endingFrom(many, first)];
    return next !== undefined && next.first <= last;
  });
}

/** Where the first interval is that does not end before `value`; the length if there is none. */
function endingFrom(values: Values, value: bigint): number {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((values[middle] as Interval).last < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

export function equal(a: Values, b: Values): boolean {
  return a.length === b.length && a.every(({ first, last }, at) => b[at]?.first === first && b[at]?.last === last);
}
