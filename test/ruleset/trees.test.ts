/** Long lists as trees of chains: that packets fare as with the plan's rules, and that a packet meets few rules. */
import assert from 'node:assert/strict';
import { inspect, isDeepStrictEqual } from 'node:util';
import { argumentsSource } from '../../lib/istio/arguments.ts';
import { plan } from '../../lib/istio/plan.ts';
import { redirect } from '../../lib/istio/redirect.ts';
import { iptablesText } from '../../lib/ruleset/iptables.ts';
import { LIST_CHAIN, type Ruleset, type TableName } from '../../lib/ruleset/model.ts';
import { type Shape, withTrees } from '../../lib/ruleset/trees.ts';
import { cases } from '../cases.ts';
import { suite } from '../suite.ts';
import { fateByRuleset, packetsFor, rulesMet } from '../support/evaluate.ts';
import { randomNumbers } from '../support/random.ts';
import { randomRuleset } from '../support/random-ruleset.ts';

const TABLES: readonly TableName[] = ['raw', 'mangle', 'nat'];
const RANDOM_RULESETS = 2000;

const list = (length: number, item: (at: number) => string) => Array.from({ length }, (_, at) => item(at)).join();
const odd = (at: number) => String(2 * at + 1);
const ranges = (at: number) => (at % 3 === 0 ? `${7 * at + 1}-${7 * at + 4}` : `${7 * at + 1}`);
const cidr4 = (at: number) => `10.${at >> 4}.${(at * 16) & 255}.0/${at % 5 === 0 ? 22 : 28}`;
const cidr6 = (at: number) => `fd00:${(at * 7).toString(16)}::/${at % 5 === 0 ? 32 : 64}`;
const both = (at: number) => (at % 2 === 0 ? cidr4(at) : cidr6(at));
const everyDns = ['--redirect-dns', '--capture-all-dns'];

/** By name; each with at least one list that is long. */
const LONG: Record<string, string[]> = {
  'excluded outbound ports': ['-o', list(60, odd)],
  'excluded outbound ports and ranges': ['-o', list(90, ranges)],
  'ranges that overlap': ['-o', list(60, (at) => `${at + 1}-${at + 500}`)],
  'included and excluded outbound ports': ['-o', list(60, odd), '-q', list(90, ranges)],
  'outbound ports beside no ranges': ['-q', list(200, odd), '-i', ''],
  'excluded inbound ports': ['-d', list(200, odd)],
  'inbound ports': ['-b', list(200, ranges)],
  'TPROXY, excluded inbound ports': ['-m', 'TPROXY', '-d', list(60, ranges)],
  'TPROXY, inbound ports': ['-m', 'TPROXY', '-b', list(60, ranges)],
  'TPROXY, ranges that overlap': ['-m', 'TPROXY', '-b', list(60, (at) => `${at + 1}-${at + 500}`)],
  'excluded CIDRs': ['-x', list(200, both)],
  'excluded CIDRs of one family': ['-x', list(100, cidr4)],
  'excluded CIDRs, one family': ['-x', list(300, cidr6), '--ip-families', '6'],
  'a power of two in each CIDR': ['-x', list(128, (at) => `8000::/${at + 1}`.replace(/\/1$/, '/128'))],
  'addresses ever further apart': [
    '-x',
    list(
      120,
      (at) =>
        `${(2n ** BigInt(at + 1))
          .toString(16)
          .padStart(32, '0')
          .replace(/(.{4})(?=.)/g, '$1:')}/128`,
    ),
  ],
  'included CIDRs': ['-i', list(300, both)],
  'included and excluded CIDRs': ['-i', list(100, cidr4), '-x', list(90, (at) => `10.${at}.7.0/24`)],
  'virtual interfaces and CIDRs': ['-k', 'vm0', '-i', list(80, both)],
  'several virtual interfaces and CIDRs': ['-k', 'vm0,vm1', '-i', list(80, both)],
  'ports and CIDRs': ['-o', list(60, odd), '-x', list(160, both), '-q', '7777'],
  'all DNS, port 53 among the excluded ones': [...everyDns, '-o', `53,${list(60, odd)}`, '-g', '9'],
  'all DNS, included and excluded ports, owners': [
    ...[...everyDns, '-o', list(60, odd), '-q', list(60, ranges), '-u', '1337,7', '--owner-groups-exclude', '3'],
  ],
  'many DNS servers': ['--redirect-dns', '--dns-servers', list(70, (at) => `10.0.${at}.53`)],
  'owner groups and ports': ['--owner-groups', '3,4', '-o', list(60, odd)],
  'the whole lot': [
    ...['-m', 'TPROXY', ...everyDns, '--drop-invalid', '-u', '1337,2000', '-b', '*', '-d', list(60, ranges)],
    ...['-i', list(50, both), '-x', list(90, cidr4), '-q', list(50, odd), '-o', list(50, ranges), '-k', 'vm0,vm1'],
  ],
};

const meaning = suite('trees of lists: meaning');

for (const [name, args] of Object.entries(LONG)) {
  meaning(`packets fare as with the plan: ${name}`, () => {
    const ruleset = planOf(args);
    assert.ok(hasTrees(withTrees(ruleset)));
    compare(ruleset, 2000, randomNumbers(name));
  });
}

/** So small that a few rules already make a tree, of several levels. */
const SMALL: Shape[] = [
  { short: { ports: 0, cidrs: 0 }, leaf: { ports: 1, cidrs: 1 }, branches: 2 },
  { short: { ports: 1, cidrs: 1 }, leaf: { ports: 1, cidrs: 2 }, branches: 3 },
  { short: { ports: 3, cidrs: 3 }, leaf: { ports: 2, cidrs: 4 }, branches: 4 },
];

meaning(
  'packets fare as with the Ruleset: every case of the others, with lists of any length as trees',
  () => {
    for (const { name, args } of cases) {
      for (const shape of SMALL) compare(planOf(args), 200, randomNumbers(name), shape);
    }
  },
  { timeoutMs: 60_000 },
);

meaning(
  'packets fare as with the Ruleset: rules that no plan makes',
  () => {
    const random = randomNumbers('trees of rules that no plan makes');
    let trees = 0;
    for (let at = 0; at < RANDOM_RULESETS; at++) {
      const ruleset = randomRuleset(random, { lists: true });
      const shape = SMALL[at % SMALL.length] as Shape;
      if (hasTrees(withTrees(ruleset, shape))) trees++;
      compare(ruleset, 100, random, shape);
    }
    assert.ok(trees > RANDOM_RULESETS / 2, `${trees} have trees`);
  },
  { timeoutMs: 60_000 },
);

const size = suite('trees of lists: size');

size('lists that are short stay as Istio writes them', () => {
  for (const { name, args } of cases.filter(({ name }) => !/hundred|many/.test(name))) {
    assert.deepEqual(withTrees(planOf(args)), planOf(args), name);
  }
  const ports = (length: number) => ['-d', list(length, odd), '-e', '15008'];
  // The tunnel's port and the agent's three are in the same list.
  assert.ok(!hasTrees(withTrees(planOf(ports(12)))));
  assert.ok(hasTrees(withTrees(planOf(ports(13)))));
  // And the loopback address is in that of the CIDRs.
  assert.ok(!hasTrees(withTrees(planOf(['-x', list(63, cidr4)]))));
  assert.ok(hasTrees(withTrees(planOf(['-x', list(64, cidr4)]))));
});

size('trees have at most half as many rules more than the plan', () => {
  for (const [name, args] of [...Object.entries(LONG), ...lengths()]) {
    const [before, after] = [planOf(args), withTrees(planOf(args))].map(rules) as [number, number];
    assert.ok(after <= 1.5 * before + 24, `${name}: ${after}, plan ${before}`);
  }
});

size('a connection meets about as many rules with long lists as with none', () => {
  const random = randomNumbers('rules met');
  const defaults = most(withTrees(planOf([])), random);
  // In rules that it meets. One that looks at an address alone takes a fifth of the time of one that looks at a port.
  for (const [name, more, args] of [
    ['1,000 excluded ports', 16, ['-o', list(1000, (at) => `${at * 50 + 1}`)]],
    ['1,000 excluded inbound ports', 16, ['-d', list(1000, (at) => `${at * 50 + 1}`)]],
    ['1,000 included ports', 16, ['-q', list(1000, (at) => `${at * 50 + 1}`), '-i', '']],
    ['100 excluded CIDRs', 64, ['-x', list(100, cidr4)]],
    ['1,000 excluded CIDRs', 84, ['-x', list(1000, cidr4)]],
    ['1,000 included CIDRs', 84, ['-i', list(1000, cidr4)]],
  ] as const) {
    const met = most(withTrees(planOf(args)), random);
    assert.ok(met.app <= defaults.app + more, `${name}: ${met.app} rules, defaults ${defaults.app}`);
    assert.ok(met.proxy <= defaults.proxy, `${name}: the proxy's connection ${met.proxy}, defaults ${defaults.proxy}`);
  }
});

size('the time grows with the length of a list, not with its square', () => {
  const took = [250, 1000].map((length) => {
    const ruleset = planOf(['-i', list(length, (at) => `10.${at >> 8}.${at & 255}.0/${at % 2 ? 25 : 32}`)]);
    const start = performance.now();
    withTrees(ruleset);
    return performance.now() - start;
  });
  assert.ok((took[1] ?? 0) < 16 * (took[0] ?? 0) + 500, `${took} ms`);
});

/** The most rules in nat that a new connection out of the pod meets: of the app, and of the proxy. */
function most(ruleset: Ruleset, random: () => number): { app: number; proxy: number } {
  const met = { app: 0, proxy: 0 };
  for (const packet of packetsFor(ruleset, 2000, random)) {
    if (packet.protocol !== 6) continue;
    const out = { ...packet, hook: 'output' as const, outInterface: 'eth0' };
    met.app = Math.max(met.app, rulesMet(ruleset, 'nat', { ...out, owner: { uid: 1, gid: 1 } }));
    met.proxy = Math.max(met.proxy, rulesMet(ruleset, 'nat', { ...out, owner: { uid: 1337, gid: 1337 } }));
  }
  return met;
}

/** One list of each kind, of lengths around those at which a tree begins or grows. */
function lengths(): [string, string[]][] {
  return [1, 5, 8, 9, 10, 16, 17, 18, 33, 64, 65, 66, 130, 200].flatMap((length) =>
    [
      ['-o', ranges],
      ['-d', ranges],
      ['-b', ranges],
      ['-q', ranges],
      ['-x', both],
      ['-i', both],
    ].map(([flag, item]): [string, string[]] => {
      return [
        `${length} of ${flag}`,
        [flag as string, list(length, item as typeof odd), '-m', 'TPROXY', '-u', '7,1337'],
      ];
    }),
  );
}

function planOf(args: readonly string[]): Ruleset {
  const at = args.indexOf('--ip-families');
  const families = at === -1 ? ([4, 6] as const) : ([Number(args[at + 1])] as (4 | 6)[]);
  const flags = at === -1 ? args : args.toSpliced(at, 2);
  return plan(redirect({ flags: argumentsSource(flags, 'flags') }, () => ['10.96.0.10']).spec, families);
}

function hasTrees({ tables }: Ruleset): boolean {
  return tables.some(({ chains }) => chains.some(({ name }) => name.startsWith(LIST_CHAIN)));
}

function rules({ tables }: Ruleset): number {
  return tables.flatMap(({ chains }) => chains.flatMap(({ inserts, rules }) => [...inserts, ...rules])).length;
}

function compare(ruleset: Ruleset, count: number, random: () => number, shape?: Shape): void {
  const trees = withTrees(ruleset, shape);
  for (const packet of packetsFor(ruleset, count, random)) {
    for (const table of TABLES) {
      const [expected, actual] = [ruleset, trees].map((each) => fateByRuleset(each, table, packet));
      if (isDeepStrictEqual(actual, expected)) continue;
      const texts = [ruleset, trees].map((each) => iptablesText(each, packet.family));
      assert.deepEqual(actual, expected, `${table}, ${inspect(packet)}\n${texts.join('\n')}`);
    }
  }
}
