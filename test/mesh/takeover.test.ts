/**
 * Istio's rules in every form that it has written are taken over with traffic running, none of it past the proxy, and
 * nothing of them is left when the pod opts out. What others have in the same tables stays.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { native } from '../../lib/native/addon.ts';
import type { Family } from '../../lib/ruleset/model.ts';
import { suite } from '../suite.ts';
import { CHANGES, flagsOf, old, type Wanted, WRITERS, type Writer } from '../support/istio-rules.ts';
import { assertAllAtHome, compile, Farm, INSTALL_NEEDS, identify, inside } from '../support/netns.ts';
import { type Call, type Who, World } from '../support/world.ts';

const test = suite('mesh, takeover');
test.needs('mesh', 'nft', 'iptables-nft-restore', 'ip6tables-nft-restore', ...INSTALL_NEEDS);
test.after.each(assertAllAtHome);

const MODES: Record<string, Wanted> = {
  REDIRECT: { mode: 'REDIRECT' },
  'REDIRECT, DNS, interfaces': {
    mode: 'REDIRECT',
    dns: true,
    excludeInterfaces: ['eth1', 'net1'],
    rerouteInterfaces: ['vm1'],
    dropInvalid: true,
  },
  'TPROXY, DNS, an interface': { mode: 'TPROXY', dns: true, excludeInterfaces: ['eth1'] },
};

/** Rules of others in Istio's tables, some of them close to Istio's. */
const OTHERS = `*nat
:THEIRS - [0:0]
-A PREROUTING -i lone0 -j RETURN
-A OUTPUT -p udp --dport 5353 -j THEIRS
-A THEIRS -p udp --dport 5353 -m owner --uid-owner 7 -j RETURN
COMMIT
*mangle
-A PREROUTING -p udp -m conntrack --ctstate INVALID -j DROP
-A OUTPUT -p tcp -o lo -m mark --mark 7 -j RETURN
COMMIT
*raw
-A OUTPUT -p udp --dport 4789 -j CT --zone 5
COMMIT
`;

async function installOthers(netns: string): Promise<void> {
  for (const form of ['nft', 'legacy'])
    for (const program of [`iptables-${form}-restore`, `ip6tables-${form}-restore`])
      await inside(netns, [program, '--noflush'], OTHERS);
}

/** All that Istio or we could have left: rules and chains of every table, policy rules, routes, addresses of lo. */
async function state(netns: string): Promise<string> {
  const saves = ['iptables', 'ip6tables'].flatMap((name) => [`${name}-nft-save`, `${name}-legacy-save`]);
  const routes = [4, 6].map((family) => `ip -${family} rule; ip -${family} route show table 133 2>&1 || true`);
  const script = [...saves, 'nft list tables inet', ...routes, 'ip -6 address show dev lo'].join('; ');
  const lines = (await inside(netns, ['sh', '-c', script])).split('\n');
  // A table whose rules are gone stays behind, with its policies.
  return lines.filter((line) => !/^(#|:\w+ ACCEPT|\*|COMMIT|$)|does not exist|Dump terminated/.test(line)).join('\n');
}

const FAMILIES: Family[] = [4, 6];
const CALLS: [who: Who, call: Call, answer: string][] = [
  ['app', { protocol: 'tcp', to: 'world', port: 80 }, 'proxy:15001'],
  ['world', { protocol: 'tcp', to: 'pod', port: 8080 }, 'proxy:15006'],
];

/** Runs `job` while connections are made in both directions and families. Each has to end at the proxy. */
async function withTraffic(world: World, job: () => Promise<void>): Promise<string> {
  let over = false;
  let calls = 0;
  let past = 0;
  const traffic = async (at: number) => {
    for (let turn = at; !over || calls < 8; turn++) {
      const [who, call, answer] = CALLS[turn % 2] ?? assert.fail();
      const family = FAMILIES[Math.floor(turn / 2) % 2] ?? 4;
      let got = await world.call(who, family, call);
      // TCP that comes in while one TPROXY takes another's place is dropped, and sent again.
      while (got === 'ETIMEDOUT') got = await world.call(who, family, call);
      if (got !== answer) past++;
      assert.equal(got, answer, `IPv${family} ${who} -> ${call.to}`);
      calls++;
    }
  };
  const ended = (running: Promise<void>) =>
    running.finally(() => {
      over = true;
    });
  const outcomes = await Promise.allSettled([traffic(0), traffic(1), ended(job())]);
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  return past === 0 ? 'all captured, none lost' : `${past} of ${calls} lost or past the proxy`;
}

/** What each combination came to, as the table in docs/migrate.md has it. */
const found: string[] = [];

for (const { version, form, write } of WRITERS) {
  for (const [name, wanted] of Object.entries(MODES)) {
    test(`${version}, ${form}, ${name}`, async () => {
      await using world = await World.build({ transparent: wanted.mode === 'TPROXY' });
      const { podPath } = world;
      await installOthers(podPath);
      const before = await state(podPath);
      const outcomes: { backend: string; during: string; left: string }[] = [];
      for (const backend of ['iptables-legacy', 'nftables']) {
        await write(podPath, wanted);
        const compiled = await compile('--backend', backend, ...flagsOf(wanted));
        const target = await identify(podPath);
        const identity = await native().identify(podPath);
        assert.equal(identity.iptablesNft, form === 'iptables-nft');
        const during = await withTraffic(world, async () => {
          // As with a sandbox that the runtime has just reported.
          const { changed } = await compiled.apply(target, { fresh: form === 'iptables-nft' });
          assert.equal(changed, true);
        });
        const { ok, legacy, nftables, iptablesNft, routes, ahead } = await compiled.verify(target);
        assert.ok(ok, JSON.stringify({ legacy, iptablesNft, routes, nftables: nftables.length }));
        // Two of the others' rules are in front of ours.
        assert.deepEqual(
          ahead.filter((line) => !/ -i lone0 -j RETURN$| --mark 0x7 -j RETURN$/.test(line)),
          [],
        );
        assert.equal((await compiled.apply(target)).changed, false);
        assert.equal((await native().clean(target)).changed, true);
        const left = await state(podPath);
        assert.equal(left, before, `${backend}, cleaned`);
        outcomes.push({ backend, during, left: left === before ? 'nothing is left' : 'rules are left' });
        assert.equal((await native().clean(target)).changed, false);
      }
      // Istio's own opt-out, without an install of ours in between.
      await write(podPath, wanted);
      const target = await identify(podPath);
      assert.equal((await native().clean(target)).changed, true);
      assert.equal(await state(podPath), before, 'cleaned');
      // And back: Istio's program finds nothing in its way.
      await write(podPath, wanted);
      const again = await withTraffic(world, async () => {});
      for (const { backend, during, left } of outcomes) {
        found.push([version, form, name, backend, during, left, again].join(' | '));
      }
    });
  }
}

/** A netns with the interfaces and addresses of a pod, because Istio's program reads the addresses. */
async function podNetns(farm: Farm): Promise<string> {
  const netns = await farm.add();
  const commands = [
    'ip link set lo up',
    'ip link add eth0 type veth peer name peer0',
    'ip address add 10.244.1.2/24 dev eth0',
    'ip address add fd00:10:244:1::2/64 dev eth0 nodad',
    'ip link set eth0 up',
  ];
  await inside(netns, ['sh', '-ec', commands.join('\n')]);
  return netns;
}

for (const form of ['nft', 'legacy'] as const) {
  test(`iptables-${form}: after all changes the rules are those of Istio's program`, async () => {
    await using farm = new Farm('today');
    const isTodays = (writer: Writer) => writer.version.endsWith('today') && writer.form === `iptables-${form}`;
    const today = WRITERS.find(isTodays) ?? assert.fail();
    for (const [name, wanted] of Object.entries(MODES)) {
      const [one, other] = [await podNetns(farm), await podNetns(farm)];
      await old(form, CHANGES)(one, wanted);
      await today.write(other, wanted);
      assert.equal(await state(one), await state(other), name);
    }
  });

  test(`iptables-${form}: rules after each change that Istio made since 1.22`, async () => {
    await using farm = new Farm('changes');
    // As most pods have it: the name servers of /etc/resolv.conf.
    const servers: Wanted = { mode: 'REDIRECT', dns: ['10.96.0.10', '10.96.0.11', 'fd00:10:96::a'] };
    for (let made = 0; made <= CHANGES.length; made++) {
      const write = old(form, CHANGES.slice(0, made));
      for (const [name, wanted] of Object.entries({ ...MODES, servers })) {
        const what = `${CHANGES.slice(0, made)}; ${name}`;
        const netns = await farm.add();
        await inside(netns, ['ip', 'link', 'set', 'lo', 'up']);
        await installOthers(netns);
        const before = await state(netns);
        for (const backend of ['iptables-legacy', 'nftables']) {
          await write(netns, wanted);
          const compiled = await compile('--backend', backend, ...flagsOf(wanted));
          const target = await identify(netns);
          await compiled.apply(target);
          assert.equal((await compiled.verify(target)).ok, true, `${what}, to ${backend}`);
          await native().clean(target);
          assert.equal(await state(netns), before, `${what}, to ${backend}`);
        }
        await write(netns, wanted);
        await native().clean(await identify(netns));
        assert.equal(await state(netns), before, what);
      }
    }
  });
}

test('the table in docs/migrate.md says what was found', () => {
  const golden = new URL('takeover.golden', import.meta.url);
  const text = `${found.join('\n')}\n`;
  // Afterwards: npm run docs.
  if (process.env.IPNC_TEST_UPDATE === '1') writeFileSync(golden, text);
  assert.equal(text, readFileSync(golden, 'utf8'));
});
