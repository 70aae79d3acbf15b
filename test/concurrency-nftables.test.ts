/** Many installs at once with nftables and with both backends, beside others who change nf_tables all the while. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { native } from '../lib/native.ts';
import { suite } from './suite.ts';
import {
  assertAllAtHome,
  codeOf,
  compile,
  Farm,
  formFor,
  INSTALL_NEEDS,
  identify,
  inside,
  toJson,
  wholeState,
} from './support/netns.ts';
import { nodeEnvironment } from './support/node.ts';

const test = suite('concurrency with nftables');
test.needs(...INSTALL_NEEDS, 'nft');
test.after.each(assertAllAtHome);

const NFTABLES = ['--backend', 'nftables'];
const FLAGS: string[][] = [
  [],
  ['-m', 'TPROXY'],
  ['--redirect-dns', '--capture-all-dns'],
  ['-p', '16001', '-u', '2000'],
];
const compileAll = () => Promise.all(FLAGS.map((flags) => compile(...NFTABLES, ...flags)));
const compileBoth = async () => [
  ...(await compileAll()),
  ...(await Promise.all(FLAGS.map((flags) => compile(...flags)))),
];

for (const fresh of [false, true]) {
  test(`64 installs at once in 64 netns, ${fresh ? 'fresh' : 'not fresh'}`, async () => {
    await using farm = new Farm('concurrency');
    const targets = await Promise.all((await farm.addAll(64)).map(identify));
    const compiled = await compileAll();
    const of = (at: number) => compiled[at % compiled.length];
    const results = await Promise.all(targets.map((target, at) => of(at)?.apply(target, { fresh })));
    assert.ok(results.every((result) => result?.changed));
    const verified = await Promise.all(targets.map((target, at) => of(at)?.verify(target)));
    assert.ok(verified.every((result) => result?.ok));
    const others = await Promise.all(targets.map((target, at) => of(at + 1)?.verify(target)));
    assert.ok(others.every((result) => !result?.ok));
    await Promise.all(targets.map((target) => native().clean(target)));
  });
}

test('8 installs of one configuration in one netns: one changes it, seven find nothing to do', async () => {
  await using farm = new Farm('concurrency');
  for (const compiled of await compileAll()) {
    for (const fresh of [false, true]) {
      const target = await identify(await farm.add());
      const results = await Promise.all(Array.from({ length: 8 }, () => compiled.apply(target, { fresh })));
      assert.is(results.filter(({ changed }) => changed).length, 1);
      assert.is((await compiled.verify(target)).ok, true);
    }
  }
});

for (const [backends, compileEach] of Object.entries({ nftables: compileAll, both: compileBoth })) {
  test(`installs of all configurations at once in one netns leave exactly one of them, in one form: ${backends}`, async () => {
    await using farm = new Farm('concurrency');
    const compiled = await compileEach();
    const forms = new Set<string>();
    for (let round = 0; round < 10; round++) {
      const target = await identify(await farm.add());
      const rotated = [...compiled.slice(round % compiled.length), ...compiled.slice(0, round % compiled.length)];
      await Promise.all([...rotated, ...rotated].map((each) => each.apply(target)));
      const standing = await Promise.all(compiled.map((each) => each.verify(target)));
      assert.is(standing.filter(({ ok }) => ok).length, 1);
      const { standing: found } = await native().identify(target.path);
      assert.is(found.length, 1);
      forms.add(found.join());
    }
    assert.is(forms.size, backends === 'both' ? 2 : 1);
  });
}

test('installs, checks and clean-ups of both backends in one netns do not fail one another', async () => {
  await using farm = new Farm('concurrency');
  const compiled = await compileBoth();
  const target = await identify(await farm.add());
  const bare = await wholeState(target.path);
  const jobs = [];
  for (let round = 0; round < 15; round++) {
    for (const each of compiled) jobs.push(each.apply(target), each.verify(target), native().clean(target));
  }
  await Promise.all(jobs);
  await native().clean(target);
  assert.is(await wholeState(target.path), bare);
});

test('another process that adds and removes tables of its own all the while loses nothing, nor do we', async () => {
  await using farm = new Farm('concurrency');
  const compiled = await compileBoth();
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
      assert.is((await compiled[round % compiled.length]?.verify(target))?.ok, true);
    }
  } finally {
    ({ done, failed } = await stop());
  }
  assert.ok(done > 5 && failed === 0, `${done} done, ${failed} failed`);
  const theirs = (await inside(target.path, ['nft', 'list', 'table', 'inet', 'theirs'])).match(/counter/g)?.length;
  assert.is(theirs, done);
});

test('somebody flushes the ruleset all the while: an install succeeds or says what happened', async () => {
  await using farm = new Farm('concurrency');
  const compiled = await compileAll();
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
    assert.is((await each.verify(target)).ok, true);
  }
});

test('netns that are removed in the middle of installs', async () => {
  await using farm = new Farm('concurrency');
  const compiled = await compile(...NFTABLES, '-m', 'TPROXY');
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
});

for (const [ending, rounds] of [
  ['exit', 15],
  ['worker', 5],
] as const) {
  test(
    `a process with installs under way ends at once and well, ${rounds} times: ${ending}`,
    async () => {
      await using farm = new Farm('concurrency');
      const targets = await Promise.all((await farm.addAll(8)).map(identify));
      const program = fileURLToPath(new URL('fixtures/busy.ts', import.meta.url));
      const words = toJson({ form: await formFor(NFTABLES), targets });
      for (let round = 0; round < rounds; round++) {
        const child = spawn(process.execPath, [program, words, ending], {
          stdio: ['ignore', 'pipe', 'ignore'],
          env: nodeEnvironment(),
        });
        let doneAt = 0;
        child.stdout.on('data', () => {
          doneAt = performance.now();
        });
        const limit = setTimeout(() => child.kill('SIGKILL'), 10_000);
        const [code, signal] = (await once(child, 'exit')) as [number | null, string | null];
        clearTimeout(limit);
        assert.equal({ code, signal }, { code: 0, signal: null });
        // Up to four installs end, each of which may wait 12 ms for the closing of its socket.
        assert.ok(doneAt > 0 && performance.now() - doneAt < 1500, `lingered for ${performance.now() - doneAt} ms`);
      }
      const compiled = await compile(...NFTABLES);
      for (const target of targets) {
        await compiled.apply(target);
        assert.is((await compiled.verify(target)).ok, true);
      }
    },
    { timeoutMs: 60_000 },
  );
}

/** Runs a shell command in the netns again and again, until what it returns is called. */
function busyLoop(farm: Farm, path: string, command: string) {
  const stopped = farm.file('stop');
  const script = `d=0; f=0; while [ ! -e ${stopped} ]; do if ${command}; then d=$((d+1)); else f=$((f+1)); fi; done; echo $d $f`;
  const ended = inside(path, ['sh', '-c', script]);
  return async function stop() {
    writeFileSync(stopped, '');
    const [done = 0, failed = 0] = (await ended).split(' ').map(Number);
    return { done, failed };
  };
}
