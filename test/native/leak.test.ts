/** 10,000 installs of each backend in short-lived netns: descriptors, threads, memory stay level; every netns goes. */

import assert from 'node:assert/strict';
import { readdirSync, statSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { type Compiled, native } from '../../lib/native/addon.ts';
import { suite } from '../suite.ts';
import { assertAllAtHome, codeOf, compile, Farm, identify } from '../support/netns.ts';

const INSTALLS = 10_000;
const WARM_UP = 2000;
const AT_ONCE = 50;
const PROBES = 64;

const test = suite('leak');
test.needs('netns', 'uid-map', 'ipv6', 'addon', 'toolbox');

function levels() {
  return {
    descriptors: readdirSync('/proc/self/fd').length,
    threads: readdirSync('/proc/self/task').length,
    rss: process.memoryUsage.rss(),
  };
}

/**
 * How high the kernel's numbering goes when 64 netns are made: it gives out the lowest free numbers, so each netns that
 * something still holds on to pushes these up by as many numbers as a netns takes.
 */
async function highWaterMark(farm: Farm): Promise<number> {
  const paths = await farm.addAll(PROBES);
  const highest = Math.max(...paths.map((path) => statSync(path).ino));
  await Promise.all(paths.map((path) => farm.del(path)));
  return highest;
}

/** The lowest mark of some seconds: the kernel takes its time to let go of netns. */
async function settledMark(farm: Farm, enough: number): Promise<number> {
  let lowest = Number.POSITIVE_INFINITY;
  for (let attempt = 0; attempt < 40 && lowest > enough; attempt++) {
    await setTimeout(250);
    lowest = Math.min(lowest, await highWaterMark(farm));
  }
  return lowest;
}

/** The first two of `compiled` in turn; in some netns the third in its place. */
async function installEverywhere(farm: Farm, compiled: Compiled[], installs: number): Promise<void> {
  for (let done = 0; done < installs; done += AT_ONCE) {
    const paths = await farm.addAll(AT_ONCE);
    await Promise.all(
      paths.map(async (path, at) => {
        const target = await identify(path);
        const each = compiled[at % 2];
        await each?.apply(target, { fresh: at % 3 !== 0 });
        if (at % 10 === 1) assert.equal((await compiled[2]?.apply(target))?.changed, true);
        // What fails must let go as well: the next netns has another cookie.
        if (at % 10 === 0) {
          assert.equal((await each?.verify(target))?.ok, true);
          assert.equal(
            await codeOf(each?.apply({ ...target, cookie: target.cookie + 1n }) ?? Promise.resolve()),
            'ESTALE',
          );
          await native().clean(target);
        }
      }),
    );
    await Promise.all(paths.map((path) => farm.del(path)));
  }
}

for (const backend of ['iptables-legacy', 'nftables'] as const)
  test(
    `${INSTALLS} installs of ${backend} hold on to nothing`,
    async () => {
      await using farm = new Farm('leak');
      const other = backend === 'nftables' ? 'iptables-legacy' : 'nftables';
      const compiled = await Promise.all([
        compile('--backend', backend),
        compile('--backend', backend, '-m', 'TPROXY', '--redirect-dns', '--capture-all-dns'),
        compile('--backend', other),
      ]);
      await installEverywhere(farm, compiled, WARM_UP);
      const base = await settledMark(farm, 0);

      // The measure must be able to fail: as many netns again, held on purpose, are seen.
      const held = await farm.addAll(PROBES);
      const width = (await highWaterMark(farm)) - base;
      await Promise.all(held.map((path) => farm.del(path)));
      assert.ok(width >= PROBES, `${PROBES} netns more move the mark by ${width}`);
      const perNetns = width / PROBES;

      const before = levels();
      await installEverywhere(farm, compiled, INSTALLS - WARM_UP);
      globalThis.gc?.();
      const after = levels();

      assert.equal(after.descriptors, before.descriptors);
      assert.equal(after.threads, before.threads);
      // 8,000 more installs: a leak of 1 KiB each would be 8 MiB.
      const grown = (after.rss - before.rss) / 2 ** 20;
      assert.ok(grown < 8, `${grown.toFixed(1)} MiB more`);
      await assertAllAtHome();
      // Others on this machine may have made some meanwhile.
      const mark = await settledMark(farm, base + 32 * perNetns);
      assert.ok(mark <= base + 32 * perNetns, `about ${Math.round((mark - base) / perNetns)} netns are still held`);
    },
    { timeoutMs: 300_000 },
  );
