/** Whose CPU time it is: what this program started, also when it has ended, and not what has left it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { ticksOf, watchOthers } from '../../bench/others.ts';
import { suite } from '../suite.ts';

const test = suite('bench, others');
test.needs('setsid');

const BUSY = 'while :; do :; done';
/** Of CPU time, in hundredths of a second. */
const ENOUGH = 60;

function ticks(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ')
    .map(Number);
  return (fields[11] ?? 0) + (fields[12] ?? 0);
}

test('a child counts, also after its end', async () => {
  const before = ticksOf(process.pid);
  const child = spawn('sh', ['-c', BUSY], { stdio: 'ignore' });
  while (ticks(child.pid ?? 0) < ENOUGH) await sleep(20);
  assert.ok(ticksOf(process.pid) - before >= ENOUGH);
  child.kill('SIGKILL');
  await once(child, 'exit');
  assert.ok(ticksOf(process.pid) - before >= ENOUGH);
});

test('who has another parent does not', async () => {
  const before = ticksOf(process.pid);
  // setsid forks and ends: init takes the orphan, which says who it is.
  const child = spawn('setsid', ['--fork', 'sh', '-c', `echo $$; ${BUSY}`], { stdio: ['ignore', 'pipe', 'ignore'] });
  const [line] = (await once(createInterface(child.stdout), 'line')) as [string];
  const orphan = Number(line);
  try {
    while (ticks(orphan) < 3 * ENOUGH) await sleep(20);
    assert.ok(ticksOf(process.pid) - before < 2 * ENOUGH);
  } finally {
    process.kill(orphan, 'SIGKILL');
  }
});

test('a share is one', async () => {
  const others = watchOthers();
  await sleep(200);
  const share = others();
  assert.ok(share >= 0 && share <= 1.1, String(share));
});
