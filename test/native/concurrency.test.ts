/** Many installs at once, others at work in the same netns, netns that go away, and processes that end in between. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import type { Failure } from '../../lib/errors.ts';
import { type ApplyResult, native } from '../../lib/native/addon.ts';
import type { Backend } from '../../lib/ruleset/form.ts';
import { suite } from '../suite.ts';
import { busyLoop, compileAll, holdLock } from '../support/contention.ts';
import {
  assertAllAtHome,
  BACKENDS,
  codeOf,
  compile,
  Farm,
  formFor,
  INSTALL_NEEDS,
  identify,
  restore,
  state,
  toJson,
} from '../support/netns.ts';
import { nodeEnvironment } from '../support/node.ts';
import { isOver, patience } from '../support/patience.ts';
import { launch } from '../support/process.ts';

const test = suite('concurrency');
test.needs(...INSTALL_NEEDS, 'iptables-legacy');
test.after.each(assertAllAtHome);

const LEGACY: Backend = 'iptables-legacy';
const NFTABLES: Backend = 'nftables';

for (const backend of [LEGACY, NFTABLES]) {
  const { needs } = BACKENDS[backend];

  for (const fresh of [false, true]) {
    const what = `64 installs at once in 64 netns, ${fresh ? 'fresh' : 'not fresh'}: ${backend}`;
    test(
      what,
      async () => {
        await using farm = new Farm('concurrency');
        const targets = await Promise.all((await farm.addAll(64)).map(identify));
        const compiled = await compileAll(backend);
        const of = (at: number) => compiled[at % compiled.length];
        const results = await Promise.all(targets.map((target, at) => of(at)?.apply(target, { fresh })));
        assert.ok(results.every((result) => result?.changed));
        const verified = await Promise.all(targets.map((target, at) => of(at)?.verify(target)));
        assert.ok(verified.every((result) => result?.ok));
        const others = await Promise.all(targets.map((target, at) => of(at + 1)?.verify(target)));
        assert.ok(others.every((result) => !result?.ok));
        await Promise.all(targets.map((target) => native().clean(target)));
      },
      { needs },
    );
  }

  test(
    `8 installs of one configuration in one netns: one changes it, seven find nothing to do: ${backend}`,
    async () => {
      await using farm = new Farm('concurrency');
      for (const compiled of await compileAll(backend)) {
        for (const fresh of [false, true]) {
          const target = await identify(await farm.add());
          const results = await Promise.all(Array.from({ length: 8 }, () => compiled.apply(target, { fresh })));
          assert.equal(results.filter(({ changed }) => changed).length, 1);
          assert.equal((await compiled.verify(target)).ok, true);
        }
      }
    },
    { needs },
  );

  test(
    `netns that are removed in the middle of installs: ${backend}`,
    async () => {
      await using farm = new Farm('concurrency');
      const compiled = await compile('--backend', backend, '-m', 'TPROXY');
      const codes = new Map<string | undefined, number>();
      for (let round = 0; round < 10; round++) {
        const paths = await farm.addAll(32);
        const targets = await Promise.all(paths.map(identify));
        const installs = targets.map((target, at) => codeOf(compiled.apply(target, { fresh: at % 2 === 0 })));
        const removals = paths.map((path) => farm.del(path));
        for (const code of await Promise.all(installs)) codes.set(code, (codes.get(code) ?? 0) + 1);
        await Promise.all(removals);
        assert.ok(paths.every((path) => !existsSync(path)));
      }
      for (const code of codes.keys()) assert.match(code ?? 'done', /^(done|ENOENT|ERR_NOT_NETNS)$/);
      assert.ok((codes.get(undefined) ?? 0) > 0 && codes.size > 1, JSON.stringify([...codes]));
    },
    { needs },
  );
}

for (const backends of [[LEGACY], [NFTABLES], [LEGACY, NFTABLES]]) {
  const needs = backends.flatMap((backend) => BACKENDS[backend].needs);

  test(
    `installs of all configurations at once in one netns leave exactly one of them, in one form: ${backends.join()}`,
    async () => {
      await using farm = new Farm('concurrency');
      const compiled = await compileAll(...backends);
      const forms = new Set<string>();
      for (let round = 0; round < 10; round++) {
        const target = await identify(await farm.add());
        const rotated = [...compiled.slice(round % compiled.length), ...compiled.slice(0, round % compiled.length)];
        await Promise.all([...rotated, ...rotated].map((each) => each.apply(target)));
        const standing = await Promise.all(compiled.map((each) => each.verify(target)));
        assert.equal(standing.filter(({ ok }) => ok).length, 1);
        const { installedBackends: found } = await native().identify(target.path);
        assert.equal(found.length, 1);
        forms.add(found.join());
      }
      assert.equal(forms.size, backends.length);
    },
    { needs },
  );

  test(
    `installs, checks and clean-ups in one netns do not fail one another: ${backends.join()}`,
    async () => {
      await using farm = new Farm('concurrency');
      const compiled = await compileAll(...backends);
      const target = await identify(await farm.add());
      const look = BACKENDS[backends.includes(NFTABLES) ? NFTABLES : LEGACY].look;
      const bare = await look(target.path);
      const jobs = [];
      for (let round = 0; round < 120 / compiled.length; round++) {
        for (const each of compiled) jobs.push(each.apply(target), each.verify(target), native().clean(target));
      }
      await Promise.all(jobs);
      await native().clean(target);
      assert.equal(await look(target.path), bare);
    },
    { needs },
  );
}

test('another process that changes the same tables all the while loses nothing, nor do we', async () => {
  await using farm = new Farm('concurrency');
  const path = await farm.add();
  const target = await identify(path);
  const tables = '*nat\n:THEIRS - [0:0]\n-A PREROUTING -j THEIRS\nCOMMIT\n*mangle\n:THEIRS - [0:0]\nCOMMIT\n';
  for (const family of [4, 6] as const) await restore(path, family, tables);
  // Each tells what it has added. A command that failed may have added its rule as well: it fails too if the table was
  // changed between the writing of it and the adding of counters. Without a pause a slow reader would never be in time
  // with a table that grows, as it is under a sanitizer.
  const loop = (program: string, table: string) =>
    busyLoop(farm, path, `sleep 0.005; ${program} -t ${table} -A THEIRS -p 17 -j RETURN 2>/dev/null`);
  const loops = [loop('iptables-legacy', 'nat'), loop('ip6tables-legacy', 'nat'), loop('iptables-legacy', 'mangle')];
  const compiled = await compileAll(LEGACY);
  let merged: ApplyResult | undefined;
  let added: number[] = [];
  try {
    const began = performance.now();
    for (let round = 0; round % 60 !== 0 || !isOver(began, 400); round++)
      merged = await compiled[round % compiled.length]?.apply(target);
  } finally {
    added = (await Promise.all(loops.map((stop) => stop()))).map(({ done }) => done);
  }
  assert.ok(merged?.changed);
  assert.equal((await compiled[59 % compiled.length]?.verify(target))?.ok, true);
  const [v4 = '', v6 = ''] = (await state(path)).split('# IPv6\n');
  const theirs = (text: string, table: string) =>
    new RegExp(`\\*${table}\n([^*]*)`).exec(text)?.[1]?.match(/-A THEIRS -p udp -j RETURN/g)?.length;
  const found = [theirs(v4, 'nat'), theirs(v6, 'nat'), theirs(v4, 'mangle')];
  for (const [at, told] of added.entries()) assert.ok(told > 5 && (found[at] ?? 0) >= told, `${found} of ${added}`);
});

test('others who write tables as large as ours from copies read before ours fail no install', async () => {
  await using farm = new Farm('concurrency');
  const target = await identify(await farm.add());
  for (const family of [4, 6] as const) await restore(target.path, family, '*nat\n:THEIRS - [0:0]\nCOMMIT\n');
  const compiled = await Promise.all([compile(), compile('-p', '16001', '-u', '2000')]);
  const loops = ['iptables-legacy', 'ip6tables-legacy'].flatMap((program) => {
    const theirs = `for i in $(seq 60); do ${program} -t nat -A THEIRS -j RETURN; done; ${program} -t nat -F THEIRS`;
    return [1, 2].map(() => busyLoop(farm, target.path, `(${theirs}) 2>/dev/null`));
  });
  let [last, rounds] = [0, 0];
  try {
    // Within the first few hundred one of them comes between the two system calls with which we write a table.
    const began = performance.now();
    for (; last < 3000 && !isOver(began, 5_000); last++) await compiled[last % 2]?.apply(target);
  } finally {
    for (const { done, failed } of await Promise.all(loops.map((stop) => stop()))) rounds += done + failed;
  }
  assert.ok(rounds > 2 * loops.length, `${rounds}`);
  await compiled[last % 2]?.apply(target);
  assert.equal((await compiled[last % 2]?.verify(target))?.ok, true);
});

test('a full queue refuses what is too much, and the rest succeeds', async () => {
  await using farm = new Farm('concurrency');
  const compiled = await compile();
  const target = await identify(await farm.add());
  const jobs = Array.from({ length: 6000 }, (_, at) =>
    at % 2 === 0 ? compiled.apply(target) : native().identify(target.path),
  );
  const outcomes = await Promise.allSettled(jobs);
  const refused = outcomes.filter((outcome) => outcome.status === 'rejected');
  for (const { reason } of refused) assert.equal((reason as Failure).code, 'ERR_QUEUE_FULL');
  // Besides the 4096 that wait, some were running or over by then.
  assert.ok(refused.length > 1000 && refused.length <= 6000 - 4096, `${refused.length}`);
  assert.equal((await compiled.apply(target)).changed, false);
});

test('a netns whose lock is held does not delay the others for long', async () => {
  await using farm = new Farm('concurrency');
  const compiled = await compile();
  const [held = '', ...free] = await farm.addAll(9);
  const targets = await Promise.all(free.map(identify));
  const busy = await identify(held);
  await using _lock = await holdLock(held);
  let over = 0;
  const overBefore = compiled.apply(busy).then(({ changed }) => {
    assert.equal(changed, true);
    return over;
  });
  const count = () => over++;
  await Promise.all(targets.map((target) => compiled.apply(target).then(count)));
  assert.ok((await overBefore) > 0, 'none was over before the one that waits for the lock');
});

for (const [backend, ending, rounds] of [
  [LEGACY, 'exit', 30],
  [LEGACY, 'end', 5],
  [LEGACY, 'worker', 10],
  [LEGACY, 'throw', 5],
  [NFTABLES, 'exit', 15],
  [NFTABLES, 'worker', 5],
] as const) {
  test(
    `a process with installs under way ends at once and well, ${rounds} times: ${ending}, ${backend}`,
    async () => {
      await using farm = new Farm('concurrency');
      const targets = await Promise.all((await farm.addAll(8)).map(identify));
      const program = fileURLToPath(new URL('../fixtures/busy.ts', import.meta.url));
      const words = toJson({ form: formFor(['--backend', backend]), targets });
      for (let round = 0; round < rounds; round++) {
        const child = launch(process.execPath, [program, words, ending], {
          stdio: ['ignore', 'pipe', 'pipe'],
          env: nodeEnvironment(),
        });
        let doneAt = 0;
        child.stdout.on('data', () => {
          doneAt = performance.now();
        });
        const limit = setTimeout(() => child.kill('SIGKILL'), 10_000 * patience());
        const [code, signal] = (await once(child, 'exit')) as [number | null, string | null];
        clearTimeout(limit);
        assert.deepEqual({ code, signal }, { code: ending === 'throw' ? 1 : 0, signal: null });
        // Up to four installs end, each of which with nftables may wait 12 ms for the closing of its socket.
        assert.ok(doneAt > 0 && !isOver(doneAt, 1500), `lingered for ${performance.now() - doneAt} ms`);
      }
      // Nothing of it holds a lock or half an install that a later one could not mend.
      const compiled = await compile('--backend', backend);
      for (const target of targets) {
        await compiled.apply(target);
        assert.equal((await compiled.verify(target)).ok, true);
      }
    },
    { needs: BACKENDS[backend].needs, timeoutMs: 60_000 },
  );
}

test('worker threads load the addon as well, side by side', async () => {
  await using farm = new Farm('concurrency');
  const paths = await farm.addAll(4);
  const body = `
    import { parentPort, workerData } from 'node:worker_threads';
    import { native } from ${JSON.stringify(new URL('../../lib/native/addon.ts', import.meta.url).href)};
    const { families, tables, routes } = { families: [4, 6], tables: [], routes: { loopback6: true } };
    const compiled = await native().compile({ backend: 'iptables-legacy', ruleset: { families, tables, routes } });
    parentPort.postMessage((await compiled.apply(await native().identify(workerData))).routes.join());
  `;
  const results = await Promise.all(
    paths.map(async (workerData) => {
      const url = new URL(`data:text/javascript,${encodeURIComponent(body)}`);
      const [message] = (await once(new Worker(url, { workerData }), 'message')) as [string];
      return message;
    }),
  );
  assert.deepEqual(new Set(results), new Set(['-6 address add ::6/128 dev lo']));
  for (const path of paths) assert.ok((await state(path)).includes('inet6 ::6/128'), await state(path));
});
