/** The nftables form in a kernel: each case installed twice, by the addon and by `nft -f`; and every kind of drift. */
import assert from 'node:assert/strict';
import { type Case, cases } from '../cases.ts';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { byName, compile, Farm, INSTALL_NEEDS, identify, nftRules, restoreNft, wholeState } from '../support/netns.ts';

const WITHOUT_COUNTERS = [
  'no flags',
  'mode NONE',
  'TPROXY, inbound list',
  'all DNS, several uids and gids',
  'the whole lot',
];

const test = suite('kernel, nftables');
test.needs(...INSTALL_NEEDS, 'nft');

let farm: Farm;
/** Gets every case over what the one before left. */
let worn: string;
test.before(async () => {
  farm = new Farm('kernel-nft');
  worn = await farm.add();
});
test.after(() => farm[Symbol.asyncDispose]());

const uncounted = cases
  .filter(({ name }) => WITHOUT_COUNTERS.includes(name))
  .map(({ name, args }) => ({ name: `${name}, without counters`, args: [...args, '--counters=false'] }));

for (const { name, args } of [...cases, ...uncounted] satisfies Case[]) {
  test(
    `apply leaves what nft leaves: ${name}`,
    async () => {
      const [ours, twin] = [await farm.add(), await farm.add()];
      const pristine = await wholeState(ours);
      const flags = args.includes('--ip-families') ? args : [...args, '--ip-families', '4,6'];
      const plan = await done(['plan', '--format', 'nftables', ...flags]);
      await restoreNft(twin, plan);
      await restoreNft(twin, plan);
      const wanted = await nftRules(twin);
      assert.equal(wanted.includes(' counter packets '), wanted !== '' && !args.includes('--counters=false'), wanted);
      const nftables = [...flags, '--backend', 'nftables'];

      const first = JSON.parse(await done(['apply', '--netns', ours, ...nftables, '--output', 'json']));
      assert.equal(first.changed, wanted !== '');
      assert.equal(first.backend, 'nftables');
      assert.equal(await nftRules(ours), wanted);
      await done(['verify', '--netns', ours, ...nftables]);
      const applied = await wholeState(ours);
      const [compiled, legacy] = [await compile(...nftables), await compile(...flags)];
      assert.equal((await compiled.apply(await identify(ours))).changed, false);
      assert.equal(await wholeState(ours), applied);
      await done(['clean', '--netns', ours]);
      assert.equal(await wholeState(ours), pristine);

      const target = await identify(worn);
      await compiled.apply(target);
      await legacy.apply(target);
      assert.equal(await nftRules(worn), '');
      await compiled.apply(target);
      assert.equal(byName(await nftRules(worn)), byName(wanted));
      assert.equal((await compiled.verify(target)).ok, true);

      for (const path of [ours, twin]) await farm.del(path);
    },
    { needs: args.includes('4294967294') ? ['every-uid'] : [] },
  );
}

/** What a command that ends well prints. */
async function done(words: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await ipnc(words);
  assert.equal(code, 0, `${words.join(' ')}: ${stdout}${stderr}`);
  return stdout;
}
