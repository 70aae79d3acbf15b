/**
 * Prints rules as text for `nft -f`. Each rule has exactly the form in which `nft list` 1.0.6 prints it, without
 * counts, so that the two can be compared.
 */
import { endianness } from 'node:os';
import ipaddr from 'ipaddr.js';
import type { TableName, Target } from '../model.ts';
import type { Condition, Field, Hook, Interval, NftChain, NftRule, NftRuleset, NftTable, OpaqueRule } from './model.ts';

const NFPROTO: Record<string, string> = { 2: 'ipv4', 10: 'ipv6' };
const L4PROTO: Record<string, string> = { 6: 'tcp', 17: 'udp' };
/** In the order of nftables/src/ct.c, ct_state_tbl. */
const STATES: readonly [bit: bigint, name: string][] = [
  [1n, 'invalid'],
  [8n, 'new'],
  [2n, 'established'],
  [4n, 'related'],
  [64n, 'untracked'],
];
/** nftables/src/rule.c, std_prio_lookup: a name stands only where it is the hook's own. */
const PRIORITY: Record<number, string> = { [-300]: 'raw', [-150]: 'mangle' };

/** All tables, '' where there are none. Made to be read again and again: it replaces what the tables held. */
export function nftablesText({ tables }: NftRuleset): string {
  return tables.map(tableText).join('\n');
}

/** `inet istio-proxy-nat` */
export function nftTableName(name: TableName): string {
  return `inet istio-proxy-${name}`;
}

/** The lines before a chain's rules: its name, and the hook if it has one. */
export function nftChainHead({ name, hook }: Pick<NftChain, 'name' | 'hook'>): string[] {
  return [`chain ${name} {`, ...(hook === undefined ? [] : [`  ${hookText(hook)}`])];
}

/** One rule as it stands in its chain. */
export function nftRuleText(rule: NftRule | OpaqueRule): string {
  if ('opaque' in rule) return `# unknown to this version: ${rule.opaque}`;
  const { conditions, counter, target } = rule;
  return [
    ...conditions.map((condition) => conditionWords(condition, conditions)).filter((words) => words !== ''),
    ...(counter ? ['counter'] : []),
    targetWords(target, conditions),
  ].join(' ');
}

function tableText({ name, chains }: NftTable): string {
  const table = `table ${nftTableName(name)}`;
  const body = chains.map((chain) =>
    chainLines(chain)
      .map((line) => `  ${line}\n`)
      .join(''),
  );
  return `${table}\nflush ${table}\n${table} {\n${body.join('\n')}}\n`;
}

function chainLines(chain: NftChain): string[] {
  return [...nftChainHead(chain), ...chain.rules.map((rule) => `  ${nftRuleText(rule)}`), '}'];
}

function hookText({ type, hook, priority }: Hook): string {
  const name = hook === 'prerouting' && priority === -100 ? 'dstnat' : (PRIORITY[priority] ?? priority);
  return `type ${type} hook ${hook} priority ${name}; policy accept;`;
}

/** '' for a condition that another one says as well, in nft's words. */
function conditionWords({ field, not, values }: Condition, all: readonly Condition[]): string {
  const has = (...fields: Field[]) => all.some((other) => fields.includes(other.field));
  const text = operand(field, values);
  const words = (name: string) => `${name} ${not ? '!= ' : ''}${text}`;
  switch (field) {
    case 'nfproto':
      return has('ip saddr', 'ip daddr', 'ip6 saddr', 'ip6 daddr') ? '' : words('meta nfproto');
    case 'l4proto':
      return has('sport', 'dport') && values.length === 1 ? '' : words('meta l4proto');
    case 'sport':
    case 'dport': {
      const protocols = all.find((other) => other.field === 'l4proto')?.values ?? [];
      return words(`${protocols.length === 1 ? L4PROTO[String(protocols[0]?.first)] : 'th'} ${field}`);
    }
    case 'skuid':
    case 'skgid':
    case 'mark':
      return words(`meta ${field}`);
    case 'ct state':
      // A packet has one state, so it always differs from two: `!` asks for none of them.
      return `ct state ${not ? '! ' : ''}${stateNames(values)}`;
    default:
      return words(field);
  }
}

function stateNames(values: readonly Interval[]): string {
  const named = STATES.filter(([bit]) => values.some(({ first }) => first === bit));
  return named.map(([, name]) => name).join(',');
}

function operand(field: Field, values: readonly Interval[]): string {
  const texts = values.map((interval) => valueText(field, interval));
  // nft takes a name for a number of the host's, whose last byte weighs most.
  if (field === 'iifname' || field === 'oifname') texts.sort((a, b) => (nameWeight(a) < nameWeight(b) ? -1 : 1));
  return texts.length === 1 ? texts.join() : `{ ${texts.join(', ')} }`;
}

function nameWeight(name: string): bigint {
  const bytes = Buffer.from(name.slice(1, -1));
  return BigInt(`0x${(endianness() === 'LE' ? bytes.reverse() : bytes).toString('hex')}`);
}

function valueText(field: Field, { first, last }: Interval): string {
  switch (field) {
    case 'iifname':
    case 'oifname':
      return `"${Buffer.from(first.toString(16).padStart(32, '0'), 'hex').toString().replace(/\0+$/, '')}"`;
    case 'nfproto':
      return NFPROTO[String(first)] ?? String(first);
    case 'l4proto':
      return L4PROTO[String(first)] ?? String(first);
    case 'ip saddr':
    case 'ip daddr':
      return addressText(4, first, last);
    case 'ip6 saddr':
    case 'ip6 daddr':
      return addressText(16, first, last);
    case 'mark':
    case 'ct mark':
      return first === last ? mark(first) : `${mark(first)}-${mark(last)}`;
    default:
      return first === last ? String(first) : `${first}-${last}`;
  }
}

function addressText(bytes: 4 | 16, first: bigint, last: bigint): string {
  const text = (value: bigint) => {
    const parsed = ipaddr.fromByteArray([...Buffer.from(value.toString(16).padStart(bytes * 2, '0'), 'hex')]);
    return parsed.kind() === 'ipv4' ? parsed.toString() : address6Text(parsed as ipaddr.IPv6);
  };
  if (first === last) return text(first);
  const size = last - first + 1n;
  const isPrefix = (size & (size - 1n)) === 0n && first % size === 0n;
  return isPrefix ? `${text(first)}/${bytes * 8 - (size.toString(2).length - 1)}` : `${text(first)}-${text(last)}`;
}

/** inet_ntop(3), which nft prints with, writes the last half of ::/96 as IPv4 where both its words are set. */
function address6Text(address: ipaddr.IPv6): string {
  const text = address.toRFC5952String();
  if (!/^::[0-9a-f]{1,4}:[0-9a-f]{1,4}$/.test(text)) return text;
  return `::${address.toByteArray().slice(12).join('.')}`;
}

function targetWords(target: Target, conditions: readonly Condition[]): string {
  switch (target.kind) {
    case 'accept':
    case 'drop':
    case 'return':
      return target.kind;
    case 'jump':
      return `jump ${target.chain}`;
    case 'redirect':
      return `redirect to :${target.port}`;
    case 'tproxy': {
      // nft asks for the family where the conditions name one, and refuses it where they do not.
      const family = conditions.find(({ field }) => field === 'nfproto')?.values[0]?.first;
      const words = family === undefined ? '' : family === 2n ? 'ip ' : 'ip6 ';
      return `tproxy ${words}to :${target.port} meta mark set ${mark(BigInt(target.mark))} accept`;
    }
    case 'set-mark':
      return `meta mark set ${mark(BigInt(target.value))}`;
    case 'save-mark':
      return 'ct mark set meta mark';
    case 'restore-mark':
      return 'meta mark set ct mark';
    case 'ct-zone':
      return `ct zone set ${target.zone}`;
  }
}

function mark(value: bigint): string {
  return `0x${value.toString(16).padStart(8, '0')}`;
}
