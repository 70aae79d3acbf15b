/**
 * Prints rules as text for `iptables-legacy-restore --noflush` (or `ip6tables-legacy-restore`). Each rule has exactly
 * the form in which `iptables-legacy-save` 1.8.9 prints it, so that the two can be compared.
 */
import type { ActualRule, ActualTable, OpaqueMatch, OpaqueTarget } from './actual.ts';
import type {
  AddressMatch,
  Cidr,
  ConntrackState,
  Family,
  Match,
  PortRange,
  Rule,
  Ruleset,
  Table,
  Target,
} from './model.ts';

/** The order of iptables/extensions/libxt_conntrack.c, print_state. */
const STATES: readonly ConntrackState[] = ['INVALID', 'NEW', 'RELATED', 'ESTABLISHED'];

/** All tables of one family, or '' without any. Each of our chains exists in each family, even if it is empty. */
export function iptablesText({ families, tables }: Ruleset, family: Family): string {
  return families.includes(family) ? tables.map((table) => tableText(table, family)).join('') : '';
}

/** The routes of a Ruleset, as arguments of `ip`. */
export function routeLines({
  families,
  routes: { loopback6, tproxy },
}: Pick<Ruleset, 'families' | 'routes'>): string[] {
  const lines = loopback6 ? ['-6 addr add ::6/128 dev lo'] : [];
  for (const family of tproxy === undefined ? [] : families) {
    lines.push(`-${family} rule add fwmark ${tproxy?.mark} lookup ${tproxy?.table}`);
    lines.push(`-${family} route add local default dev lo table ${tproxy?.table}`);
  }
  return lines;
}

/** The text of a rule after `-A CHAIN`; '' for a rule that matches everything and does nothing. */
export function ruleText(rule: Rule | ActualRule, family: Family): string {
  const { source, destination, inInterface, outInterface, protocol, matches, target } = rule;
  return [
    ...addressWords('-s', source),
    ...addressWords('-d', destination),
    ...(inInterface === undefined ? [] : [`-i ${inInterface}`]),
    ...(outInterface === undefined ? [] : [`-o ${outInterface}`]),
    ...(protocol === undefined ? [] : [`-p ${protocol}`]),
    ...matches.map((match) => matchWords(match, protocol)),
    targetWords(target, family),
  ].join(' ');
}

/** `IPv4 nat: -A OUTPUT -j ACCEPT`, a line a rule. */
export function tableLines({ family, table, chains }: ActualTable): string[] {
  return chains.flatMap(({ name, rules }) =>
    rules.map((rule) => `IPv${family} ${table}: -A ${name} ${ruleText(rule, family)}`),
  );
}

function tableText({ name, chains }: Table, family: Family): string {
  const mine = (rules: Rule[]) => rules.filter((rule) => rule.family === undefined || rule.family === family);
  const lines = [
    `*${name}`,
    ...chains.filter(({ builtin }) => !builtin).map(({ name }) => chainLine(name)),
    ...chains.flatMap(({ name, inserts, rules }) => [
      ...mine(inserts).map((rule, at) => readable(`-I ${name} ${at + 1} ${ruleText(rule, family)}`)),
      ...mine(rules).map((rule) => readable(`-A ${name} ${ruleText(rule, family)}`)),
    ]),
    'COMMIT',
  ];
  return `${lines.join('\n')}\n`;
}

/**
 * iptables-restore 1.8 reads at most 255 words a line (iptables/xshared.h, MAX_ARGC), which more than 48 owner groups
 * go beyond; the same in fewer words is no longer what iptables-save prints.
 */
function readable(line: string): string {
  return line.split(' ').length <= 240
    ? line
    : line.replace(/-m owner ! --gid-owner (\d+)/g, '-mowner ! --gid-owner=$1');
}

export function chainLine(name: string): string {
  return `:${name} - [0:0]`;
}

function not(inverted: boolean): string {
  return inverted ? '! ' : '';
}

function addressWords(flag: '-s' | '-d', match: AddressMatch | undefined): string[] {
  if (match === undefined || (match.cidr.prefix === 0 && !match.not)) return [];
  return [`${not(match.not)}${flag} ${addressText(match.cidr)}`];
}

/** inet_ntop(3), which iptables prints with, writes the last half of ::/96 as IPv4 where both its words are set. */
function addressText({ family, address, prefix }: Cidr): string {
  const old = family === 6 ? /^::([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(address) : null;
  if (old === null) return `${address}/${prefix}`;
  const bytes = old.slice(1).flatMap((word) => [Number.parseInt(word, 16) >> 8, Number.parseInt(word, 16) & 255]);
  return `::${bytes.join('.')}/${prefix}`;
}

function matchWords(match: Match | OpaqueMatch, protocol: string | undefined): string {
  switch (match.kind) {
    case 'port':
      return `-m ${protocol} ${not(match.not)}--${match.side === 'source' ? 'sport' : 'dport'} ${range(match.range)}`;
    case 'multiport':
      return `-m multiport ${not(match.not)}--dports ${match.ports.map(range).join(',')}`;
    case 'owner':
      return `-m owner ${not(match.not)}${match.uid === undefined ? `--gid-owner ${match.gid}` : `--uid-owner ${match.uid}`}`;
    case 'conntrack':
      return `-m conntrack --ctstate ${STATES.filter((state) => match.states.includes(state)).join(',')}`;
    case 'mark':
    case 'connmark':
      return `-m ${match.kind} ${not(match.not)}--mark ${hex(match.value)}`;
    case 'comment':
      return `-m comment --comment ${quoted(match.text)}`;
    case 'opaque':
      return `-m ${opaque(match)}`;
  }
}

function targetWords(target: Target | OpaqueTarget, family: Family): string {
  switch (target.kind) {
    case 'accept':
    case 'drop':
    case 'return':
      return `-j ${target.kind.toUpperCase()}`;
    case 'jump':
      return `-j ${target.chain}`;
    case 'redirect':
      return `-j REDIRECT --to-ports ${target.port}`;
    case 'tproxy': {
      const address = family === 4 ? '0.0.0.0' : '::';
      return `-j TPROXY --on-port ${target.port} --on-ip ${address} --tproxy-mark ${hex(target.mark)}/0xffffffff`;
    }
    case 'set-mark':
      return `-j MARK --set-xmark ${hex(target.value)}/0xffffffff`;
    case 'save-mark':
    case 'restore-mark':
      return `-j CONNMARK --${target.kind} --nfmask 0xffffffff --ctmask 0xffffffff`;
    case 'ct-zone':
      return `-j CT --zone ${target.zone}`;
    case 'opaque':
      return `-j ${opaque(target)}`;
  }
}

function opaque({ name, revision, data }: OpaqueMatch | OpaqueTarget): string {
  return `${name} [revision ${revision}, ${data}]`;
}

function range({ first, last }: PortRange): string {
  return first === last ? String(first) : `${first}:${last}`;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/** iptables/libxtables/xtables.c, xtables_save_string. */
function quoted(text: string): string {
  return /^[\w-]+$/.test(text) ? text : `"${text.replace(/["\\']/g, '\\$&')}"`;
}
