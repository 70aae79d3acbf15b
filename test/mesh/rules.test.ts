/**
 * Our rules beside those that Istio's own program makes of the same arguments: `pilot-agent istio-iptables`, in its
 * iptables form and in its native nftables form. In each family they are the same rules in the same order, but for
 * DIFFERENCES. Ours are compared as the plan has them, or as lower.ts translates them. That trees.ts and simplify.ts keep
 * what they do is for test/ruleset.
 */
import assert from 'node:assert/strict';
import { native } from '../../lib/native/addon.ts';
import { lower } from '../../lib/ruleset/nftables/lower.ts';
import { nftablesText } from '../../lib/ruleset/nftables/text.ts';
import { type Case, cases } from '../cases.ts';
import { suite } from '../suite.ts';
import { rulesetOf } from '../support/command-line.ts';
import { Farm, INSTALL_NEEDS, identify, inside, restoreNft } from '../support/netns.ts';
import { run } from '../support/process.ts';
import { meshPrograms } from './programs.ts';

type Form = 'iptables' | 'nftables';
type Family = '4' | '6';

/** Cases that Istio's program cannot be given, by name. */
const UNTAKEN: Record<string, string> = {
  'mode NONE': "Istio's program has no such mode: its injector adds no container that would run it",
  '64 owner groups': "Istio's program hands more words to iptables-restore than that takes, and fails",
  ...Object.fromEntries(
    cases
      .filter(({ args }) => args.includes('--dns-servers'))
      .map(({ name }) => [name, "Istio's program has no such flag: it reads /etc/resolv.conf"]),
  ),
};

interface Difference {
  reason: string;
  form?: Form;
  /** What becomes of a rule of Istio's, or of ours, before they are compared; undefined leaves it out. */
  istio?(rule: string): string | undefined;
  ours?(rule: string): string | undefined;
}

const DIFFERENCES: Difference[] = [
  {
    reason: 'in chains that are not its own ours carries a comment, by which it is known',
    form: 'iptables',
    ours: (rule) => rule.replace(' -m comment --comment istio-pod-network-controller', ''),
  },
  {
    reason: 'ours excludes for a virtual machine what is excluded for the pod, and keeps TPROXY off what it sends',
    ours: (rule) => {
      const own = /^(nat|mangle) PREROUTING: .*(-i|iifname) "?(vm\d|a)\b/i;
      if (!own.test(rule)) return rule;
      return rule.startsWith('mangle') || /dport|(-d|daddr) .*return$/i.test(rule) ? undefined : rule;
    },
  },
  {
    reason: 'ours tracks the DNS requests of an excluded or rerouted interface where their answers are looked for',
    ours: (rule) => (/^raw istio.inbound: .*(-i|iifname) .*dport 53/i.test(rule) ? undefined : rule),
  },
  {
    reason:
      "Istio's native form drops INVALID packets of TCP only; its iptables form, and ours in both, of any protocol",
    form: 'nftables',
    istio: (rule) => rule.replace(/meta l4proto tcp (.*jump istio-drop)/, '$1'),
  },
  {
    reason:
      "where nobody listens for it, Istio's native form lets a packet past the proxy; TPROXY of iptables, and ours in both forms, drops it",
    form: 'nftables',
    ours: (rule) => (rule.startsWith('mangle istio-tproxy:') && rule.endsWith('drop') ? undefined : rule),
  },
  {
    reason: 'Istio jumps to its chains in raw with every packet, ours with UDP only: these chains have no other rules',
    ours: (rule) => rule.replace(/^(raw \w+:.*) (?:-p|meta l4proto) udp (.*(?:-j ISTIO_|jump istio-))/, '$1 $2'),
  },
];

/** What the injector always says, and what we take for the defaults; without them Istio's program captures nothing. */
const DEFAULTS = [
  ['-m', 'REDIRECT'],
  ['-b', '*'],
  ['-i', '*'],
  ['-u', '1337'],
  ['-d', ''],
] as const;
/** Istio's injector adds them to `-d`, and we do it ourselves. */
const AGENT_PORTS = ['15020', '15021', '15090'];

/** Istio's program takes these from the environment only. */
const VARIABLES: Record<string, string> = {
  '--owner-groups': 'ISTIO_OUTBOUND_OWNER_GROUPS',
  '--owner-groups-exclude': 'ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE',
  '--loopback-cidr': 'ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR',
};

/** Istio knows no ranges of ports: both get the two ends of each. */
function withoutRanges(args: readonly string[]): string[] {
  return args.map((word) => (/^[\d,-]+$/.test(word) ? word.replaceAll('-', ',') : word));
}

interface Invocation {
  words: string[];
  environment: Record<string, string>;
  families: Family[];
}

function invocation(args: readonly string[]): Invocation {
  const environment: Record<string, string> = {};
  const flags = new Map<string, string | undefined>(DEFAULTS);
  let families: Family[] = ['4', '6'];
  for (let at = 0; at < args.length; at++) {
    const [word = '', next = ''] = args.slice(at);
    const hasValue = at + 1 < args.length && !/^--?[a-z]/.test(next);
    if (hasValue) at++;
    const variable = VARIABLES[word];
    if (word === '--ip-families') families = next.split(',') as Family[];
    else if (variable !== undefined) environment[variable] = next;
    else flags.set(word, hasValue ? (word === '-t' ? String(Number(next)) : next) : undefined);
  }
  const excluded = (flags.get('-d') ?? '').split(',').filter(Boolean);
  flags.set('-d', [...excluded, ...AGENT_PORTS.filter((port) => !excluded.includes(port))].join(','));
  if (families.length === 2) flags.set('--dual-stack', undefined);
  return {
    words: [...flags].flatMap(([flag, value]) => (value === undefined ? [flag] : [flag, value])),
    environment,
    families,
  };
}

const ADDRESSES: Record<Family, string> = {
  4: 'ip address add 10.244.1.2/24 dev eth0',
  6: 'ip address add fd00:10:244:1::2/64 dev eth0 nodad',
};

let farm: Farm;

/** As a pod has one. */
async function podNetns(families: readonly Family[]): Promise<string> {
  const netns = await farm.add();
  const script = [
    'ip link add eth0 type veth peer name peer0',
    ...families.map((family) => ADDRESSES[family]),
    'ip link set eth0 up',
  ];
  await inside(netns, ['sh', '-ec', script.join('\n')]);
  return netns;
}

async function runIstio(form: Form, netns: string, { words, environment }: Invocation): Promise<void> {
  const how = form === 'nftables' ? ['--native-nftables'] : ['--force-iptables-binary', 'legacy'];
  const argv = [`--net=${netns}`, meshPrograms.path('pilot-agent'), 'istio-iptables', ...words, ...how];
  await run('nsenter', argv, { env: { PATH: process.env.PATH ?? '', ...environment } });
}

async function runOurs(form: Form, netns: string, args: readonly string[]): Promise<void> {
  const ruleset = rulesetOf(args);
  if (form === 'iptables')
    await (await native().compile({ backend: 'iptables-legacy', ruleset })).apply(await identify(netns));
  else await restoreNft(netns, nftablesText(lower(ruleset, { counters: true })));
}

/** The rules of one family, each as `table CHAIN: rule`, by chain and in its order. */
async function rulesIn(form: Form, netns: string, family: Family): Promise<string[]> {
  if (form === 'iptables') {
    const saved = await inside(netns, [family === '4' ? 'iptables-legacy-save' : 'ip6tables-legacy-save']);
    return saved.split(/^\*/m).flatMap((table) => {
      const [name, ...lines] = table.split('\n');
      return lines.filter((line) => line.startsWith('-A')).map((line) => line.replace(/^-A (\S+)/, `${name} $1:`));
    });
  }
  let [table, chain] = ['', ''];
  return (await inside(netns, ['nft', '--stateless', 'list', 'ruleset'])).split('\n').flatMap((line) => {
    const [, word, name = ''] = /^\t?(table inet|chain) (?:istio-proxy-)?(\S+) \{$/.exec(line) ?? [];
    if (word === 'chain') chain = name;
    else if (word !== undefined) table = name;
    if (!line.startsWith('\t\t') || !concerns(line, family)) return [];
    return [`${table} ${chain}: ${canonical(line.trim())}`];
  });
}

/** Tables of family inet hold the rules of both. */
function concerns(rule: string, family: Family): boolean {
  return !(family === '4' ? /\bip6 |nfproto ipv6/ : /\bip |nfproto ipv4/).test(rule);
}

/** A rule's conditions in one order, the counter after them; without what `concerns` has looked at. */
function canonical(rule: string): string {
  const words = rule
    .replace(/ counter|meta nfproto ipv[46] |ip6? daddr (0\.0\.0\.0|::)\/0 /g, '')
    .replace(/^counter /, '');
  const conditions =
    words.match(
      /(?:meta l4proto|[io]ifname|ip6? [sd]addr|(?:tcp|udp) [sd]port|meta sk[ug]id|meta mark|ct mark|ct state)(?= (?!set)) (?:!= )?(?:\{[^}]*\}|\S+) /g,
    ) ?? [];
  const rest = conditions.reduce((left, condition) => left.replace(condition, ''), words);
  return [...conditions.toSorted(), rest].join('');
}

/** Rules side by side that all return are in any order the same, and no rule does more for being there twice. */
function comparable(rules: readonly string[], side: 'istio' | 'ours', form: Form, showed: Set<string>): string[] {
  const lines = rules.flatMap((rule) => {
    let line: string | undefined = rule;
    for (const { reason, form: only, [side]: change } of DIFFERENCES) {
      if (line === undefined || change === undefined || (only ?? form) !== form) continue;
      const changed: string | undefined = change(line);
      if (changed !== line) showed.add(reason);
      line = changed;
    }
    return line === undefined ? [] : [line];
  });
  const chains = Map.groupBy([...new Set(lines)], (line) => line.slice(0, line.indexOf(':')));
  return [...chains.values()].flatMap(withReturnsSorted).toSorted((a, b) => chainOf(a).localeCompare(chainOf(b)));
}

const chainOf = (line: string) => line.slice(0, line.indexOf(':'));

function withReturnsSorted(lines: readonly string[]): string[] {
  const sorted: string[] = [];
  let run: string[] = [];
  for (const line of lines) {
    if (/return$/i.test(line)) run.push(line);
    else {
      sorted.push(...run.toSorted(), line);
      run = [];
    }
  }
  return [...sorted, ...run.toSorted()];
}

/** What leads packets to TPROXY, and the address of the proxy's own connections; ours are marked as of protocol 133. */
const ROUTES = `for family in 4 6; do
  ip -$family rule show
  ip -$family route show table all | grep "^local default" || true
done
ip -6 address show dev lo | grep -o " ::6/128" || true`;

async function routesIn(netns: string): Promise<string> {
  return (await inside(netns, ['sh', '-ec', ROUTES])).replaceAll(' proto 133', '');
}

const showed = new Set<string>();

for (const form of ['iptables', 'nftables'] as const) {
  const test = suite(`mesh, rules, ${form}`);
  test.needs('mesh', 'nft', ...INSTALL_NEEDS);
  test.before(() => {
    farm = new Farm('rules');
  });
  test.after(() => farm?.[Symbol.asyncDispose]());

  const compared: Case[] = cases.filter(({ name }) => UNTAKEN[name] === undefined);
  for (const { name, args } of compared) {
    test(name, async () => {
      const same = withoutRanges(args);
      const istio = invocation(same);
      const [theirs, own] = await Promise.all([podNetns(istio.families), podNetns(istio.families)]);
      await Promise.all([runIstio(form, theirs, istio), runOurs(form, own, same)]);
      for (const family of istio.families) {
        assert.deepEqual(
          comparable(await rulesIn(form, own, family), 'ours', form, showed),
          comparable(await rulesIn(form, theirs, family), 'istio', form, showed),
          `IPv${family}`,
        );
      }
      // A pod of IPv6 alone gets those of IPv4 too from Istio.
      if (form === 'iptables' && istio.families[0] === '4') assert.equal(await routesIn(own), await routesIn(theirs));
      await Promise.all([farm.del(theirs), farm.del(own)]);
    });
  }

  test('each documented difference is detected', () => {
    const told = DIFFERENCES.filter((each) => (each.form ?? form) === form).map(({ reason }) => reason);
    assert.deepEqual(
      told.filter((reason) => !showed.has(reason)),
      [],
    );
  });
}
