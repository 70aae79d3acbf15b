/** Which netns an install with nftables may touch, what it leaves there, and which forms the addon takes. */

import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { dial } from '../../lib/demo/toolbox.ts';
import type { Failure } from '../../lib/errors.ts';
import { native } from '../../lib/native/addon.ts';
import type { Condition, NftChain, NftRule, NftRuleset, NftTable } from '../../lib/ruleset/nftables/model.ts';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { assertAllAtHome, codeOf, compile, Farm, identify, inside, wholeState } from '../support/netns.ts';

const test = suite('safety with nftables');
test.needs('netns', 'uid-map', 'ipv6', 'addon', 'toolbox', 'ip', 'nsenter', 'iptables-legacy-save', 'nft');
test.after.each(assertAllAtHome);

const NFTABLES = ['--backend', 'nftables'];
const OWN = '/proc/self/ns/net';

test('its own netns is refused', async () => {
  const before = await wholeState(OWN);
  const { code, stderr } = await ipnc(['apply', '--netns', OWN, '--ip-families', '4,6', ...NFTABLES]);
  assert.equal(code, 1);
  assert.ok(stderr.includes('ERR_HOST_NETNS'), stderr);
  const compiled = await compile(...NFTABLES);
  const { dev, ino } = statSync(OWN);
  for (const fresh of [true, false]) {
    assert.equal(await codeOf(compiled.apply({ path: OWN, dev, ino, cookie: 1n }, { fresh })), 'ERR_HOST_NETNS');
  }
  assert.equal(await wholeState(OWN), before);
});

for (const fresh of [false, true]) {
  test(`a second apply changes nothing, not even a handle or a counter, ${fresh ? 'fresh' : 'not fresh'}`, async () => {
    await using farm = new Farm('safety');
    const compiled = await compile(...NFTABLES, '-m', 'TPROXY', '-o', '5432');
    const path = await farm.add(undefined, 'down');
    const target = await identify(path);
    assert.equal((await compiled.apply(target, { fresh })).changed, true);
    for (const address of ['127.0.0.1', '::1']) {
      await dial({ netns: path, uid: 1000, gid: 1000 }, { protocol: 'tcp', address, port: 5432 });
    }
    const all = async () => (await wholeState(path)) + (await inside(path, ['nft', '-a', 'list', 'ruleset']));
    const before = await all();
    assert.match(before, /counter packets [1-9]/);
    for (let again = 0; again < 2; again++) {
      const { changed, routes, tables } = await compiled.apply(target, { fresh });
      assert.deepEqual({ changed, routes }, { changed: false, routes: [] });
      assert.ok(tables.every(({ how, family }) => how === 'unchanged' && family === 'inet'));
    }
    assert.equal(await all(), before);
  });
}

test('a change is reported as one, fresh or not', async () => {
  await using farm = new Farm('safety');
  const compiled = [await compile(...NFTABLES, '-o', '22'), await compile(...NFTABLES, '-o', '23')];
  const target = await identify(await farm.add());
  await compiled[0]?.apply(target);
  for (const fresh of [true, false]) {
    for (const each of compiled.toReversed()) {
      const { changed, tables } = await each.apply(target, { fresh });
      assert.deepEqual(
        { changed, tables },
        { changed: true, tables: [{ family: 'inet', table: 'nat', how: 'replaced' }] },
      );
    }
  }
});

const port = (first: bigint, last = first) => ({ first, last });
const when = (field: Condition['field'], ...values: bigint[]): Condition => ({
  field,
  not: false,
  values: values.map((value) => port(value)),
});
const TCP = when('l4proto', 6n);
const rule = (conditions: Condition[], target: NftRule['target'] = { kind: 'return' }): NftRule => ({
  conditions,
  counter: true,
  target,
});
const chain = (name: string, ...rules: NftRule[]): NftChain => ({ name, rules });
const nat = (...chains: NftChain[]): NftTable => ({ name: 'nat', chains });
const OUTPUT = { type: 'nat', hook: 'output', priority: -100 } as const;
const hooked = (...rules: NftRule[]): NftTable => nat({ name: 'output', hook: OUTPUT, rules });
/** For what the types rule out. */
const odd = <T>(value: unknown) => value as T;

/** What is refused, with ERR_INVALID_RULE or ERR_INVALID_ARG, and what the addon says of it. */
const malformed: Record<string, [tables: NftTable[], says: RegExp]> = {
  'values that are not sorted': [
    [hooked(rule([TCP, { ...when('dport'), values: [port(90n), port(80n)] }]))],
    /dport has values that are not sorted and disjoint/,
  ],
  'values that overlap': [
    [hooked(rule([TCP, { ...when('dport'), values: [port(80n, 90n), port(90n, 91n)] }]))],
    /dport has values that are not sorted and disjoint/,
  ],
  'an interval that ends before it starts': [
    [hooked(rule([TCP, { ...when('dport'), values: [port(90n, 80n)] }]))],
    /dport has an interval that starts above its end/,
  ],
  'no values': [[hooked(rule([TCP, when('dport')]))], /dport needs a value/],
  'a port of three bytes': [[hooked(rule([TCP, when('dport', 65_536n)]))], /^value must be as many bytes/],
  'an IPv6 address as an IPv4 one': [
    [hooked(rule([when('nfproto', 2n), when('ip daddr', 1n << 100n)]))],
    /^value must be as many bytes/,
  ],
  'a negative value': [[hooked(rule([TCP, when('dport', -1n)]))], /^value must be as many bytes/],
  'a field that is not known': [[hooked(rule([odd({ ...TCP, field: 'dscp' })]))], /^field must be/],
  'conditions out of order': [
    [hooked(rule([when('skuid', 1n), TCP]))],
    /conditions are not in the order of their fields/,
  ],
  'two conditions on one field': [[hooked(rule([TCP, TCP]))], /l4proto comes twice/],
  'an address of no family': [[hooked(rule([when('ip daddr', 1n)]))], /ip daddr needs nfproto ipv4/],
  'an address of the other family': [
    [hooked(rule([when('nfproto', 2n), when('ip6 daddr', 1n)]))],
    /ip6 daddr needs nfproto ipv6/,
  ],
  'a port of no protocol': [[hooked(rule([when('dport', 80n)]))], /dport needs l4proto tcp or udp/],
  'a redirect of no protocol': [
    [hooked(rule([], { kind: 'redirect', port: 15_001 }))],
    /a redirect needs l4proto tcp or udp/,
  ],
  'a name of 16 bytes': [[hooked(rule([when('oifname', (1n << 128n) - 1n)]))], /oifname needs a name of 1 to 15 bytes/],
  'no name': [[hooked(rule([when('oifname', 0n)]))], /oifname needs a name of 1 to 15 bytes/],
  'two states in one value': [[hooked(rule([when('ct state', 6n)]))], /ct state needs one bit a value/],
  'a jump to nowhere': [
    [hooked(rule([], { kind: 'jump', chain: 'istio-output' }))],
    /a jump leads to istio-output, which is not in the table/,
  ],
  'a jump into another table': [
    [hooked(rule([], { kind: 'jump', chain: 'istio-drop' })), { name: 'raw', chains: [chain('istio-drop')] }],
    /a jump leads to istio-drop, which is not in the table/,
  ],
  'a jump to a chain with a hook': [
    [
      nat(chain('istio-output', rule([], { kind: 'jump', chain: 'output' })), {
        name: 'output',
        hook: OUTPUT,
        rules: [],
      }),
    ],
    /a jump leads to output, which has a hook/,
  ],
  'a chain that jumps to itself': [
    [nat(chain('istio-output', rule([], { kind: 'jump', chain: 'istio-output' })))],
    /the chain istio-output leads back to itself/,
  ],
  'two chains that jump to one another': [
    [
      nat(
        chain('istio-output', rule([], { kind: 'jump', chain: 'istio-redirect' })),
        chain('istio-redirect', rule([], { kind: 'jump', chain: 'istio-output' })),
      ),
    ],
    /the chain istio-(output|redirect) leads back to itself/,
  ],
  'a chain that is not one of ours': [[nat(chain('mine'))], /the chain mine is not a chain of this project/],
  'a chain that comes twice': [[nat(chain('istio-output'), chain('istio-output'))], /istio-output comes twice/],
  'a table that comes twice': [[nat(), nat()], /the table nat comes twice/],
  'a table that is not one of ours': [[odd({ name: 'filter', chains: [] })], /^table name must be raw, mangle or nat/],
  'a hook that is not one of ours': [
    [nat({ name: 'output', hook: odd({ ...OUTPUT, hook: 'input' }), rules: [] })],
    /^hook must be prerouting or output/,
  ],
  'a priority that is none': [
    [nat({ name: 'output', hook: { ...OUTPUT, priority: 0.5 }, rules: [] })],
    /^priority must be a whole number/,
  ],
  'a port that is none': [[hooked(rule([TCP], { kind: 'redirect', port: 65_536 }))], /^port must be a whole number/],
  'a target that is not known': [[hooked(rule([], odd({ kind: 'goto' })))], /target/],
  'no counter': [[hooked(odd({ conditions: [], target: { kind: 'return' } }))], /^counter must be a boolean/],
};
for (const [name, [tables, expected]] of Object.entries(malformed)) {
  test(`what is malformed is refused, by name: ${name}`, async () => {
    const ruleset: NftRuleset = { families: [4, 6], tables, routes: { loopback6: false } };
    const error = await native()
      .compile({ backend: 'nftables', ruleset })
      .then(
        () => assert.fail('was taken'),
        (failure: Failure) => failure,
      );
    const says = error.cause as Error;
    assert.equal(error.code, says instanceof TypeError ? 'ERR_INVALID_ARG' : 'ERR_INVALID_RULE');
    assert.match(says.message, expected);
    // Without the code before it.
    assert.ok(error.message.includes(says.message.replace('ERR_INVALID_RULE: ', '')), error.message);
  });
}

test('what the types allow and this kernel does not is refused in a scratch netns, by the name of the rule', async () => {
  const tables: NftTable[] = [
    {
      name: 'mangle',
      chains: [
        {
          name: 'output',
          hook: { type: 'route', hook: 'output', priority: -150 },
          rules: [rule([TCP], { kind: 'redirect', port: 1 })],
        },
      ],
    },
  ];
  const ruleset: NftRuleset = { families: [4, 6], tables, routes: { loopback6: false } };
  const error = await native()
    .compile({ backend: 'nftables', ruleset })
    .then(
      () => undefined,
      (failure: Failure) => failure,
    );
  assert.match(error?.message ?? '', /inet istio-proxy-mangle/);
  assert.match(error?.message ?? '', /rule in chain output: .*redir/);
  assert.equal(error?.code, 'ERR_UNSUPPORTED');
});
