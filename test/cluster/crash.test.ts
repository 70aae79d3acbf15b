/** A cluster leaves nothing behind, however the process that started it ends. */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { suite } from '../suite.ts';
import { launch } from '../support/process.ts';
import { added, census, now } from './census.ts';
import type { Testimony } from './fixtures/victim.ts';
import { until } from './pods.ts';
import { openSandbox } from './sandbox/sandbox.ts';

const LIMIT_MS = 60_000;
/** The kernel removes network namespaces in the background, one after the other. On a busy machine this takes longer. */
const GONE_MS = 30_000;

const test = suite('cluster, crash');
test.needs('cluster', 'toolbox');

const victims: ChildProcess[] = [];
test.after(() => {
  for (const victim of victims) victim.kill('SIGKILL');
});

async function startVictim(...words: string[]): Promise<{ victim: ChildProcess; testimony: Testimony }> {
  const victim = launch(process.execPath, [join(import.meta.dirname, 'fixtures/victim.ts'), ...words], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  victims.push(victim);
  const lines = createInterface(victim.stdout);
  const [line] = (await Promise.race([once(lines, 'line'), once(lines, 'close')])) as [string | undefined];
  assert.ok(line !== undefined, 'the victim ended before it was killed');
  return { victim, testimony: JSON.parse(line) as Testimony };
}

test(
  'a cluster goes with the process that started it, however that ends, and with a program that was stopped',
  async () => {
    const before = census();
    const { victim, testimony } = await startVictim('frozen');
    assert.ok(census(testimony).processes?.length);
    const ended = now();
    victim.kill('SIGKILL');
    await until(
      'gone: the cluster',
      async () => added(before, census({ ...testimony, ended })),
      (left) => left.length === 0,
      GONE_MS,
    );
  },
  { timeoutMs: LIMIT_MS },
);

test(
  'without its keepers too: the kernel ends it, and the next cluster takes its files away',
  async () => {
    const before = census();
    const { victim, testimony } = await startVictim();
    for (const folder of testimony.folders) {
      process.kill(Number(readFileSync(join(folder, 'keeper.pid'), 'utf8')), 'SIGKILL');
    }
    const traces = { ...testimony, ended: now() };
    victim.kill('SIGKILL');
    await until(
      'gone: what ran',
      async () => added(before, census(traces), ['cgroups', 'folders']),
      (left) => left.length === 0,
      GONE_MS,
    );
    const next = await openSandbox();
    await next.close();
    assert.deepEqual(added(before, census(traces)), []);
  },
  { timeoutMs: LIMIT_MS },
);
