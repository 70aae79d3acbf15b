/**
 * The packets that a rule's conditions leave, as a box: a set of values for each field that matters, any value for the
 * others. Without `not`, so that one box lies in another, or beside it, where a single field says so.
 */
import { contains, difference, equal, intersection, overlap, type Values } from './intervals.ts';
import { type Condition, FIELDS, type Field } from './model.ts';

export type Box = ReadonlyMap<Field, Values>;

/** What a packet has that has no such thing: the owner of no socket, the mark of no connection. */
export const NONE = -1n;

const upTo = (bits: bigint, first = 0n): Values => [{ first, last: (1n << bits) - 1n }];
const value = (at: bigint) => ({ first: at, last: at });

/** All values of a field. */
export const DOMAIN: Readonly<Record<Field, Values>> = {
  iifname: upTo(128n),
  oifname: upTo(128n),
  nfproto: [value(2n), value(10n)],
  'ip saddr': upTo(32n),
  'ip daddr': upTo(32n),
  'ip6 saddr': upTo(128n),
  'ip6 daddr': upTo(128n),
  l4proto: upTo(8n),
  sport: upTo(16n),
  dport: upTo(16n),
  skuid: upTo(32n, NONE),
  skgid: upTo(32n, NONE),
  mark: upTo(32n),
  'ct mark': upTo(32n, NONE),
  'ct state': upTo(32n),
};

/** Fields whose values are names rather than places in a row: a range of them would say nothing. */
const NAMES: ReadonlySet<Field> = new Set([
  'iifname',
  'oifname',
  'nfproto',
  'l4proto',
  'skuid',
  'skgid',
  'mark',
  'ct mark',
  'ct state',
]);

/** Elements that a set of ports may have beyond one for each range. */
const MOST_ADDED_PORTS = 16;

/** `not` of an owner holds for packets without one, as xtables has it; of a connection's mark it does not. */
export function boxOf(conditions: readonly Condition[]): Box {
  const box = new Map<Field, Values>();
  for (const { field, not, values } of conditions) {
    const all = field === 'ct mark' ? upTo(32n) : DOMAIN[field];
    const these = not ? difference(all, values) : values;
    box.set(field, intersection(box.get(field) ?? DOMAIN[field], these));
  }
  return box;
}

/** Throws if nft cannot say it: owners and "none" in one condition. */
export function conditionsOf(box: Box): Condition[] {
  return FIELDS.flatMap((field) => {
    const values = box.get(field);
    if (values === undefined) return [];
    if (contains(values, [value(NONE)]))
      throw new Error(`nft has no condition on ${field} that holds where there is none`);
    const others = difference(DOMAIN[field], [...(DOMAIN[field][0]?.first === NONE ? [value(NONE)] : []), ...values]);
    const not = others.length > 0 && size(field, others) < size(field, values);
    return [{ field, not, values: others.length === 0 ? [...values] : listed(field, not ? others : values) }];
  });
}

/** How many values a condition would list. */
function size(field: Field, values: Values): bigint {
  if (!NAMES.has(field)) return BigInt(values.length);
  return values.reduce((sum, { first, last }) => sum + last - first + 1n, 0n);
}

/**
 * Whether a set lists each port of its ranges. The kernel finds single values by a hash or a bitmap
 * (net/netfilter/nft_set_hash.c, nft_set_bitmap.c), and ranges by a walk down a tree, which takes each connection longer.
 */
function isListed(field: Field, values: Values): boolean {
  if ((field !== 'sport' && field !== 'dport') || values.length < 2) return false;
  const ports = values.reduce((sum, { first, last }) => sum + last - first + 1n, 0n);
  return ports <= BigInt(values.length + MOST_ADDED_PORTS);
}

function listed(field: Field, values: Values): Condition['values'] {
  if (!NAMES.has(field) && !isListed(field, values)) return [...values];
  return values.flatMap(({ first, last }) =>
    Array.from({ length: Number(last - first) + 1 }, (_, at) => value(first + BigInt(at))),
  );
}

/** `but`: a field that is not looked at. */
export function lies(inner: Box, outer: Box, but?: Field): boolean {
  for (const [field, values] of outer) {
    if (field !== but && !contains(values, inner.get(field) ?? DOMAIN[field])) return false;
  }
  return true;
}

/** No packet is in both. */
export function disjoint(a: Box, b: Box): boolean {
  for (const [field, values] of a) {
    const others = b.get(field);
    if (others !== undefined && !overlap(values, others)) return true;
  }
  return false;
}

/** The packets of both. */
export function meet(a: Box, b: Box): Box {
  const box = new Map(a);
  for (const [field, values] of b) box.set(field, intersection(box.get(field) ?? DOMAIN[field], values));
  return inOrder(box);
}

export function isEmpty(box: Box): boolean {
  return [...box.values()].some((values) => values.length === 0);
}

/** `box` with other values of one field; with all values the field no longer matters. */
export function replace(box: Box, field: Field, values: Values): Box {
  const changed = new Map(box);
  if (equal(values, DOMAIN[field])) changed.delete(field);
  else changed.set(field, values);
  return inOrder(changed);
}

/** The fields in which two boxes differ. */
export function differing(a: Box, b: Box): Field[] {
  return FIELDS.filter((field) => {
    const [these = DOMAIN[field], those = DOMAIN[field]] = [a.get(field), b.get(field)];
    return !equal(these, those);
  });
}

function inOrder(box: ReadonlyMap<Field, Values>): Box {
  return new Map(
    FIELDS.flatMap((field) => {
      const values = box.get(field);
      return values === undefined ? [] : [[field, values]];
    }),
  );
}
