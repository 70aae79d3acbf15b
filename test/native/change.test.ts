/** A changed configuration replaces the old one without a moment in which traffic goes uncaptured. */
import assert from 'node:assert/strict';
import { native } from '../../lib/native/addon.ts';
import type { Family } from '../../lib/ruleset/model.ts';
import { suite } from '../suite.ts';
import { compile, Farm, INSTALL_NEEDS, identify, inside, nftRules } from '../support/netns.ts';
import { type Call, type Who, World } from '../support/world.ts';

const DURATION_MS = 2000;
const FAMILIES: Family[] = [4, 6];
const NFTABLES = ['--backend', 'nftables'];

const test = suite('change');
test.needs(...INSTALL_NEEDS, 'iptables-legacy-save', 'ip6tables-legacy-save');

/** Installs the configurations in turn while `watch` is called, each over and over, and at least 50 times. */
async function whileChanging(path: string, flags: string[][], watch: () => Promise<void>): Promise<void> {
  const target = await identify(path);
  const compiled = await Promise.all(flags.map((each) => compile(...each)));
  await compiled[0]?.apply(target);
  let over = false;
  let changes = 0;
  let looks = 0;
  const change = async () => {
    while (!over) {
      const { changed } = (await compiled[++changes % compiled.length]?.apply(target)) ?? {};
      assert.equal(changed, true);
      const form = flags[changes % flags.length]?.includes('nftables') ? 'nftables' : 'iptables-legacy';
      assert.deepEqual((await native().identify(path)).installedBackends, [form]);
    }
  };
  const look = async () => {
    while (!over) {
      await watch();
      looks++;
    }
  };
  const until = async () => {
    const start = performance.now();
    while (performance.now() - start < DURATION_MS || changes < 50 || looks < 50) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      if (over) return;
    }
    over = true;
  };
  const ending = (job: Promise<void>) =>
    job.finally(() => {
      over = true;
    });
  const outcomes = await Promise.allSettled([change(), look(), look(), look(), until()].map(ending));
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
}

interface Change {
  flags: string[][];
  calls: [who: Who, call: Call, answers: RegExp][];
  /** TCP that comes in during a change is dropped; whoever sent it sends it again. */
  drops?: boolean;
}

const outbound: Change['calls'][number] = ['app', { protocol: 'tcp', to: 'world', port: 80 }, /^proxy:1[56]001$/];
const inbound: Change['calls'][number] = ['world', { protocol: 'tcp', to: 'pod', port: 8080 }, /^proxy:15006$/];
const dns: Change['calls'][number] = ['app', { protocol: 'tcp', to: 'dns', port: 53 }, /^proxy:15053$/];

const changes: Record<string, Change> = {
  'an excluded port more or less': { flags: [[], ['-o', '5432', '-d', '22']], calls: [outbound, inbound] },
  'another port of the proxy': { flags: [[], ['-p', '16001']], calls: [outbound, inbound] },
  'REDIRECT and TPROXY': { flags: [[], ['-m', 'TPROXY']], calls: [outbound, inbound] },
  'TPROXY with two marks': {
    flags: [
      ['-m', 'TPROXY'],
      ['-m', 'TPROXY', '-t', '7', '-r', '7'],
    ],
    calls: [outbound, inbound],
  },
  'DNS of all servers and of one': {
    flags: [
      ['--redirect-dns', '--capture-all-dns'],
      ['--redirect-dns', '--dns-servers', '10.10.0.53,fd10::53'],
    ],
    calls: [outbound, dns],
  },
  'nftables, an excluded port and another of the proxy': {
    flags: [NFTABLES, [...NFTABLES, '-o', '5432', '-p', '16001', '--counters=false']],
    calls: [outbound, inbound],
  },
  'nftables, REDIRECT and TPROXY with two marks': {
    flags: [NFTABLES, [...NFTABLES, '-m', 'TPROXY'], [...NFTABLES, '-m', 'TPROXY', '-t', '7', '-r', '7']],
    calls: [outbound, inbound],
  },
  'from backend to backend, REDIRECT': { flags: [[], NFTABLES], calls: [outbound, inbound] },
  'from backend to backend, REDIRECT and TPROXY': {
    flags: [[], [...NFTABLES, '-m', 'TPROXY'], NFTABLES, ['-m', 'TPROXY']],
    calls: [outbound, inbound],
  },
  // While both forms are installed, the second would save the mark that the first has given.
  'from backend to backend, TPROXY with one mark': {
    flags: [
      ['-m', 'TPROXY'],
      [...NFTABLES, '-m', 'TPROXY'],
    ],
    drops: true,
    calls: [outbound, inbound],
  },
  'from backend to backend, TPROXY with two marks': {
    flags: [
      ['-m', 'TPROXY'],
      [...NFTABLES, '-m', 'TPROXY', '-t', '7', '-r', '7', '-p', '16001'],
    ],
    drops: true,
    calls: [outbound, inbound],
  },
  'from backend to backend, DNS of all servers and of one': {
    flags: [
      ['--redirect-dns', '--capture-all-dns'],
      [...NFTABLES, '--redirect-dns', '--dns-servers', '10.10.0.53,fd10::53'],
    ],
    calls: [outbound, dns],
  },
};

for (const [name, { flags, calls, drops = false }] of Object.entries(changes)) {
  test(`live traffic is captured all the while: ${name}`, async () => {
    await using world = await World.build({ transparent: true });
    let turn = 0;
    await whileChanging(world.podPath, flags, async () => {
      const [who, call, answers] = calls[turn % calls.length] ?? outbound;
      const family = FAMILIES[Math.floor(turn++ / calls.length) % 2] ?? 4;
      let answer = await world.call(who, family, call);
      // A slow machine is nearly always amid a change here, so that a connection can lose all its tries.
      while (drops && answer === 'ETIMEDOUT') answer = await world.call(who, family, call);
      assert.match(answer, answers, `IPv${family} ${who} -> ${call.to}: ${answer}`);
    });
  });
}

test('a table is never seen without capture, nor with rules of two configurations', async () => {
  await using farm = new Farm('change');
  const path = await farm.add();
  const flags = [
    ['-o', '1111', '-p', '16001'],
    ['-o', '2222', '-p', '16002', '-k', 'vm0'],
    ['-m', 'TPROXY', '-p', '16003', '-o', '3333'],
  ];
  await whileChanging(path, flags, async () => {
    for (const program of ['iptables-legacy-save', 'ip6tables-legacy-save']) {
      const table = await inside(path, [program, '-t', 'nat']);
      const ports = [...table.matchAll(/--(?:dport|to-ports) (1111|2222|3333|1600\d)/g)].map(([, port]) => port);
      assert.match([...new Set(ports)].sort().join(' '), /^(1111 16001|16002 2222|16003 3333)$/, table);
      assert.equal(table.match(/-A OUTPUT -j ISTIO_OUTPUT/g)?.length, 1, table);
      assert.ok(table.includes('-A ISTIO_OUTPUT -j ISTIO_REDIRECT'), table);
    }
  });
  await native().clean(await identify(path));
});

test(
  'with nftables no look shows rules of two configurations, or none',
  async () => {
    await using farm = new Farm('change');
    const path = await farm.add();
    const flags = [
      [...NFTABLES, '-o', '1111', '-p', '16001'],
      [...NFTABLES, '-o', '2222', '-p', '16002', '-k', 'vm0', '--redirect-dns', '--capture-all-dns'],
      [...NFTABLES, '-m', 'TPROXY', '-p', '16003', '-o', '3333'],
    ];
    await whileChanging(path, flags, async () => {
      const rules = await nftRules(path);
      const ports = [...rules.matchAll(/(?:dport|redirect to) :?(1111|2222|3333|1600\d)/g)].map(([, port]) => port);
      assert.match([...new Set(ports)].sort().join(' '), /^(1111 16001|16002 2222|16003 3333)$/, rules);
      const tables = [...rules.matchAll(/^table inet istio-proxy-(\w+)/gm)].map(([, table]) => table);
      const expected = { 1111: 'nat', 2222: 'nat,raw', 3333: 'mangle,nat' }[
        ports.find((port) => Number(port) < 4000) ?? ''
      ];
      assert.equal(tables.sort().join(), expected, rules);
    });
    await native().clean(await identify(path));
  },
  { needs: ['nft'] },
);
