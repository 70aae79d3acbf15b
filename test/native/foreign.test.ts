/** What is somebody else's survives everything: rules, chains, policies, matches unknown to us, counters, order. */
import assert from 'node:assert/strict';
import { type Compiled, native } from '../../lib/native/addon.ts';
import { suite } from '../suite.ts';
import { installForeign } from '../support/foreign.ts';
import {
  assertAllAtHome,
  compile,
  Farm,
  foreign,
  INSTALL_NEEDS,
  identify,
  inside,
  restore,
  state,
} from '../support/netns.ts';

const test = suite('foreign');
test.needs(...INSTALL_NEEDS);
test.after.each(assertAllAtHome);

const DNS = ['--redirect-dns', '--capture-all-dns'];

/** Each goes where the one before stands, and the first where the last stands. */
const configurations: Record<string, string[]> = {
  'REDIRECT, the default': [],
  TPROXY: ['-m', 'TPROXY'],
  'TPROXY with another mark and table': ['-m', 'TPROXY', '-t', '7', '-r', '7'],
  'TPROXY and DNS': ['-m', 'TPROXY', ...DNS],
  'REDIRECT and DNS': DNS,
  'excluded and virtual interfaces': ['-c', 'net1,net2', '-k', 'vm0', '-i', '10.0.0.0/8,fd00::/8'],
  'dropped when invalid': ['--drop-invalid', '-m', 'TPROXY', '-c', 'net1'],
  'IPv4 alone': ['--ip-families', '4'],
  'other ports and uids': ['-p', '16001', '-z', '16006', '-u', '2000', '-o', '3306,6000-6010', '--ip-families', '4,6'],
  'IPv6 alone, TPROXY': ['-m', 'TPROXY', '--ip-families', '6'],
  NONE: ['-m', 'NONE'],
  'REDIRECT again, with a list of ports': ['-b', '80,443', '-q', '9042'],
};

const befores: Record<string, (path: string) => Promise<unknown>> = {
  'with rules of others': installForeign,
  'in a netns that was bare': async () => {},
  // As many entries as an untouched table has. Whoever says `fresh` says that nobody has done this.
  'with nothing but changed policies': async (path) => {
    for (const family of [4, 6] as const) {
      await restore(path, family, '*mangle\n:FORWARD DROP [0:0]\nCOMMIT\n*raw\n:OUTPUT DROP [0:0]\nCOMMIT\n');
    }
  },
  'with empty chains of others': async (path) => {
    const chains = ['*nat', '*mangle', '*raw'].map((table) => `${table}\n:A - [0:0]\n:ZZ - [0:0]\nCOMMIT\n`);
    for (const family of [4, 6] as const) await restore(path, family, chains.join(''));
  },
};

for (const [before, prepare] of Object.entries(befores)) {
  test(`change after change, ${before}`, async () => {
    await using farm = new Farm('foreign');
    const path = await farm.add();
    await prepare(path);
    const target = await identify(path);
    const was = await state(path);
    const theirs = foreign(was);
    for (const fresh of before.endsWith('policies') ? [false] : [false, true]) {
      for (const [name, flags] of Object.entries(configurations)) {
        const compiled = await compile(...flags);
        const first = await compiled.apply(target, { fresh });
        assert.equal(first.changed, !(fresh && name === 'NONE'), name);
        const once = await state(path);
        assert.equal(foreign(once), theirs, name);
        assert.equal((await compiled.apply(target, { fresh })).changed, false, name);
        assert.equal(await state(path), once, name);
        if (!fresh) {
          const { ok, legacy, nftables, routes } = await compiled.verify(target);
          assert.ok(ok, `${name}: ${JSON.stringify({ legacy, nftables, routes })}`);
        }
      }
      assert.equal((await native().clean(target)).changed, true);
      assert.equal(await state(path), was);
      assert.equal((await native().clean(target)).changed, false);
    }
  });
}

test('ours keep their place among rules that others put before and after them', async () => {
  await using farm = new Farm('foreign');
  const path = await farm.add();
  const target = await identify(path);
  const rule = (port: number) => `-A PREROUTING -p udp --dport ${port} -j ACCEPT\n`;
  const forBoth = async (text: string) => {
    for (const family of [4, 6] as const) await restore(path, family, text);
  };
  await forBoth(`*nat\n${rule(1)}${rule(2)}COMMIT\n*mangle\n${rule(1)}${rule(2)}COMMIT\n`);
  const names = ['REDIRECT, the default', 'REDIRECT and DNS', 'REDIRECT again, with a list of ports'];
  const compiled = await Promise.all(names.map((name) => compile(...(configurations[name] ?? []))));
  await compiled[0]?.apply(target);
  await forBoth(`*nat\n${rule(3)}COMMIT\n`);
  for (const each of [...compiled, ...compiled]) {
    await each.apply(target);
    assert.equal(await order(path, 'nat'), '1 2 ISTIO_INBOUND 3; 1 2 ISTIO_INBOUND 3');
  }
  await native().clean(target);
  await (await compile('-m', 'TPROXY')).apply(target);
  await forBoth(`*mangle\n${rule(3)}COMMIT\n`);
  await (await compile('-m', 'TPROXY', '-t', '7', '-r', '7')).apply(target);
  assert.equal(await order(path, 'mangle'), '1 2 ISTIO_INBOUND CONNMARK 3; 1 2 ISTIO_INBOUND CONNMARK 3');
});

test('inserted rules stay at the top, before rules of others', async () => {
  await using farm = new Farm('foreign');
  const path = await farm.add();
  const target = await identify(path);
  await installForeign(path);
  const rerouting = ['-k', 'vm0', '-b', ''];
  for (const flags of [rerouting, [...rerouting, '-o', '22'], rerouting]) {
    await (await compile(...flags)).apply(target);
    const [, ...rules] = (await inside(path, ['iptables-legacy', '-t', 'nat', '-S', 'PREROUTING'])).split('\n');
    const ours = rules.slice(
      0,
      rules.findIndex((rule) => rule.includes('CNI-HOSTPORT-DNAT')),
    );
    assert.equal(ours.length, flags.includes('-o') ? 3 : 2, rules.join('\n'));
    for (const rule of ours) assert.ok(rule.includes('-i vm0'), rule);
  }
});

test('a jump of others to our chain is kept through changes, and only removed with the chain', async () => {
  await using farm = new Farm('foreign');
  const path = await farm.add();
  const target = await identify(path);
  await installForeign(path);
  const was = await state(path);
  await (await compile()).apply(target);
  const jump = '[8:480] -A EMPTY -p tcp --dport 7777 -j ISTIO_REDIRECT\n';
  for (const family of [4, 6] as const) await restore(path, family, `*nat\n${jump}COMMIT\n`);
  for (const flags of [
    ['-o', '22'],
    ['-m', 'TPROXY'],
    ['-p', '16001'],
  ]) {
    await (await compile(...flags)).apply(target);
    assert.equal((await state(path)).match(/^\[8:480\] -A EMPTY .*-j ISTIO_REDIRECT$/gm)?.length, 2, flags.join(' '));
  }
  await native().clean(target);
  assert.equal(await state(path), was);
});

test('routes, rules and addresses of others stay', async () => {
  await using farm = new Farm('foreign');
  const path = await farm.add();
  const target = await identify(path);
  const commands = [
    'link add d0 type veth peer name d1',
    'link set d0 addrgenmode none up',
    'link set d1 addrgenmode none up',
    'address add 10.5.0.1/24 dev d0',
    'address add fd05::1/64 dev d0 nodad',
    'address add ::7/128 dev lo',
    'route add local 10.77.0.0/16 dev lo table 133',
    '-6 route add local fd77::/64 dev lo table 133',
    'rule add fwmark 1337 lookup 99 priority 100',
    'rule add fwmark 0x1/0xff lookup 133 priority 200',
    'rule add from 10.5.0.0/24 lookup 133 priority 300',
    '-6 rule add fwmark 1337 iif lo lookup 133 priority 400',
  ];
  for (const command of commands) await inside(path, ['ip', ...command.split(' ')]);
  const was = await state(path);
  const compiled = await compile('-m', 'TPROXY');
  await compiled.apply(target);
  const during = (await state(path)).split('\n');
  for (const line of was.split('\n')) assert.ok(during.includes(line), line);
  assert.equal((await compiled.verify(target)).ok, true);
  await (await compile('-m', 'TPROXY', '-t', '7', '-r', '7')).apply(target);
  await native().clean(target);
  assert.equal(await state(path), was);
});

test('an equal rule and route of another program are used, and stay after a clean-up', async () => {
  await using farm = new Farm('foreign');
  const path = await farm.add();
  const target = await identify(path);
  for (const family of ['-4', '-6']) {
    await inside(path, ['ip', family, 'rule', 'add', 'fwmark', '7', 'lookup', '7']);
    await inside(path, ['ip', family, 'route', 'add', 'local', 'default', 'dev', 'lo', 'table', '7']);
  }
  const was = await state(path);
  // Istio's own mark and table would be taken for Istio's.
  const compiled = await compile('-m', 'TPROXY', '-t', '7', '-r', '7');
  const { routes } = await compiled.apply(target);
  assert.deepEqual(routes, ['-6 address add ::6/128 dev lo']);
  assert.equal((await compiled.verify(target)).ok, true);
  await native().clean(target);
  assert.equal(await state(path), was);
});

test("rules that Istio's own tools left are replaced: chains by name, jumps to them", async () => {
  await using farm = new Farm('foreign');
  const [path, twin] = [await farm.add(), await farm.add()];
  const left = `*nat
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
:ISTIO_TPROXY - [0:0]
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 9
COMMIT
`;
  for (const family of [4, 6] as const) await restore(path, family, left);
  const compiled = await compile();
  for (const each of [path, twin]) await compiled.apply(await identify(each));
  assert.equal(await state(path), await state(twin));
});

test('compiled once, installed in tables that differ from netns to netns', async () => {
  await using farm = new Farm('foreign');
  const compiled: Compiled = await compile('-m', 'TPROXY', ...DNS);
  const paths = await farm.addAll(12);
  const kinds = Object.values(befores);
  const was = new Map<string, string>();
  for (const [at, path] of paths.entries()) {
    await kinds[at % kinds.length]?.(path);
    was.set(path, foreign(await state(path)));
  }
  await Promise.all(paths.map(async (path) => compiled.apply(await identify(path))));
  for (const path of paths) {
    assert.equal((await compiled.verify(await identify(path))).ok, true);
    assert.equal(foreign(await state(path)), was.get(path));
  }
});

/** PREROUTING of both families: the ports of others' rules and the targets of ours. */
async function order(path: string, table: string): Promise<string> {
  const chains = [];
  for (const program of ['iptables-legacy', 'ip6tables-legacy']) {
    const rules = (await inside(path, [program, '-t', table, '-S', 'PREROUTING'])).trim().split('\n').slice(1);
    chains.push(rules.map((rule) => /--dport (\d+)/.exec(rule)?.[1] ?? /-j (\S+)/.exec(rule)?.[1]).join(' '));
  }
  return chains.join('; ');
}
