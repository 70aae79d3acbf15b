/**
 * What rules do to a packet, in either form: a plain reading of xtables and of nf_tables, one rule after the other, and
 * packets to read them with.
 */
import ipaddr from 'ipaddr.js';
import type { Family, Match, Rule, Ruleset, TableName, Target } from '../../lib/ruleset/model.ts';
import type { Condition, NftRule, NftRuleset } from '../../lib/ruleset/nftables/model.ts';

export interface Packet {
  hook: 'prerouting' | 'output';
  family: Family;
  inInterface: string;
  outInterface: string;
  source: bigint;
  destination: bigint;
  protocol: number;
  sourcePort: number;
  destinationPort: number;
  /** Absent: the packet has no socket, as those that the kernel makes. */
  owner?: { uid: number; gid: number };
  mark: number;
  /** Absent: no connection. */
  connectionMark?: number;
  state: 'INVALID' | 'ESTABLISHED' | 'RELATED' | 'NEW';
  /** Whether someone listens where TPROXY sends it. */
  listener: boolean;
}

/** What came of a packet in one table; what it leaves unset is as before. */
export interface Fate {
  verdict: string;
  mark: number;
  connectionMark: number | undefined;
  zone: number;
}

/** `return`: back to the chain that jumped. Undefined: on to the next rule. */
type Verdict = string | undefined;

const L4PROTO = { tcp: 6, udp: 17 } as const;
const STATE = { INVALID: 1n, ESTABLISHED: 2n, RELATED: 4n, NEW: 8n } as const;

export function fateByRuleset(ruleset: Ruleset, table: TableName, packet: Packet): Fate {
  return runThrough(ruleset, table, packet, () => {});
}

/** How many rules the packet meets, whether they match it or not. */
export function rulesMet(ruleset: Ruleset, table: TableName, packet: Packet): number {
  let met = 0;
  runThrough(ruleset, table, packet, () => met++);
  return met;
}

function runThrough({ families, tables }: Ruleset, table: TableName, packet: Packet, meet: () => void): Fate {
  const chains = new Map(tables.find(({ name }) => name === table)?.chains.map((chain) => [chain.name, chain]));
  const fate = unmoved(packet);
  const run = (name: string): Verdict => {
    const chain = chains.get(name);
    for (const rule of [...(chain?.inserts ?? []), ...(chain?.rules ?? [])]) {
      if (rule.family !== undefined && rule.family !== packet.family) continue;
      meet();
      if (!ruleMatches(rule, packet, fate)) continue;
      const verdict = hit(rule.target, packet, fate, run);
      if (verdict === 'no listener') return 'drop';
      if (verdict !== undefined) return verdict;
    }
    return undefined;
  };
  if (families.includes(packet.family)) conclude(fate, run(packet.hook.toUpperCase()));
  return fate;
}

/** `ownerless`: whether a condition with `not` on an owner holds for a packet without one, as lower.ts leaves it. */
export function fateByNftables({ tables }: NftRuleset, table: TableName, packet: Packet, ownerless: boolean): Fate {
  const chains = new Map(tables.find(({ name }) => name === table)?.chains.map((chain) => [chain.name, chain]));
  const fate = unmoved(packet);
  const run = (name: string): Verdict => {
    for (const rule of chains.get(name)?.rules ?? []) {
      if (!rule.conditions.every((condition) => holds(condition, packet, fate, ownerless))) continue;
      const verdict = hit(rule.target, packet, fate, run);
      if (verdict !== undefined && verdict !== 'no listener') return verdict;
    }
    return undefined;
  };
  const base = [...chains.values()].find(({ hook }) => hook?.hook === packet.hook);
  if (base !== undefined) conclude(fate, run(base.name));
  return fate;
}

function unmoved({ mark, connectionMark }: Packet): Fate {
  return { verdict: 'accept', mark, connectionMark, zone: 0 };
}

function conclude(fate: Fate, verdict: Verdict): void {
  fate.verdict = verdict === undefined || verdict === 'return' ? 'accept' : verdict;
}

function hit(target: Target, packet: Packet, fate: Fate, run: (chain: string) => Verdict): Verdict {
  switch (target.kind) {
    case 'accept':
    case 'drop':
    case 'return':
      return target.kind;
    case 'jump': {
      const verdict = run(target.chain);
      return verdict === 'return' ? undefined : verdict;
    }
    case 'redirect':
      return `redirect to ${target.port}`;
    case 'tproxy':
      if (!packet.listener) return 'no listener';
      fate.mark = target.mark;
      return `tproxy to ${target.port}`;
    case 'set-mark':
      fate.mark = target.value;
      return undefined;
    case 'save-mark':
      if (fate.connectionMark !== undefined) fate.connectionMark = fate.mark;
      return undefined;
    case 'restore-mark':
      if (fate.connectionMark !== undefined) fate.mark = fate.connectionMark;
      return undefined;
    case 'ct-zone':
      // A packet that has a zone keeps it.
      fate.zone ||= target.zone;
      return undefined;
  }
}

function ruleMatches(rule: Rule, packet: Packet, fate: Fate): boolean {
  const { family, source, destination, inInterface, outInterface, protocol, matches } = rule;
  const inside = (value: bigint, address: Rule['source']) => {
    if (address === undefined) return true;
    const { cidr, not } = address;
    const shift = BigInt((cidr.family === 4 ? 32 : 128) - cidr.prefix);
    return (value >> shift === addressValue(cidr.address) >> shift) !== not;
  };
  return (
    (family === undefined || family === packet.family) &&
    inside(packet.source, source) &&
    inside(packet.destination, destination) &&
    (inInterface === undefined || inInterface === packet.inInterface) &&
    (outInterface === undefined || outInterface === packet.outInterface) &&
    (protocol === undefined || L4PROTO[protocol] === packet.protocol) &&
    matches.every((match) => matchHolds(match, packet, fate))
  );
}

function matchHolds(match: Match, packet: Packet, { mark, connectionMark }: Fate): boolean {
  switch (match.kind) {
    case 'port': {
      const port = match.side === 'source' ? packet.sourcePort : packet.destinationPort;
      return (match.range.first <= port && port <= match.range.last) !== match.not;
    }
    case 'multiport': {
      const port = packet.destinationPort;
      return match.ports.some(({ first, last }) => first <= port && port <= last) !== match.not;
    }
    case 'owner': {
      const { owner } = packet;
      return (match.uid === undefined ? owner?.gid === match.gid : owner?.uid === match.uid) !== match.not;
    }
    case 'conntrack':
      return match.states.includes(packet.state);
    case 'mark':
      return (mark === match.value) !== match.not;
    case 'connmark':
      return connectionMark !== undefined && (connectionMark === match.value) !== match.not;
    case 'comment':
      return true;
  }
}

function holds({ field, not, values }: Condition, packet: Packet, fate: Fate, ownerless: boolean): boolean {
  const value = fieldValue(field, packet, fate);
  if (value === undefined) return not && ownerless && (field === 'skuid' || field === 'skgid');
  return values.some(({ first, last }) => first <= value && value <= last) !== not;
}

/** Undefined where there is no such thing in the packet: nft breaks off the rule. */
function fieldValue(field: Condition['field'], packet: Packet, fate: Fate): bigint | undefined {
  const { family, owner } = packet;
  const has = (value: number | undefined) => (value === undefined ? undefined : BigInt(value));
  const port = (value: number) => (packet.protocol === 6 || packet.protocol === 17 ? BigInt(value) : undefined);
  switch (field) {
    case 'iifname':
      return nameValue(packet.inInterface);
    case 'oifname':
      return nameValue(packet.outInterface);
    case 'nfproto':
      return family === 4 ? 2n : 10n;
    case 'ip saddr':
      return family === 4 ? packet.source : undefined;
    case 'ip daddr':
      return family === 4 ? packet.destination : undefined;
    case 'ip6 saddr':
      return family === 6 ? packet.source : undefined;
    case 'ip6 daddr':
      return family === 6 ? packet.destination : undefined;
    case 'l4proto':
      return BigInt(packet.protocol);
    case 'sport':
      return port(packet.sourcePort);
    case 'dport':
      return port(packet.destinationPort);
    case 'skuid':
      return has(owner?.uid);
    case 'skgid':
      return has(owner?.gid);
    case 'mark':
      return BigInt(fate.mark);
    case 'ct mark':
      return has(fate.connectionMark);
    case 'ct state':
      return STATE[packet.state];
  }
}

function nameValue(name: string): bigint {
  return BigInt(`0x${Buffer.from(name.padEnd(16, '\0')).toString('hex')}`);
}

function addressValue(address: string): bigint {
  return BigInt(`0x${Buffer.from(ipaddr.parse(address).toByteArray()).toString('hex')}`);
}

/**
 * Packets made of the values that a ruleset's rules name, their neighbours, and some that no rule names. Half of them
 * are made to match one of the rules, as far as that can be had by naming its values.
 */
export function packetsFor(ruleset: Ruleset, count: number, random: () => number): Packet[] {
  const rules = ruleset.tables.flatMap(({ chains }) => chains.flatMap(({ inserts, rules }) => [...inserts, ...rules]));
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
  const named = valuesOf(rules);
  return Array.from({ length: count }, () => {
    const narrow = random() < 0.5 && rules.length > 0 ? valuesOf([pick(rules)]) : named;
    const from = <K extends keyof Values>(key: K) =>
      pick<Values[K][number]>(narrow[key].length > 0 ? narrow[key] : named[key]);
    const family = pick(narrow.families.length > 0 ? narrow.families : named.families);
    const owner = { uid: from('uids'), gid: from('gids') };
    const connectionMark = from('marks');
    return {
      hook: pick(['prerouting', 'output'] as const),
      family,
      inInterface: from('interfaces'),
      outInterface: from('interfaces'),
      source: family === 4 ? from('addresses4') : from('addresses6'),
      destination: family === 4 ? from('addresses4') : from('addresses6'),
      protocol: from('protocols'),
      sourcePort: from('ports'),
      destinationPort: from('ports'),
      ...(random() < 0.9 && { owner }),
      mark: from('marks'),
      ...(random() < 0.9 && { connectionMark }),
      state: pick(['INVALID', 'ESTABLISHED', 'RELATED', 'NEW'] as const),
      listener: random() < 0.5,
    };
  });
}

interface Values {
  families: Family[];
  interfaces: string[];
  addresses4: bigint[];
  addresses6: bigint[];
  protocols: number[];
  ports: number[];
  uids: number[];
  gids: number[];
  marks: number[];
}

const ELSEWHERE: Values = {
  families: [4, 6],
  interfaces: ['eth0', 'lo'],
  addresses4: [addressValue('8.8.8.8'), addressValue('127.0.0.1')],
  addresses6: [addressValue('2600::1'), addressValue('::1')],
  protocols: [6, 6, 17, 1, 58],
  ports: [53, 7777, 15008],
  uids: [0, 1234],
  gids: [0, 1234],
  marks: [0, 1337, 1338],
};

/** What `rules` name; of several rules, besides, what none of them names. */
function valuesOf(rules: readonly Rule[]): Values {
  const values: Values = structuredClone(
    rules.length === 1
      ? (Object.fromEntries(Object.keys(ELSEWHERE).map((key) => [key, []])) as unknown as Values)
      : ELSEWHERE,
  );
  const near = (first: number, last: number, max: number) =>
    [first - 1, first, first, last, last, last + 1].filter((value) => value >= 0 && value <= max);
  for (const { family, source, destination, inInterface, outInterface, protocol, matches, target } of rules) {
    if (family !== undefined) values.families.push(family);
    for (const name of [inInterface, outInterface]) if (name !== undefined) values.interfaces.push(name);
    for (const address of [source, destination]) {
      if (address === undefined) continue;
      const { cidr } = address;
      const width = cidr.family === 4 ? 32n : 128n;
      const first = addressValue(cidr.address);
      const last = first + (1n << (width - BigInt(cidr.prefix))) - 1n;
      const all = [first - 1n, first, first, last, last + 1n].filter((value) => value >= 0n && value < 1n << width);
      (cidr.family === 4 ? values.addresses4 : values.addresses6).push(...all);
    }
    if (protocol !== undefined) values.protocols.push(L4PROTO[protocol]);
    for (const match of matches) {
      if (match.kind === 'port') values.ports.push(...near(match.range.first, match.range.last, 65_535));
      if (match.kind === 'multiport')
        for (const { first, last } of match.ports) values.ports.push(...near(first, last, 65_535));
      if (match.kind === 'mark' || match.kind === 'connmark') values.marks.push(match.value);
      if (match.kind !== 'owner') continue;
      if (match.uid !== undefined) values.uids.push(...near(match.uid, match.uid, 0xffff_fffe));
      if (match.gid !== undefined) values.gids.push(...near(match.gid, match.gid, 0xffff_fffe));
    }
    if (target.kind === 'set-mark' || target.kind === 'tproxy')
      values.marks.push(target.kind === 'tproxy' ? target.mark : target.value);
  }
  return values;
}

/** How many expressions nft makes of rules: two a condition, a counter, and those of the target. */
export function expressions({ tables }: NftRuleset): number {
  const rules: NftRule[] = tables.flatMap(({ chains }) => chains.flatMap((chain) => chain.rules));
  const ofTarget = ({ kind }: Target) =>
    kind === 'tproxy' ? 5 : ['accept', 'drop', 'return', 'jump'].includes(kind) ? 1 : 2;
  return rules.reduce(
    (sum, { conditions, counter, target }) => sum + 2 * conditions.length + Number(counter) + ofTarget(target),
    0,
  );
}
