/**
 * Long lists of ports and CIDRs as trees of chains, for iptables.
 *
 * The kernel evaluates the rules of iptables one by one, so each new connection pays for each entry of a list. A list that
 * is longer than SHAPE says becomes a tree of chains named ISTIO_LIST_n, in which a packet meets a few rules. A shorter list stays
 * the text that Istio writes. nftables has sets for this.
 *
 * There are two kinds of list:
 * - Returns in front of other rules. Each later rule that would do something to a returned packet then leads into a tree.
 *   The tree returns the packets of the list, and passes the others on to the rule's target. So the rules that do nothing to
 *   them, such as the returns of the proxy's own connections, no longer wait behind the list.
 * - Consecutive rules that do the same for each entry. They become one rule that leads into a tree.
 */
import ipaddr from 'ipaddr.js';
import { byPlace, is, RETURN } from './builder.ts';
import {
  type Chain,
  type Cidr,
  type Family,
  LIST_CHAIN,
  type PortRange,
  type Rule,
  type Ruleset,
  type Table,
  type Target,
} from './model.ts';
import { boxOf, DOMAIN } from './nftables/box.ts';
import { Effects, type Step } from './nftables/effects.ts';
import { contains, normal, overlap, type Values } from './nftables/intervals.ts';
import { cidrInterval, conditionsOf, interval, L4PROTO, NFPROTO } from './nftables/lower.ts';
import type { Interval } from './nftables/model.ts';

export interface Shape {
  /** Rules of a list that stays as it is. */
  short: { ports: number; cidrs: number };
  /** Rules on entries of the list in a chain without branches. */
  leaf: { ports: number; cidrs: number };
  /** Branches of a chain that is not a leaf. */
  branches: number;
}

/**
 * A rule that looks at a port costs a connection about 25 ns, one that looks at an address alone 5 ns. With four branches a
 * packet meets the fewest rules of a tree.
 */
const SHAPE: Shape = { short: { ports: 16, cidrs: 64 }, leaf: { ports: 2, cidrs: 64 }, branches: 4 };
/** The ports of one multiport match. A range counts as two (linux/netfilter/xt_multiport.h, XT_MULTI_PORTS). */
const SLOTS = 15;

const FAMILIES: readonly Family[] = [4, 6];
const PROTOCOLS = ['tcp', 'udp'] as const;
type Protocol = (typeof PROTOCOLS)[number];

/** Returns a ruleset that does the same to every packet. It equals `ruleset` if no list is long. */
export function withTrees({ families, tables, routes }: Ruleset, shape = SHAPE): Ruleset {
  return { families, tables: tables.map((table) => tableWithTrees(table, shape)), routes };
}

function tableWithTrees(table: Table, shape: Shape): Table {
  const trees = new Trees(shape);
  const plain = effectsOf(table.chains);
  const joined = table.chains.map((chain) => ({
    ...chain,
    inserts: joinLists(chain.inserts, plain, trees),
    rules: joinLists(chain.rules, plain, trees),
  }));
  const effects = effectsOf([...joined, ...trees.chains()]);
  const guarded = joined.map((chain) => ({ ...chain, rules: guardFromReturns(chain.rules, effects, trees) }));
  return { ...table, chains: trees.chains().length === 0 ? guarded : [...guarded, ...trees.chains()].sort(byPlace) };
}

/** A packet that is on the list goes to `hit`, any other packet to `miss`. Without `miss` the other packets return. */
interface Outcome {
  hit: Target;
  miss?: Target;
  /** The protocol of the rules that lead to `hit`, if that target needs one. */
  protocol?: Protocol | undefined;
}

/** The chains of a table's trees. Chains of the same rules are one. */
class Trees {
  readonly #names = new Map<string, string>();
  readonly #chains: Chain[] = [];
  readonly shape: Shape;

  constructor(shape: Shape) {
    this.shape = shape;
  }

  chains(): readonly Chain[] {
    return this.#chains;
  }

  /** Builds a tree for a list of ports. Returns the target that leads packets of `protocol` into it. */
  ofPorts(ports: readonly PortRange[], protocol: Protocol, outcome: Outcome): Target {
    const groups = multiports(ports);
    const build = (from: number, to: number, first: number, last: number): Target => {
      if (to - from <= this.shape.leaf.ports) {
        const leaf = groups.slice(from, to).map((ports): Rule => {
          return { protocol, matches: [{ kind: 'multiport', ports, not: false }], target: outcome.hit };
        });
        return this.#chain([...leaf, ...missed(outcome)]);
      }
      const width = Math.ceil((to - from) / this.shape.branches);
      const starts = Array.from({ length: Math.ceil((to - from) / width) }, (_, at) => from + at * width);
      const branches = starts.map((start, at): Rule => {
        const next = starts[at + 1];
        const range = {
          first: at === 0 ? first : firstPort(groups[start]),
          last: next === undefined ? last : firstPort(groups[next]) - 1,
        };
        const target = build(start, next ?? to, range.first, range.last);
        return { protocol, matches: [{ kind: 'port', side: 'destination', range, not: false }], target };
      });
      return this.#chain(branches);
    };
    return build(0, groups.length, 0, 65_535);
  }

  /** Builds a tree for a list of destinations, and returns the target that leads into it. Both families share chains. */
  ofCidrs(cidrs: readonly Cidr[], outcome: Outcome): Target {
    const lists = FAMILIES.map((family) => separate(cidrs.filter((cidr) => cidr.family === family)));
    return this.#ofLists(lists, outcome);
  }

  /** `lists`: by family, in the order of FAMILIES. */
  #ofLists(lists: readonly (readonly Cidr[])[], outcome: Outcome): Target {
    const parts = lists.map((list) =>
      list.length <= this.shape.leaf.cidrs ? list.map((cidr) => [cidr]) : split(list, this.shape.branches),
    );
    const deeper = Array.from({ length: Math.max(...parts.map(({ length }) => length)) }, (_, at) => {
      const below = parts.map((list) => list[at] ?? []).map((part) => (part.length === 1 ? [] : part));
      return below.some((part) => part.length > 0) ? this.#ofLists(below, outcome) : RETURN;
    });
    const rules = parts.flatMap((list) =>
      list.flatMap((part, at): Rule[] => {
        const around = hull(part);
        const rule = { family: around.family, destination: is(around), matches: [] };
        if (part.length === 1) {
          const { hit, protocol } = outcome;
          return [{ ...rule, ...(protocol && { protocol }), target: hit }];
        }
        // A packet of the list that comes back from there must not get to `miss`.
        const back = outcome.miss === undefined ? [] : [{ ...rule, target: RETURN }];
        return [{ ...rule, target: deeper[at] ?? RETURN }, ...back];
      }),
    );
    return this.#chain([...rules, ...missed(outcome)]);
  }

  /** A jump to a chain of these rules. */
  ofRules(rules: readonly Rule[]): Target {
    return this.#chain(rules);
  }

  #chain(rules: readonly Rule[]): Target {
    const text = JSON.stringify(rules);
    const name = this.#names.get(text) ?? `${LIST_CHAIN}${this.#names.size + 1}`;
    if (!this.#names.has(text)) {
      this.#names.set(text, name);
      this.#chains.push({ name, builtin: false, inserts: [], rules: [...rules] });
    }
    return { kind: 'jump', chain: name };
  }
}

function missed({ miss }: Outcome): Rule[] {
  return miss === undefined ? [] : [{ matches: [], target: miss }];
}

/** An entry of a list, and the rest of its rule. */
interface Entry {
  ports?: { protocol: Protocol; range: PortRange };
  cidr?: Cidr;
  rest: Rule;
}

function entryOf(rule: Rule): Entry | undefined {
  const { family, destination, ...others } = rule;
  if (destination !== undefined && !destination.not) return { cidr: destination.cidr, rest: others };
  const { protocol, matches } = rule;
  const at = matches.findIndex((match) => match.kind === 'port' && match.side === 'destination' && !match.not);
  const match = matches[at];
  if (match?.kind !== 'port' || protocol === undefined || family !== undefined) return undefined;
  return { ports: { protocol, range: match.range }, rest: { ...rule, matches: matches.toSpliced(at, 1) } };
}

/** Consecutive entries whose rules differ only in the entry. */
interface List {
  ports: PortRange[];
  cidrs: Cidr[];
  protocol?: Protocol | undefined;
  /** The rules of one entry, without the entry. */
  rests: Rule[];
  /** Rules in all. */
  length: number;
}

function joinLists(rules: readonly Rule[], effects: Effects, trees: Trees): Rule[] {
  const kept: Rule[] = [];
  for (let at = 0; at < rules.length; ) {
    const list = listFrom(rules, at);
    const long =
      list !== undefined && list.length > (list.cidrs.length > 0 ? trees.shape.short.cidrs : trees.shape.short.ports);
    if (long && isUnmoved(list.rests, effects)) kept.push(joined(list, trees));
    else kept.push(...rules.slice(at, at + (list?.length ?? 1)));
    at += list?.length ?? 1;
  }
  return kept;
}

function listFrom(rules: readonly Rule[], begin: number): List | undefined {
  let list: List | undefined;
  for (let at = begin; ; ) {
    const entry = entryAt(rules, at);
    if (entry === undefined) return list;
    const rests: Rule[] = [];
    const value = textOfValue(entry);
    for (
      let next: Entry | undefined = entry;
      next !== undefined && textOfValue(next) === value;
      next = entryAt(rules, at)
    ) {
      rests.push(next.rest);
      at++;
    }
    list ??= { ports: [], cidrs: [], protocol: entry.ports?.protocol, rests, length: 0 };
    if (entry.ports?.protocol !== list.protocol || JSON.stringify(rests) !== JSON.stringify(list.rests)) return list;
    if (entry.ports !== undefined) list.ports.push(entry.ports.range);
    if (entry.cidr !== undefined) list.cidrs.push(entry.cidr);
    list.length = at - begin;
  }
}

function entryAt(rules: readonly Rule[], at: number): Entry | undefined {
  const rule = rules[at];
  return rule === undefined || rule.target.kind === 'return' ? undefined : entryOf(rule);
}

function textOfValue({ ports, cidr }: Entry): string {
  return JSON.stringify([ports, cidr]);
}

/** Whether the entries' rules may look at a packet in any order and any number of times with the same result. */
function isUnmoved(rests: readonly Rule[], effects: Effects): boolean {
  const steps = rests.flatMap((rest) => stepOf(rest) ?? []);
  const written = steps.flatMap((step) => effects.writes(step));
  return steps.every((step) => !effects.reads(step).some((field) => written.includes(field)));
}

function joined({ ports, cidrs, protocol, rests }: List, trees: Trees): Rule {
  const [first, ...others] = rests as [Rule, ...Rule[]];
  // If an entry has one rule, its conditions stay in front of the tree. Several rules follow the tree in their own chain.
  const alone = others.length === 0;
  const outcome: Outcome = alone
    ? { hit: first.target, protocol: first.protocol }
    : { hit: trees.ofRules(rests), protocol: undefined };
  const target = protocol === undefined ? trees.ofCidrs(cidrs, outcome) : trees.ofPorts(ports, protocol, outcome);
  return alone ? { ...first, target } : { ...(protocol && { protocol }), matches: [], target };
}

/** The ports and destinations whose packets have already returned from the chain. */
interface Returned {
  ports: Record<Protocol, PortRange[]>;
  cidrs: Cidr[];
}

function guardFromReturns(rules: readonly Rule[], effects: Effects, trees: Trees): Rule[] {
  const returns = new Map<Rule, Entry>();
  for (const rule of rules) {
    const entry = rule.target.kind === 'return' ? entryOf(rule) : undefined;
    if (entry !== undefined && isBare(entry)) returns.set(rule, entry);
  }
  const entries = [...returns.values()];
  const longPorts = entries.filter(({ ports }) => ports !== undefined).length > trees.shape.short.ports;
  const longFamilies = FAMILIES.filter(
    (family) => entries.filter(({ cidr }) => cidr?.family === family).length > trees.shape.short.cidrs,
  );
  const returned: Returned = { ports: { tcp: [], udp: [] }, cidrs: [] };
  const kept: Rule[] = [];
  for (const rule of rules) {
    const { ports, cidr } = returns.get(rule) ?? {};
    if (longPorts && ports !== undefined) returned.ports[ports.protocol].push(ports.range);
    else if (cidr !== undefined && longFamilies.includes(cidr.family)) returned.cidrs.push(cidr);
    else if (rule.target.kind === 'return') kept.push(rule);
    else {
      const guarded = guard(rule, returned, effects, trees);
      // The planner writes no such rule.
      if (guarded === undefined) return [...rules];
      kept.push(...guarded);
    }
  }
  return kept;
}

/** Whether the rest of the rule has no condition, but for the protocol of its ports. */
function isBare({ ports, rest: { target, matches, protocol, ...others } }: Entry): boolean {
  return matches.length === 0 && protocol === ports?.protocol && Object.keys(others).length === 0;
}

/** The rule for all packets but the returned ones. Undefined if iptables cannot express that. */
function guard(rule: Rule, returned: Returned, effects: Effects, trees: Trees): Rule[] | undefined {
  const step = stepOf(rule);
  const acts = step === undefined ? [] : effects.acts(step);
  const cidrs = FAMILIES.flatMap((family) => {
    const reached = reach(acts, 'nfproto', NFPROTO[family], family === 4 ? 'ip daddr' : 'ip6 daddr');
    return returned.cidrs.filter((cidr) => cidr.family === family && overlap([cidrInterval(cidr)], reached));
  });
  const target = cidrs.length === 0 ? rule.target : trees.ofCidrs(cidrs, { hit: RETURN, miss: rule.target });
  const ports = PROTOCOLS.map((protocol) => {
    const reached = reach(acts, 'l4proto', L4PROTO[protocol], 'dport');
    return {
      protocol,
      reached,
      those: returned.ports[protocol].filter((range) => overlap([interval(range)], reached)),
    };
  });
  if (ports.every(({ those }) => those.length === 0)) return [{ ...rule, target }];
  const known = normal(PROTOCOLS.map((protocol) => single(L4PROTO[protocol])));
  const others = acts.some((act) => !contains(known, act.get('l4proto') ?? DOMAIN.l4proto));
  if (others) return undefined;
  return ports
    .filter(({ protocol, reached }) => (rule.protocol ?? protocol) === protocol && reached.length > 0)
    .map(({ protocol, those }) => ({
      ...rule,
      protocol,
      target: those.length === 0 ? target : trees.ofPorts(those, protocol, { hit: RETURN, miss: target }),
    }));
}

/** The values of `field` with which something happens to packets whose `kind` is `value`. */
function reach(
  acts: ReturnType<Effects['acts']>,
  kind: 'nfproto' | 'l4proto',
  value: number,
  field: 'ip daddr' | 'ip6 daddr' | 'dport',
): Values {
  const these = acts.filter((act) => overlap(act.get(kind) ?? DOMAIN[kind], [single(value)]));
  return normal(these.flatMap((act) => act.get(field) ?? DOMAIN[field]));
}

function effectsOf(chains: readonly Chain[]): Effects {
  const steps = ({ inserts, rules }: Chain) => [...inserts, ...rules].flatMap((rule) => stepOf(rule) ?? []);
  return new Effects(new Map(chains.map((chain) => [chain.name, steps(chain)])));
}

/** Undefined if no packet can match. */
function stepOf(rule: Rule): Step | undefined {
  const conditions = conditionsOf(rule);
  return conditions && { box: boxOf(conditions), counter: false, target: rule.target };
}

/** Sorts ports into as few groups as possible, each for one multiport match. */
function multiports(ports: readonly PortRange[]): PortRange[][] {
  const groups: PortRange[][] = [];
  let free = 0;
  for (const { first, last } of normal(ports.map(interval))) {
    const slots = first === last ? 1 : 2;
    if (slots > free) {
      groups.push([]);
      free = SLOTS;
    }
    groups.at(-1)?.push({ first: Number(first), last: Number(last) });
    free -= slots;
  }
  return groups;
}

function firstPort(group: readonly PortRange[] | undefined): number {
  return group?.[0]?.first ?? 0;
}

/** Sorts CIDRs of one family, and drops those that lie inside of another one. */
function separate(cidrs: readonly Cidr[]): Cidr[] {
  const placed = cidrs.map((cidr) => ({ cidr, ...cidrInterval(cidr) }));
  placed.sort((a, b) => (a.first !== b.first ? (a.first < b.first ? -1 : 1) : a.cidr.prefix - b.cidr.prefix));
  const outer: typeof placed = [];
  for (const each of placed) if (each.last > (outer.at(-1)?.last ?? -1n)) outer.push(each);
  return outer.map(({ cidr }) => cidr);
}

/** Splits a list from `separate`. The common prefix of a part covers no address of another part. */
function split(list: readonly Cidr[], branches: number): Cidr[][] {
  const parts = [[...list]];
  while (parts.length < branches) {
    const largest = parts.reduce((a, b) => (b.length > a.length ? b : a));
    const { family, prefix } = hull(largest);
    if (largest.length === 1) break;
    const bit = 1n << BigInt(WIDTH[family] - prefix - 1);
    const middle = largest.findIndex((cidr) => (cidrInterval(cidr).first & bit) !== 0n);
    parts.splice(parts.indexOf(largest), 1, largest.slice(0, middle), largest.slice(middle));
  }
  return parts;
}

/** The longest prefix that all of these CIDRs share. */
function hull(part: readonly Cidr[]): Cidr {
  const [first, last] = [part[0], part.at(-1)] as [Cidr, Cidr];
  if (first === last) return first;
  const [low, high] = [cidrInterval(first).first, cidrInterval(last).first];
  const differing = (low ^ high).toString(2).length;
  const { family } = first;
  const bytes = Buffer.from(
    ((low >> BigInt(differing)) << BigInt(differing)).toString(16).padStart(WIDTH[family] / 4, '0'),
    'hex',
  );
  const address = ipaddr.fromByteArray([...bytes]);
  const text = address.kind() === 'ipv6' ? (address as ipaddr.IPv6).toRFC5952String() : address.toString();
  return { family, address: text, prefix: WIDTH[family] - differing };
}

const WIDTH: Record<Family, number> = { 4: 32, 6: 128 };

function single(value: number): Interval {
  return interval({ first: value, last: value });
}
