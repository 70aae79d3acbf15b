/** Which families of a netns get rules: by the options, by the pod's addresses in the API, by what is in the netns. */

import assert from 'node:assert/strict';
import { argumentsSource } from '../../lib/istio/arguments.ts';
import { plan } from '../../lib/istio/plan.ts';
import { redirect } from '../../lib/istio/redirect.ts';
import { familiesOf } from '../../lib/netns/families.ts';
import { iptablesText } from '../../lib/ruleset/iptables.ts';
import type { Family } from '../../lib/ruleset/model.ts';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { Farm, INSTALL_NEEDS, inside } from '../support/netns.ts';

const test = suite('families of a netns');

interface Case {
  named?: Family[];
  api?: string[];
  netns?: string[];
  ipv6?: boolean;
  dualStack?: boolean;
  unserved?: 'leave' | 'capture' | 'block';
  /** Families that are captured, then those that are blocked, then those that are left. */
  expected: [Family[], Family[]?, Family[]?];
}

const [FOUR, SIX, LOCAL] = ['10.244.1.5', 'fd00::5', '169.254.172.7'];
const cases: Case[] = [
  { expected: [[4, 6]] },
  { ipv6: false, expected: [[4]] },
  { netns: [FOUR], expected: [[4]] },
  { netns: [SIX], expected: [[6]] },
  { api: [FOUR], expected: [[4]] },
  // Without dual stack the proxy of a pod with both families listens on IPv4.
  { api: [SIX, FOUR], expected: [[4], [], [6]] },
  { api: [FOUR], netns: [SIX], expected: [[4], [], [6]] },
  { netns: [FOUR, SIX], dualStack: true, expected: [[4, 6]] },
  { netns: [FOUR, SIX], unserved: 'capture', expected: [[4, 6]] },
  { netns: [FOUR, SIX], unserved: 'block', expected: [[4], [6]] },
  { netns: [SIX], unserved: 'block', expected: [[6]] },
  { netns: [FOUR], unserved: 'block', expected: [[4]] },
  // EKS: a pod of IPv6 that also has a link-local address of IPv4.
  { api: [SIX], netns: [LOCAL, SIX], expected: [[4, 6]] },
  { netns: [LOCAL], expected: [[4]] },
  { api: [SIX, FOUR], ipv6: false, expected: [[4], [], [6]] },
  { api: [SIX, FOUR], ipv6: false, dualStack: true, expected: [[4], [], [6]] },
  { api: [SIX, FOUR], ipv6: false, unserved: 'block', expected: [[4], [6]] },
  { api: [SIX, FOUR], ipv6: false, unserved: 'capture', expected: [[4], [6]] },
  { named: [4], api: [SIX], netns: [SIX], expected: [[4], [], [6]] },
  { named: [4], api: [SIX], unserved: 'block', expected: [[4], [6]] },
  { named: [4], api: [SIX], unserved: 'capture', expected: [[4, 6]] },
  { named: [6], api: [FOUR, SIX], unserved: 'block', expected: [[6], [4]] },
  { named: [4, 6], netns: [FOUR], expected: [[4, 6]] },
  { named: [4], ipv6: false, expected: [[4]] },
];
for (const { expected, api = [], netns = [], ipv6 = true, ...given } of cases) {
  const { named: families = 'auto', dualStack = false, unserved = 'leave' } = given;
  const about = `${families}, ${unserved}${dualStack ? ', dual stack' : ''}${ipv6 ? '' : ', IPv6 off on lo'}`;
  test(`${about}, API [${api}], netns [${netns}]: ${expected.map((list) => `[${list}]`).join(' ')}`, () => {
    const found = familiesOf({ path: '', addresses: netns, ipv6 }, { families, dualStack, unserved }, api);
    const [captured, blocked = [], left = []] = expected;
    assert.deepEqual([found.captured, found.blocked, found.left, found.loopback6], [captured, blocked, left, ipv6]);
    const unservedOne = blocked.length + left.length > 0 || (unserved === 'capture' && captured.length > 1);
    assert.equal(found.note !== undefined, unservedOne, found.note);
  });
}

test('IPv6 named where it is off, or off where it is all that there is, is an error', () => {
  const place = { path: '/run/netns/pod', addresses: [SIX], ipv6: false };
  const error = { code: 'EAFNOSUPPORT', message: 'IPv6 is disabled in /run/netns/pod, or on lo there' };
  for (const families of ['auto', [4, 6]] as const)
    assert.throws(
      () => familiesOf(place, { families: families === 'auto' ? 'auto' : [4, 6], dualStack: true, unserved: 'leave' }),
      error,
    );
});

test('a blocked family has no exceptions, and changes nothing for the other one', () => {
  const words = ['-m', 'TPROXY', '-o', '5432', '-x', '10.0.0.0/8,fd00::/8', '-c', 'net1', '-b', '80', '-d', '22'];
  const { spec } = redirect({ flags: argumentsSource([...words, '--owner-groups-exclude', '7'], 'flags') });
  const ruleset = plan(spec, { captured: [4], blocked: [6], loopback6: true });
  assert.equal(iptablesText(ruleset, 4), iptablesText(plan(spec, [4]), 4));
  const { spec: plain } = redirect({ flags: argumentsSource(['-m', 'TPROXY', '-d', ''], 'flags') });
  const blocked = iptablesText(ruleset, 6);
  assert.equal(blocked, iptablesText(plan({ ...plain, inbound: { include: '*', exclude: [] } }, [6]), 6));
  assert.doesNotMatch(blocked, /15020|5432|fd00|net1|--gid-owner 7/);
  assert.equal(ruleset.routes.loopback6, true);
  assert.equal(plan(spec, { captured: [4], blocked: [6], loopback6: false }).routes.loopback6, false);
});

const real = suite('families of a real netns');
real.needs('ipv6', ...INSTALL_NEEDS);

let farm: Farm;
real.before(() => {
  farm = new Farm('families');
});
real.after(() => farm?.[Symbol.asyncDispose]());

/** With an address of each family on eth0. */
async function dualNetns(...commands: string[]): Promise<string> {
  const netns = await farm.add();
  const script = [
    'ip link add eth0 type veth peer name peer0',
    'ip link set peer0 up',
    'ip link set eth0 up',
    'ip address add 192.0.2.7/24 dev eth0',
    ...commands,
    'ip address add 2001:db8::7/64 dev eth0 nodad || true',
  ];
  await inside(netns, ['sh', '-ec', script.join('\n')]);
  return netns;
}

/** The families of the redirect rules in either backend. */
async function redirected(netns: string, backend: string): Promise<Family[]> {
  const has = async (family: Family) => {
    if (backend === 'nftables') {
      const rules = await inside(netns, ['nft', 'list', 'ruleset']);
      return rules.includes('redirect to :15001') && !rules.includes(family === 4 ? 'nfproto ipv6' : 'nfproto ipv4');
    }
    const saved = await inside(netns, [family === 4 ? 'iptables-legacy-save' : 'ip6tables-legacy-save']);
    return saved.includes('--to-ports 15001');
  };
  const families: Family[] = [];
  for (const family of [4, 6] as const) if (await has(family)) families.push(family);
  return families;
}

const POD = JSON.stringify({ kind: 'Pod', spec: { containers: [{ name: 'istio-proxy' }] } });
const OFF = { 'on lo': 'lo', 'on eth0': 'eth0', everywhere: 'all' };

for (const [where, name] of Object.entries(OFF)) {
  real(`IPv6 off ${where}: IPv4 is served, also where the proxy serves both`, async () => {
    const netns = await dualNetns(`echo 1 >/proc/sys/net/ipv6/conf/${name}/disable_ipv6`);
    for (const words of [[], ['--dual-stack'], ['--unserved-families', 'block']]) {
      const { code, stderr } = await ipnc(['apply', '--netns', netns, '--pod', '-', ...words], { input: POD });
      assert.equal(code, 0, stderr);
      assert.match(await inside(netns, ['iptables-legacy-save']), /--to-ports 15001/);
    }
  });
}

for (const backend of ['iptables-legacy', 'nftables'] as const) {
  real(`${backend}: a family that the proxy begins to serve, and no longer serves`, async () => {
    const netns = await dualNetns();
    for (const [words, expected] of [
      [[], [4]],
      [['--dual-stack'], [4, 6]],
      [
        ['--unserved-families', 'block'],
        [4, 6],
      ],
      [['--dual-stack=false'], [4]],
    ] as const) {
      const command = ['apply', '--netns', netns, '--backend', backend, '--pod', '-', ...words];
      const { code, stderr } = await ipnc(command, { input: POD });
      assert.equal(code, 0, stderr);
      if (backend === 'iptables-legacy') assert.deepEqual(await redirected(netns, backend), expected, words.join(' '));
      const verified = await ipnc(['verify', ...command.slice(1)], { input: POD });
      assert.equal(verified.code, 0, verified.stdout);
    }
  });
}
