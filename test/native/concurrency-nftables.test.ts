/** Installs with nftables and with both backends beside others who change nf_tables all the while. */
import assert from 'node:assert/strict';
import { suite } from '../suite.ts';
import { busyLoop, compileAll } from '../support/contention.ts';
import { assertAllAtHome, codeOf, Farm, INSTALL_NEEDS, identify, inside } from '../support/netns.ts';

const test = suite('concurrency with nftables');
test.needs(...INSTALL_NEEDS, 'nft');
test.after.each(assertAllAtHome);

test('another process that adds and removes tables of its own all the while loses nothing, nor do we', async () => {
  await using farm = new Farm('concurrency');
  const compiled = await compileAll('iptables-legacy', 'nftables');
  const target = await identify(await farm.add());
  await inside(target.path, [
    'nft',
    'add table inet theirs; add chain inet theirs kept; add rule inet theirs kept accept',
  ]);
  const stop = busyLoop(
    farm,
    target.path,
    'nft add table ip passing && nft add rule inet theirs kept counter drop && nft delete table ip passing',
  );
  let [done, failed] = [0, 0];
  try {
    for (let round = 0; round < 60; round++) {
      await compiled[round % compiled.length]?.apply(target);
      assert.equal((await compiled[round % compiled.length]?.verify(target))?.ok, true);
    }
  } finally {
    ({ done, failed } = await stop());
  }
  assert.ok(done > 5 && failed === 0, `${done} done, ${failed} failed`);
  const theirs = (await inside(target.path, ['nft', 'list', 'table', 'inet', 'theirs'])).match(/counter/g)?.length;
  assert.equal(theirs, done);
});

test('while another process flushes the ruleset, an install succeeds or reports the reason', async () => {
  await using farm = new Farm('concurrency');
  const compiled = await compileAll('nftables');
  const target = await identify(await farm.add());
  const stop = busyLoop(farm, target.path, 'nft flush ruleset');
  const codes = new Map<string | undefined, number>();
  let done = 0;
  try {
    for (let round = 0; round < 300; round++) {
      const code = await codeOf(compiled[round % compiled.length]?.apply(target) ?? Promise.resolve());
      codes.set(code, (codes.get(code) ?? 0) + 1);
    }
  } finally {
    ({ done } = await stop());
  }
  assert.ok(done > 5, `${done}`);
  for (const code of codes.keys()) assert.match(code ?? 'done', /^(done|EAGAIN|ERR_VERIFY)$/);
  assert.ok((codes.get(undefined) ?? 0) > 200, JSON.stringify([...codes]));
  for (const each of compiled) {
    await each.apply(target);
    assert.equal((await each.verify(target)).ok, true);
  }
});
