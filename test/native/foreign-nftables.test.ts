/** What is somebody else's in nf_tables survives everything, moves between the backends included, byte for byte. */
import assert from 'node:assert/strict';
import { native } from '../../lib/native/addon.ts';
import { suite } from '../suite.ts';
import { FOREIGN_NFT_NEEDS, installForeign, installForeignNft } from '../support/foreign.ts';
import {
  assertAllAtHome,
  compile,
  Farm,
  foreign,
  foreignNft,
  INSTALL_NEEDS,
  identify,
  inside,
  nftRules,
  restore,
  restoreNft,
  state,
  wholeState,
} from '../support/netns.ts';

const test = suite('foreign, nftables');
test.needs(...INSTALL_NEEDS, ...FOREIGN_NFT_NEEDS);
test.after.each(assertAllAtHome);

const DNS = ['--redirect-dns', '--capture-all-dns'];
const NFTABLES = ['--backend', 'nftables'];

/** Each goes where the one before stands, and the first where the last stands. */
const configurations: Record<string, string[]> = {
  'nftables, the default': NFTABLES,
  'nftables, without counters': [...NFTABLES, '--counters=false'],
  'nftables, TPROXY and DNS': [...NFTABLES, '-m', 'TPROXY', ...DNS],
  'legacy, TPROXY and DNS, the same': ['-m', 'TPROXY', ...DNS],
  'nftables, TPROXY with another mark and table': [...NFTABLES, '-m', 'TPROXY', '-t', '7', '-r', '7'],
  'nftables, IPv4 alone': [...NFTABLES, '--ip-families', '4'],
  'legacy, IPv6 alone, dropped when invalid': ['--ip-families', '6', '--drop-invalid'],
  'nftables, all DNS': [...NFTABLES, ...DNS],
  'legacy, the default': [],
  'nftables, virtual and excluded interfaces': [
    ...NFTABLES,
    '-c',
    'net1,net2',
    '-k',
    'vm0',
    '-i',
    '10.0.0.0/8,fd00::/8',
  ],
  'nftables, NONE': [...NFTABLES, '-m', 'NONE'],
  'legacy, other ports and uids': ['-p', '16001', '-z', '16006', '-u', '2000', '-o', '3306,6000-6010'],
  'legacy, NONE': ['-m', 'NONE'],
};

const befores: Record<string, (path: string) => Promise<unknown>> = {
  'with nftables rules of others': installForeignNft,
  'with rules of others in both': async (path) => {
    await installForeign(path);
    await installForeignNft(path);
  },
  'in a netns that was bare': async () => {},
};

for (const [before, prepare] of Object.entries(befores)) {
  test(`change after change, ${before}`, async () => {
    await using farm = new Farm('foreign-nft');
    const path = await farm.add();
    await prepare(path);
    const target = await identify(path);
    const was = await wholeState(path);
    const saved = await savedByIptablesNft(path);
    for (const [name, flags] of Object.entries(configurations)) {
      const compiled = await compile(...flags);
      assert.equal((await compiled.apply(target)).changed, true, name);
      const once = await wholeState(path);
      assert.equal(foreign(once), foreign(was), name);
      assert.equal(foreignNft(once), foreignNft(was), name);
      const form = flags.includes('nftables') ? 'nftables' : 'iptables-legacy';
      const { installedBackends } = await native().identify(path);
      assert.deepEqual(installedBackends, name.endsWith('NONE') ? [] : [form], name);
      assert.equal(await savedByIptablesNft(path), saved, name);

      assert.equal((await compiled.apply(target)).changed, false, name);
      assert.equal(await wholeState(path), once, name);
      const { ok, legacy, nftables, routes } = await compiled.verify(target);
      assert.ok(ok, `${name}: ${JSON.stringify({ legacy, routes })} ${nftables.length}`);
      assert.equal(await wholeState(path), once, name);
    }
    for (const flags of [NFTABLES, []]) {
      await (await compile(...flags, '-m', 'TPROXY')).apply(target);
      assert.equal((await native().clean(target)).changed, true);
      assert.equal(await wholeState(path), was);
      assert.equal((await native().clean(target)).changed, false);
    }
  });

  test(`in a netns that is wrongly called fresh, ${before}`, async () => {
    await using farm = new Farm('foreign-nft');
    const path = await farm.add();
    await prepare(path);
    const target = await identify(path);
    const was = await wholeState(path);
    const compiled = await compile(...NFTABLES, '-m', 'TPROXY', ...DNS);
    const { tables } = await compiled.apply(target, { fresh: true });
    assert.deepEqual(
      tables.map(({ table, how }) => `${table} ${how}`),
      ['raw replayed', 'mangle replayed', 'nat replayed'],
    );
    assert.equal(foreignNft(await wholeState(path)), foreignNft(was));
    assert.equal((await compiled.verify(target)).ok, true);
    await native().clean(target);
    assert.equal(await wholeState(path), was);
  });
}

test('from one backend to the other and back leaves what one alone leaves', async () => {
  await using farm = new Farm('foreign-nft');
  const [path, twin] = [await farm.add(), await farm.add()];
  for (const each of [path, twin]) await befores['with rules of others in both']?.(each);
  for (const flags of [[], ['-m', 'TPROXY', ...DNS, '--drop-invalid']]) {
    const [legacy, nftables] = [await compile(...flags), await compile(...NFTABLES, ...flags)];
    for (const [moves, alone] of [
      [[legacy, nftables], nftables],
      [[nftables, legacy], legacy],
    ] as const) {
      for (const move of moves) await move.apply(await identify(path));
      await alone.apply(await identify(twin));
      assert.equal(await wholeState(path), await wholeState(twin));
      for (const each of [path, twin]) await native().clean(await identify(each));
    }
  }
});

test('a chain of others that jumps to one of ours loses the jump when ours move, and nothing else', async () => {
  await using farm = new Farm('foreign-nft');
  const path = await farm.add();
  const target = await identify(path);
  await installForeign(path);
  const was = await state(path);
  await (await compile()).apply(target);
  for (const family of [4, 6] as const) {
    await restore(path, family, '*nat\n[8:480] -A EMPTY -p tcp --dport 7777 -j ISTIO_REDIRECT\nCOMMIT\n');
  }
  await (await compile(...NFTABLES)).apply(target);
  assert.equal(foreign(await state(path)), foreign(was));
  await native().clean(target);
  assert.equal(await state(path), was);
});

test('a table of others may redirect packets like ours, and be written while ours is installed', async () => {
  await using farm = new Farm('foreign-nft');
  const path = await farm.add();
  const target = await identify(path);
  await (await compile(...NFTABLES)).apply(target);
  await installForeignNft(path);
  const was = foreignNft(await wholeState(path));
  const changed = await compile(...NFTABLES, '-o', '22');
  assert.equal((await changed.apply(target)).changed, true);
  assert.equal(foreignNft(await wholeState(path)), was);
  await restoreNft(path, 'flush ruleset');
  assert.equal((await changed.verify(target)).ok, false);
  assert.equal((await changed.apply(target)).changed, true);
  assert.equal((await changed.verify(target)).ok, true);
  await native().clean(target);
  assert.equal(await nftRules(path), '');
});

/** With counters. */
async function savedByIptablesNft(path: string): Promise<string> {
  const saved = await inside(path, ['sh', '-c', 'iptables-nft-save -c; ip6tables-nft-save -c']);
  return saved.replace(/^# (Generated|Completed|Table).*\n/gm, '');
}
