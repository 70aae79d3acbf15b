/** Rules of others that let traffic pass by ours are found. Ours are moved in front of them where that is asked for. */
import assert from 'node:assert/strict';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { compile, Farm, foreign, INSTALL_NEEDS, identify, inside, restoreNft, state } from '../support/netns.ts';

const test = suite('rules ahead of ours');
test.needs(...INSTALL_NEEDS, 'iptables-legacy', 'nft');

type Step = [command: string, ...words: string[]];
const iptables = (...words: string[]): Step => ['iptables-legacy', ...words];

/** What others do after our install, in the legacy tables, and what is then reported. */
const LEGACY: Record<string, { steps: Step[]; flags?: string[]; ahead: string[] }> = {
  'ACCEPT at the top of nat OUTPUT': {
    steps: [iptables('-t', 'nat', '-I', 'OUTPUT', '1', '-j', 'ACCEPT')],
    ahead: ['IPv4 nat: -A OUTPUT -j ACCEPT'],
  },
  'RETURN at the top of nat PREROUTING, IPv6': {
    steps: [['ip6tables-legacy', '-t', 'nat', '-I', 'PREROUTING', '1', '-p', 'tcp', '-j', 'RETURN']],
    ahead: ['IPv6 nat: -A PREROUTING -p tcp -j RETURN'],
  },
  'a chain that accepts': {
    steps: [
      iptables('-t', 'nat', '-N', 'THEIRS'),
      iptables('-t', 'nat', '-A', 'THEIRS', '-j', 'ACCEPT'),
      iptables('-t', 'nat', '-I', 'OUTPUT', '1', '-j', 'THEIRS'),
    ],
    ahead: ['IPv4 nat: -A OUTPUT -j THEIRS'],
  },
  'another redirection': {
    steps: [iptables('-t', 'nat', '-I', 'OUTPUT', '1', '-p', 'tcp', '-j', 'REDIRECT', '--to-ports', '9')],
    ahead: ['IPv4 nat: -A OUTPUT -p tcp -j REDIRECT --to-ports 9'],
  },
  'ACCEPT in front of TPROXY': {
    flags: ['-m', 'TPROXY'],
    steps: [iptables('-t', 'mangle', '-I', 'PREROUTING', '1', '-j', 'ACCEPT')],
    ahead: ['IPv4 mangle: -A PREROUTING -j ACCEPT'],
  },
  'what lets nothing pass': {
    steps: [
      iptables('-t', 'nat', '-N', 'THEIRS'),
      iptables('-t', 'nat', '-A', 'THEIRS', '-j', 'RETURN'),
      iptables('-t', 'nat', '-I', 'OUTPUT', '1', '-j', 'THEIRS'),
      iptables('-t', 'nat', '-A', 'OUTPUT', '-j', 'ACCEPT'),
      iptables('-t', 'mangle', '-I', 'OUTPUT', '1', '-j', 'ACCEPT'),
      iptables('-t', 'filter', '-I', 'OUTPUT', '1', '-j', 'ACCEPT'),
    ],
    ahead: [],
  },
};

for (const [name, { steps, flags = [], ahead }] of Object.entries(LEGACY)) {
  test(`legacy: ${name}`, async () => {
    await using farm = new Farm('ahead');
    const path = await farm.add();
    const target = await identify(path);
    const compiled = await compile(...flags);
    await compiled.apply(target);
    assert.deepEqual((await compiled.verify(target)).ahead, []);
    for (const step of steps) await inside(path, step);
    const verified = await compiled.verify(target);
    assert.deepEqual([verified.ok, verified.ahead], [true, ahead], 'ours are as they were installed');

    const others = foreign(await state(path));
    assert.equal((await compiled.apply(target)).changed, false, 'an ordinary install keeps the order');
    assert.equal((await compiled.apply(target, { first: true })).changed, ahead.length > 0);
    const repaired = await compiled.verify(target);
    assert.deepEqual([repaired.ok, repaired.ahead], [true, []]);
    assert.equal(foreign(await state(path)), others, "others' rules are all there");
    assert.equal((await compiled.apply(target, { first: true })).changed, false);
  });
}

for (const backend of ['iptables-legacy', 'nftables']) {
  test(`${backend}: exemptions from connection tracking, in tables of either kind`, async () => {
    await using farm = new Farm('ahead');
    const path = await farm.add();
    const target = await identify(path);
    const compiled = await compile('--backend', backend);
    await compiled.apply(target);
    await inside(path, ['iptables-legacy', '-t', 'raw', '-A', 'OUTPUT', '-p', 'tcp', '-j', 'CT', '--notrack']);
    await restoreNft(path, 'table ip x { chain y { type filter hook output priority -300; tcp dport 80 notrack; }; }');
    const { ok, ahead } = await compiled.verify(target);
    assert.equal(ok, true);
    assert.match(ahead[0] ?? '', /^IPv4 raw: -A OUTPUT -p tcp -j CT /);
    assert.deepEqual(ahead.slice(1), ['table ip x, rule in chain y: meta, cmp, payload, cmp, notrack']);
    assert.equal((await compiled.apply(target, { first: true })).changed, false, 'there is no place in front of these');

    const { code, stdout } = await ipnc(['verify', '--netns', path, '--backend', backend, '--ip-families', '4,6']);
    assert.equal(code, 3, stdout);
    assert.match(stdout, /^# rules of other programs that let traffic bypass the proxy\n IPv4 raw: .*\n table ip x, /m);
  });
}

test('control characters of a pod do not reach the terminal', async () => {
  await using farm = new Farm('ahead');
  const path = await farm.add();
  await (await compile('--backend', 'iptables-legacy')).apply(await identify(path));
  for (const chain of ['OUTPUT', 'ISTIO_OUTPUT']) {
    const comment = ['-m', 'comment', '--comment', '\x1b[2J\x9b2J'];
    await inside(path, ['iptables-legacy', '-t', 'nat', '-I', chain, '1', ...comment, '-j', 'ACCEPT']);
  }
  const { code, stdout } = await ipnc(['verify', '--netns', path, '--backend', 'iptables-legacy']);
  assert.equal(code, 3, stdout);
  assert.match(stdout, /^\+-A ISTIO_OUTPUT -m comment --comment .*\\u\{1b\}\[2J/m);
  assert.match(stdout, /^ IPv4 nat: -A OUTPUT -m comment --comment .*\\u\{1b\}\[2J/m);
  assert.doesNotMatch(stdout, /[^\P{Cc}\n]/u);
});

/** Tables of nftables that others add, and the chain that is reported of them. */
const NFTABLES: Record<string, [table: string, reported?: string]> = {
  'a redirection before ours': [
    'table inet x { chain y { type nat hook output priority -150; tcp dport 80 redirect to :9; }; }',
    'table inet x, rule in chain y: ',
  ],
  'a translation in a chain that is jumped to, at our own priority': [
    'table ip x { chain z { dnat to 192.0.2.1; }; chain y { type nat hook prerouting priority -100; jump z; }; }',
    'table ip x, rule in chain z: ',
  ],
  'a redirection after ours': [
    'table inet x { chain y { type nat hook output priority -90; tcp dport 80 redirect to :9; }; }',
  ],
  'a verdict of accept, which ends its own chain alone': [
    'table inet x { chain y { type nat hook output priority -150; accept; }; }',
  ],
  'notrack after connection tracking': ['table inet x { chain y { type filter hook output priority 0; notrack; }; }'],
  'a translation of sources': ['table ip x { chain y { type nat hook postrouting priority 100; masquerade; }; }'],
};

for (const [name, [table, reported]] of Object.entries(NFTABLES)) {
  test(`nftables: ${name}`, async () => {
    await using farm = new Farm('ahead');
    const path = await farm.add();
    const target = await identify(path);
    const compiled = await compile('--backend', 'nftables');
    await compiled.apply(target);
    await restoreNft(path, table);
    const { ok, ahead } = await compiled.verify(target);
    assert.equal(ok, true);
    assert.equal(ahead.length, reported === undefined ? 0 : 1, ahead.join());
    assert.ok(ahead[0]?.startsWith(reported ?? '') ?? true, ahead.join());
  });
}
