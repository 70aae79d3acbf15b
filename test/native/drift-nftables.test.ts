/** Whatever is not as it should be in the nftables form is found, told in nft's words, and put right by `apply`. */
import assert from 'node:assert/strict';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import {
  byName,
  compile,
  count,
  Farm,
  INSTALL_NEEDS,
  identify,
  inside,
  nftRules,
  restoreNft,
  wholeState,
} from '../support/netns.ts';

const test = suite('drift, nftables');
test.needs(...INSTALL_NEEDS, 'nft');

const NAT = 'table inet istio-proxy-nat';
const [ADMITTED, DIVERTED] = ['meta skuid 1337 counter return', 'meta skgid 1337 counter return'];

interface Drift {
  /** As for `apply`. */
  flags?: string[];
  /** Of one of our tables, as nft lists it: what nft is to read in its place. */
  edit?: (table: string) => string;
  /** Read by nft as it is. */
  more?: string;
  /** Among what `verify` prints. */
  says: string[];
}

/** The one place where `from` stands in a table; where counters are, no counts are written in `from` and `to`. */
const replace = (from: string, to: string) => (table: string) => {
  assert.equal(table.split(from).length, 2, `${from} is not there once: ${table}`);
  return table.replace(from, to);
};
const line = (rule: string) => `\t\t${rule.replace('counter', 'counter packets 0 bytes 0')}\n`;

const drifts: Record<string, Drift> = {
  'a rule deleted': { edit: replace(line(ADMITTED), ''), says: [`-  ${ADMITTED}`] },
  'a rule of IPv4 deleted': {
    edit: replace(line('ip daddr 127.0.0.1 counter return'), ''),
    says: ['-  ip daddr 127.0.0.1 counter return', '   ip6 daddr ::1 counter return'],
  },
  'a rule of IPv6 changed': {
    edit: replace('ip6 daddr ::1 ', 'ip6 daddr ::2 '),
    says: [
      '-  ip6 daddr ::1 counter return',
      '+  ip6 daddr ::2 counter return',
      '   ip daddr 127.0.0.1 counter return',
    ],
  },
  'a rule added at the end': {
    more: `add rule inet istio-proxy-nat istio-output tcp dport 4444 counter return`,
    says: ['+  tcp dport 4444 counter return'],
  },
  'a rule added at the top': {
    more: `insert rule inet istio-proxy-nat output accept`,
    says: ['+  accept'],
  },
  'a rule twice': { edit: replace(line(ADMITTED), line(ADMITTED).repeat(2)), says: [`+  ${ADMITTED}`] },
  'two rules swapped': {
    edit: replace(line(ADMITTED) + line(DIVERTED), line(DIVERTED) + line(ADMITTED)),
    says: [`-  ${ADMITTED}`, `+  ${ADMITTED}`, `   ${DIVERTED}`],
  },
  'a policy of drop': {
    edit: replace('hook output priority -100; policy accept', 'hook output priority -100; policy drop'),
    says: [' chain output {', '-  type nat hook output priority -100; policy accept;'],
  },
  'another priority': {
    edit: replace('prerouting priority dstnat', 'prerouting priority -99'),
    says: ['-  type nat hook prerouting priority dstnat; policy accept;'],
  },
  'an element of a set changed': {
    edit: replace('15090 }', '15091 }'),
    says: [
      '-  tcp dport { 15008, 15020, 15021, 15090 } counter return',
      '+  tcp dport { 15008, 15020, 15021, 15091 } counter return',
    ],
  },
  'an element of a set gone': {
    edit: replace('{ 15008, ', '{ '),
    says: ['+  tcp dport { 15020, 15021, 15090 } counter return'],
  },
  'a counter gone': {
    edit: replace(line(DIVERTED), '\t\tmeta skgid 1337 return\n'),
    says: [`-  ${DIVERTED}`, '+  meta skgid 1337 return'],
  },
  'a counter where none is wanted': {
    flags: ['--counters=false'],
    edit: replace('\t\tmeta skgid 1337 return\n', line(DIVERTED)),
    says: ['-  meta skgid 1337 return', `+  ${DIVERTED}`],
  },
  'another verdict': {
    edit: replace(line(ADMITTED), line(ADMITTED).replace('return', 'accept')),
    says: [`-  ${ADMITTED}`, '+  meta skuid 1337 counter accept'],
  },
  'another port': { edit: replace('to :15001', 'to :15009'), says: ['+  meta l4proto tcp counter redirect to :15009'] },
  'an expression that is not ours': {
    edit: replace(line(ADMITTED), line(`limit rate 5/second ${ADMITTED}`)),
    says: [`-  ${ADMITTED}`, '+  # unknown to this version: limit, meta load, cmp, counter, verdict'],
  },
  "somebody else's chain": { more: 'add chain inet istio-proxy-nat theirs', says: ['+chain theirs {', '+}'] },
  "somebody else's hook": {
    more: 'add chain inet istio-proxy-nat theirs { type filter hook prerouting priority mangle; policy accept; }',
    says: ['+chain theirs {', '+  type filter hook prerouting priority mangle; policy accept;'],
  },
  "somebody else's set": {
    more: 'add set inet istio-proxy-nat s { type ipv4_addr; elements = { 10.0.0.1 }; }',
    says: ['+  # unknown to this version: set s'],
  },
  "somebody else's map": {
    more: 'add map inet istio-proxy-nat m { type inet_service : verdict; elements = { 80 : accept }; }',
    says: ['+  # unknown to this version: set m'],
  },
  "somebody else's counter": {
    more: 'add counter inet istio-proxy-nat c',
    says: ['+  # unknown to this version: object c'],
  },
  'a chain gone': {
    edit: (table) =>
      replace(line('counter jump istio-redirect'), '')(table).replace(/\tchain istio-redirect \{[^}]*\}\n/, ''),
    says: ['-chain istio-redirect {', '-  meta l4proto tcp counter redirect to :15001', '-}'],
  },
  'the table gone': { more: `delete ${NAT}`, says: [`# ${NAT}`, '-chain prerouting {', `-  ${ADMITTED}`] },
  'the table asleep': {
    more: `add ${NAT} { flags dormant; }`,
    says: [`# ${NAT}`, '+  # unknown to this version: flags 1', `   ${ADMITTED}`],
  },
  'a table too many': {
    more: 'add table inet istio-proxy-raw\nadd chain inet istio-proxy-raw x',
    says: ['# table inet istio-proxy-raw', '+chain x {'],
  },
  'a table too many, with nothing in it': {
    more: 'add table inet istio-proxy-mangle',
    says: ['# table inet istio-proxy-mangle'],
  },
  'a mark of TPROXY changed': {
    flags: ['-m', 'TPROXY', '-b', '80'],
    edit: replace('15006 meta mark set 0x00000539', '15006 meta mark set 0x0000053a'),
    says: ['# table inet istio-proxy-mangle'],
  },
  'a zone of conntrack changed': {
    flags: ['--redirect-dns', '--capture-all-dns'],
    edit: (table) => table.replace('zone set 1', 'zone set 3'),
    says: ['# table inet istio-proxy-raw'],
  },
};

for (const [name, { flags = [], edit, more = '', says }] of Object.entries(drifts)) {
  test(`${name}: found, reported and repaired`, async () => {
    await using farm = new Farm('drift-nft');
    const path = await farm.add();
    const target = await identify(path);
    const compiled = await compile('--backend', 'nftables', ...flags);
    await compiled.apply(target);
    const wanted = await nftRules(path);
    await count(path);
    assert.equal((await compiled.verify(target)).ok, true, 'counts are no drift');

    await restoreNft(path, edit === undefined ? more : await edited(path, edit));
    const drifted = await wholeState(path);
    const words = ['verify', '--netns', path, '--backend', 'nftables', '--ip-families', '4,6', ...flags];
    const { code, stdout, stderr } = await ipnc(words);
    assert.equal(code, 3, stdout + stderr);
    for (const expected of says) assert.ok(stdout.split('\n').includes(expected), `${expected} in ${stdout}`);
    assert.equal(await wholeState(path), drifted, 'verify changed something');

    assert.equal((await compiled.apply(target)).changed, true);
    assert.equal(byName(await nftRules(path)), byName(wanted));
    assert.equal((await compiled.verify(target)).ok, true);
  });
}

test('as JSON', async () => {
  await using farm = new Farm('drift-nft');
  const path = await farm.add();
  await (await compile('--backend', 'nftables')).apply(await identify(path));
  await restoreNft(path, 'insert rule inet istio-proxy-nat output accept\nadd table inet istio-proxy-raw');
  const { code, stdout } = await ipnc(['verify', '--netns', path, '--output', 'json']);
  assert.equal(code, 3, stdout);
  const { ok, backend, drift } = JSON.parse(stdout);
  assert.deepEqual({ ok, backend }, { ok: false, backend: 'nftables' });
  const [raw, nat, ...others] = drift as { family: string; table: string; lines: string[] }[];
  assert.deepEqual(others, []);
  assert.deepEqual([raw?.family, raw?.table], ['inet', 'raw']);
  assert.deepEqual([nat?.family, nat?.table], ['inet', 'nat']);
  assert.deepEqual(
    nat?.lines.filter((line) => !line.startsWith(' ')),
    ['+  accept'],
  );
});

/** What makes nft put the one table of ours that `edit` changes as `edit` has it. */
async function edited(path: string, edit: (table: string) => string): Promise<string> {
  const tables = (await inside(path, ['nft', 'list', 'ruleset'])).split(/(?=^table )/m);
  const plain = tables.map((table) => table.replace(/packets \d+ bytes \d+/g, 'packets 0 bytes 0'));
  for (const table of plain) {
    try {
      const text = edit(table);
      if (text !== table) return `delete ${table.slice(0, table.indexOf(' {'))}\n${text}`;
    } catch {
      // Of another table.
    }
  }
  throw new Error(`nothing to edit in ${plain.join('')}`);
}
