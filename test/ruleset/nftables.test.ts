/** The nftables form: that it does what the Ruleset does, that nft takes it and prints it, and what it costs. */

import assert from 'node:assert/strict';
import { inspect, isDeepStrictEqual } from 'node:util';
import type { Ruleset, TableName } from '../../lib/ruleset/model.ts';
import { lower } from '../../lib/ruleset/nftables/lower.ts';
import type { NftRuleset } from '../../lib/ruleset/nftables/model.ts';
import { simplify } from '../../lib/ruleset/nftables/simplify.ts';
import { nftablesText } from '../../lib/ruleset/nftables/text.ts';
import { nftables } from '../../lib/ruleset/nftables.ts';
import { type Case, cases } from '../cases.ts';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { expressions, fateByNftables, fateByRuleset, packetsFor } from '../support/evaluate.ts';
import { isOver } from '../support/patience.ts';
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
    compare(await rulesetOf(args), PACKETS, randomNumbers(name));
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

meaning('no condition without an owner is left to nft, which knows none', async () => {
  for (const { args } of [...cases, ...more]) {
    for (const { conditions } of rulesOf(nftables(await rulesetOf(args), { counters: true }))) {
      assert.ok(!conditions.some(({ field, not }) => not && (field === 'skuid' || field === 'skgid')), args.join(' '));
    }
  }
});

meaning('a Ruleset of one family leaves the other alone', async () => {
  const ruleset = await rulesetOf(['-m', 'TPROXY', '--redirect-dns', '--capture-all-dns', '--ip-families', '4']);
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
    const plain = lower(await rulesetOf(args), { counters: true });
    const [before, after] = [plain, simplify(plain)].map(expressions) as [number, number];
    assert.ok(after <= before, `${name}: ${after}, plain ${before}`);
    if (name === 'no flags') assert.ok(after <= 0.7 * before, `${after}, plain ${before}`);
  }
});

size('a thousand of each are done at once', async () => {
  const many = (name: (at: number) => string) => Array.from({ length: 1000 }, (_, at) => name(at)).join(',');
  const ports = many((at) => String(1000 + 2 * at));
  const networks = many((at) => `10.${at >> 8}.${at & 255}.0/25`);
  const ruleset = await rulesetOf([
    '-b',
    ports,
    '-o',
    ports,
    '-q',
    ports,
    '-i',
    networks,
    '-x',
    networks,
    '-k',
    'a,b,c',
  ]);
  const start = performance.now();
  const simple = nftables(ruleset, { counters: true });
  assert.ok(!isOver(start, 3000), `${performance.now() - start} ms`);
  assert.ok(rulesOf(simple).length < 30);
});

const text = suite('nftables: text');

text('the defaults, whole', async () => {
  assert.equal(
    nftablesText(nftables(await rulesetOf([]), { counters: true })),
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
    tcp dport { 15008, 15020-15021, 15090 } counter return
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

const kernel = suite('nftables: nft');
kernel.needs('netns', 'ipv6', 'ip', 'nft');
kernel.before.each(() => {
  discard();
  ip('netns', 'add', NETNS);
});
kernel.after.each(discard);

for (const { name, args } of [...cases, ...more]) {
  kernel(`nft reads it, reads it again, and lists it as it was: ${name}`, async () => {
    const ruleset = await rulesetOf(args);
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
      nft(['-f', '-'], nftablesText(lower(await rulesetOf(args), { counters: true })));
      nft(['flush', 'ruleset']);
    }
  },
  { timeoutMs: 60_000 },
);

/** Each packet, in each table, by the Ruleset, its plain form and the simplified one. */
function compare(ruleset: Ruleset, count: number, random: () => number): void {
  const plain = lower(ruleset, { counters: true });
  const simple = simplify(plain);
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

async function rulesetOf(args: readonly string[]): Promise<Ruleset> {
  const { code, stdout, stderr } = await ipnc(['plan', '--format', 'json', ...args]);
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout).ruleset;
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
