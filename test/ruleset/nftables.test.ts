/** The nftables form: that it does what the Ruleset does, that nft takes it and prints it, and what it costs. */

import assert from 'node:assert/strict';
import { inspect, isDeepStrictEqual } from 'node:util';
import { argumentsSource } from '../../lib/istio/arguments.ts';
import { plan } from '../../lib/istio/plan.ts';
import { redirect } from '../../lib/istio/redirect.ts';
import type { Rule, Ruleset, TableName } from '../../lib/ruleset/model.ts';
import { Effects } from '../../lib/ruleset/nftables/effects.ts';
import { lower } from '../../lib/ruleset/nftables/lower.ts';
import type { NftRuleset } from '../../lib/ruleset/nftables/model.ts';
import { type Comparisons, simplify } from '../../lib/ruleset/nftables/simplify.ts';
import { nftablesText, nftRuleText } from '../../lib/ruleset/nftables/text.ts';
import { nftables } from '../../lib/ruleset/nftables.ts';
import { type Case, cases } from '../cases.ts';
import { suite } from '../suite.ts';
import { rulesetOf } from '../support/command-line.ts';
import { expressions, fateByNftables, fateByRuleset, packetsFor } from '../support/evaluate.ts';
import { output } from '../support/process.ts';
import { randomNumbers } from '../support/random.ts';
import { randomRuleset } from '../support/random-ruleset.ts';

const NETNS = 'ipnc-nft-text';
const TABLES: readonly TableName[] = ['raw', 'mangle', 'nat'];
const PACKETS = 3000;
const RANDOM_RULESETS = 3000;
/** Cases that cases.ts has no need of. */
const more: Case[] = [
  {
    name: 'all DNS, one group that is the proxy',
    args: ['--redirect-dns', '--capture-all-dns', '--owner-groups', '1337'],
  },
  { name: 'DNS servers, IPv4 only', args: ['--redirect-dns', '--dns-servers', '10.0.0.1', '--ip-families', '4'] },
  { name: 'TPROXY, no outbound', args: ['-m', 'TPROXY', '-i', ''] },
];

const meaning = suite('nftables: meaning');

for (const { name, args } of [...cases, ...more]) {
  meaning(`packets fare as with the Ruleset: ${name}`, async () => {
    compare(rulesetOf(args), PACKETS, randomNumbers(name));
  });
}

for (const { name, args } of cases.filter(({ args }) => !args.includes('--ip-families'))) {
  meaning(`a blocked family: each family fares as by itself, in both forms: ${name}`, () => {
    const { spec } = redirect({ flags: argumentsSource(args, 'flags') }, () => ['10.96.0.10']);
    const ruleset = plan(spec, { captured: [4], blocked: [6], loopback6: true });
    compare(ruleset, 500, randomNumbers(name));
    const alone = { 4: plan(spec, [4]), 6: plan(spec, { captured: [], blocked: [6], loopback6: true }) };
    for (const packet of packetsFor(ruleset, 500, randomNumbers(name)))
      for (const table of TABLES) {
        const expected = fateByRuleset(alone[packet.family], table, packet);
        assert.deepEqual(fateByRuleset(ruleset, table, packet), expected, `${table}, ${inspect(packet)}`);
      }
  });
}

meaning(
  'packets fare as with the Ruleset: rules that no plan makes',
  () => {
    const random = randomNumbers('rules that no plan makes');
    for (let at = 0; at < RANDOM_RULESETS; at++) compare(randomRuleset(random), 200, random);
  },
  { timeoutMs: 60_000 },
);

meaning('two jumps to a chain that changes what it looks at stay two', () => {
  const mark = (value: number) => ({ matches: [{ kind: 'mark', value, not: false }] }) as const;
  const rule = (given: object) => ({ matches: [], ...given }) as unknown as Rule;
  const swap = [
    rule({ ...mark(7), target: { kind: 'set-mark', value: 9 } }),
    rule({ ...mark(8), target: { kind: 'set-mark', value: 7 } }),
  ];
  const toChain = (last: number) => {
    const matches = [{ kind: 'port', side: 'destination', range: { first: 80, last }, not: false }];
    return rule({ protocol: 'tcp', matches, target: { kind: 'jump', chain: 'ISTIO_DIVERT' } });
  };
  const chains = [
    { name: 'OUTPUT', builtin: true, inserts: [], rules: [toChain(80), toChain(81)] },
    { name: 'ISTIO_DIVERT', builtin: false, inserts: [], rules: swap },
  ];
  compare(
    { families: [4], tables: [{ name: 'mangle', chains }], routes: { loopback6: false } },
    3000,
    randomNumbers('jumps'),
  );
});

meaning(
  'packets fare as with the Ruleset wherever the comparisons run out',
  () => {
    const random = randomNumbers('comparisons');
    for (const chain of [0, 1, 10, 100, 300, 1000, 3000]) {
      for (const { args } of [...cases, ...more].filter((_, at) => at % 3 === chain % 3)) {
        compare(planOf(args), 200, randomNumbers('comparisons'), { chain, rule: 0 });
      }
      for (let at = 0; at < 200; at++) compare(randomRuleset(random), 100, random, { chain, rule: 0 });
    }
  },
  { timeoutMs: 120_000 },
);

meaning('no rule depends on packets without an owner, which nft cannot match', async () => {
  for (const { args } of [...cases, ...more]) {
    for (const { conditions } of rulesOf(nftables(rulesetOf(args), { counters: true }))) {
      assert.ok(!conditions.some(({ field, not }) => not && (field === 'skuid' || field === 'skgid')), args.join(' '));
    }
  }
});

meaning('a Ruleset of one family leaves the other alone', async () => {
  const ruleset = rulesetOf(['-m', 'TPROXY', '--redirect-dns', '--capture-all-dns', '--ip-families', '4']);
  for (const { chains } of nftables(ruleset, { counters: true }).tables) {
    for (const { conditions } of chains.filter(({ hook }) => hook !== undefined).flatMap(({ rules }) => rules)) {
      assert.deepEqual(conditions.find(({ field }) => field === 'nfproto')?.values, [{ first: 2n, last: 2n }]);
    }
  }
});

meaning('what no plan asks for is refused rather than got wrong', () => {
  const conditions = [
    { field: 'oifname', not: false, values: [{ first: 1n, last: 1n }] },
    { field: 'skgid', not: true, values: [{ first: 7n, last: 7n }] },
  ] as const;
  const rules = [
    {
      conditions: [...conditions].map((one) => ({ ...one, values: [...one.values] })),
      counter: false,
      target: { kind: 'return' },
    },
    { conditions: [], counter: false, target: { kind: 'drop' } },
  ] satisfies NftRuleset['tables'][number]['chains'][number]['rules'];
  const hook = { type: 'nat', hook: 'output', priority: -100 } as const;
  const tables: NftRuleset['tables'] = [{ name: 'nat', chains: [{ name: 'output', hook, rules }] }];
  assert.throws(() => simplify({ families: [4], tables, routes: { loopback6: false } }), /all but some owners/);
});

const size = suite('nftables: size');

size('of the defaults at least 30 % less, and in no case more', async () => {
  for (const { name, args } of [...cases, ...more]) {
    const plain = lower(rulesetOf(args), { counters: true });
    const [before, after] = [plain, simplify(plain)].map(expressions) as [number, number];
    assert.ok(after <= before, `${name}: ${after}, plain ${before}`);
    if (name === 'no flags') assert.ok(after <= 0.7 * before, `${after}, plain ${before}`);
  }
});

/** Lists that a pod's creator may choose, for a list of this length. Ranges that overlap are never joined. */
const HOSTILE: Record<string, (length: number) => string[]> = {
  'reroutes times ranges': (length) => [
    ...['-m', 'TPROXY', '-i', list(10, (at) => `10.${at}.0.0/16`)],
    ...['-k', list(Math.ceil(length / 4), (at) => `k${at}`), '-c', list(Math.ceil(length / 4), (at) => `e${at}`)],
  ],
  ports: (length) => ['-d', list(length, odd), '-o', list(length, odd), '-q', list(length, odd)],
  'TPROXY of ports': (length) => ['-m', 'TPROXY', '-b', list(length, odd)],
  'TPROXY of ranges that overlap': (length) => ['-m', 'TPROXY', '-b', list(length, (at) => `${at + 1}-${at + 5000}`)],
  'TPROXY of ports and ranges that overlap': (length) => [
    ...['-m', 'TPROXY', '-b', list(length, (at) => (at % 2 ? `${40_000 + at}` : `${at + 1}-${at + 2000}`))],
  ],
  'ranges and ranges that are excepted': (length) => [
    ...['-i', list(length, (at) => `10.${at >> 8}.${at & 255}.7/32`)],
    ...['-x', list(length, (at) => `10.${(at + 3) >> 8}.${(at + 3) & 255}.7/32`)],
  ],
  'uids and ranges that overlap': (length) => [
    ...['-m', 'TPROXY', '-u', list(16, (at) => `${at + 1}`), '-b', list(length, (at) => `${at + 1}-${at + 5000}`)],
    ...['--redirect-dns', '--dns-servers', list(Math.ceil(length / 8), (at) => `10.0.${at >> 8}.${at & 255}`)],
  ],
};
for (const [name, args] of Object.entries(HOSTILE)) {
  size(`twice as many take about twice as many comparisons, and the same packets pass: ${name}`, () => {
    const compared: number[] = [];
    for (const length of [225, 450, 900]) {
      const ruleset = planOf(args(length));
      const { comparisons, simple } = counted(() => nftables(ruleset, { counters: true }));
      const rules = rulesOf(lower(ruleset, { counters: true })).length;
      // In each of at most eight chains of three tables.
      assert.ok(comparisons < 8 * 25_000 + 16 * rules, `${comparisons} for ${rules} rules`);
      compared.push(comparisons);
      if (length === 225) compare(ruleset, 60, randomNumbers(name));
      assert.ok(simple.tables.length > 0);
    }
    const [first = 0, , last = 0] = compared;
    assert.ok(last < 4 * first + 20_000, `${compared}`);
  });
}

/** In this process, where the command line would take most of the time. */
function planOf(args: readonly string[]): Ruleset {
  return plan(redirect({ flags: argumentsSource(args, 'flags') }, () => ['10.96.0.10']).spec, [4, 6]);
}

/** How many boxes are compared meanwhile. */
function counted(work: () => NftRuleset): { comparisons: number; simple: NftRuleset } {
  const used = new Set<Effects>();
  const { commute } = Effects.prototype;
  Effects.prototype.commute = function (...steps) {
    used.add(this);
    return commute.apply(this, steps);
  };
  try {
    const simple = work();
    return { simple, comparisons: [...used].reduce((sum, { comparisons }) => sum + comparisons, 0) };
  } finally {
    Effects.prototype.commute = commute;
  }
}

function list(length: number, item: (at: number) => string): string {
  return Array.from({ length }, (_, at) => item(at)).join();
}

function odd(at: number): string {
  return String(2 * at + 1);
}

size('lists are joined, however long they are', () => {
  const args = ['-b', list(300, odd), '-o', list(300, odd), '-q', list(300, odd), '-k', 'a,b'];
  const ranges = ['-i', list(500, (at) => `10.${at >> 8}.${at & 255}.0/25`)];
  assert.ok(rulesOf(nftables(planOf([...args, ...ranges]), { counters: true })).length < 30);
});

const text = suite('nftables: text');

text('the defaults, whole', async () => {
  assert.equal(
    nftablesText(nftables(rulesetOf([]), { counters: true })),
    `table inet istio-proxy-nat
flush table inet istio-proxy-nat
table inet istio-proxy-nat {
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    meta l4proto tcp counter jump istio-inbound
  }

  chain output {
    type nat hook output priority -100; policy accept;
    counter jump istio-output
  }

  chain istio-inbound {
    tcp dport { 15008, 15020, 15021, 15090 } counter return
    counter jump istio-in-redirect
  }

  chain istio-in-redirect {
    meta l4proto tcp counter redirect to :15006
  }

  chain istio-output {
    oifname "lo" ip saddr 127.0.0.6 counter return
    oifname "lo" ip6 saddr ::6 counter return
    ip daddr 127.0.0.1 counter return
    ip6 daddr ::1 counter return
    oifname "lo" tcp dport != 15008 meta skuid 1337 counter jump istio-in-redirect
    oifname "lo" counter return
    meta skuid 1337 counter return
    meta skgid 1337 counter return
    counter jump istio-redirect
  }

  chain istio-redirect {
    meta l4proto tcp counter redirect to :15001
  }
}
`,
  );
});

text('a set of ports lists each of them, as long as they are few', () => {
  const ports = (args: string[]) =>
    nftablesText(nftables(planOf(args), { counters: false })).match(/dport \{.*?\}/)?.[0];
  assert.equal(ports(['-d', '22,30-33']), 'dport { 22, 30, 31, 32, 33, 15008, 15020, 15021, 15090 }');
  assert.equal(
    ports(['-d', '22,30-44']),
    `dport { 22, ${list(15, (at) => `${at + 30}`).replaceAll(',', ', ')}, 15008, 15020, 15021, 15090 }`,
  );
  assert.equal(ports(['-d', '22,30-46']), 'dport { 22, 30-46, 15008, 15020-15021, 15090 }');
});

text("the proxy's own connections return before sets are looked up", () => {
  for (const args of [
    ['-x', '10.0.0.0/24,10.2.0.0/16,fd00::/8'],
    ['-x', '10.0.0.0/24,10.2.0.0/16', '-m', 'TPROXY'],
    ['-x', '10.0.0.0/24,10.2.0.0/16', '--redirect-dns', '--capture-all-dns'],
  ]) {
    const simple = nftables(planOf(args), { counters: false });
    const rules = rulesOf(simple).map(nftRuleText);
    const owner = rules.indexOf('meta skgid 1337 return');
    const set = rules.indexOf('ip daddr { 10.0.0.0/24, 10.2.0.0/16, 127.0.0.1 } return');
    assert.ok(owner >= 0 && set > owner, nftablesText(simple));
  }
});

const kernel = suite('nftables: nft');
kernel.needs('netns', 'ipv6', 'ip', 'nft');
kernel.before.each(() => {
  discard();
  ip('netns', 'add', NETNS);
});
kernel.after.each(discard);

for (const { name, args } of [...cases, ...more]) {
  kernel(`nft reads it, reads it again, and lists it as it was: ${name}`, async () => {
    const ruleset = rulesetOf(args);
    for (const counters of [true, false]) {
      const expected = nftablesText(nftables(ruleset, { counters }));
      nft(['-f', '-'], expected);
      nft(['-f', '-'], expected);
      assert.equal(listed(nft(['list', 'ruleset'])), listed(expected));
    }
  });
}

kernel(
  'nft reads the plain form too',
  async () => {
    // A rule has at most 128 expressions (net/netfilter/nf_tables_api.c, NFT_RULE_MAXEXPRS): 64 groups are too many.
    for (const { args } of cases.filter(({ name }) => name !== '64 owner groups')) {
      nft(['-f', '-'], nftablesText(lower(rulesetOf(args), { counters: true })));
      nft(['flush', 'ruleset']);
    }
  },
  { timeoutMs: 60_000 },
);

/** Each packet, in each table, by the Ruleset, its plain form and the simplified one. */
function compare(ruleset: Ruleset, count: number, random: () => number, comparisons?: Comparisons): void {
  const plain = lower(ruleset, { counters: true });
  const simple = simplify(plain, comparisons);
  for (const packet of packetsFor(ruleset, count, random)) {
    for (const table of TABLES) {
      const expected = fateByRuleset(ruleset, table, packet);
      for (const form of [plain, simple]) {
        const actual = fateByNftables(form, table, packet, form === plain);
        if (isDeepStrictEqual(actual, expected)) continue;
        const forms = `plain:\n${nftablesText(plain)}\nsimplified:\n${nftablesText(simple)}`;
        assert.deepEqual(
          actual,
          expected,
          `${form === plain ? 'plain' : 'simplified'}, ${table}, ${inspect(packet)}\n${forms}`,
        );
      }
    }
  }
}

function rulesOf({ tables }: NftRuleset) {
  return tables.flatMap(({ chains }) => chains.flatMap(({ rules }) => rules));
}

/** Tables by name, since the kernel lists them in the order of their making; without counts and white space. */
function listed(text: string): string {
  return text
    .replace(/^(flush )?table inet \S+\n/gm, '')
    .replace(/counter packets \d+ bytes \d+/g, 'counter')
    .replace(/^\s+/gm, '')
    .split(/(?=^table )/m)
    .sort()
    .join('');
}

function nft(words: string[], input = ''): string {
  return output('ip', ['netns', 'exec', NETNS, 'nft', ...words], { input });
}

function discard(): void {
  try {
    ip('netns', 'del', NETNS);
  } catch {
    // There was none.
  }
}

function ip(...words: string[]): string {
  return output('ip', words);
}
