/** The CPU time of programs that this one started does not count as other programs', even after they have ended. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { ticksOf, watchOthers } from '../../bench/others.ts';
import { suite } from '../suite.ts';
import { launch, runSync } from '../support/process.ts';

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
  const child = launch('sh', ['-c', BUSY], { stdio: 'ignore' });
  while (ticks(child.pid ?? 0) < ENOUGH) await sleep(20);
  assert.ok(ticksOf(process.pid) - before >= ENOUGH);
  child.kill('SIGKILL');
  await once(child, 'exit');
  assert.ok(ticksOf(process.pid) - before >= ENOUGH);
});

test('who has another parent does not', async () => {
  const before = ticksOf(process.pid);
  // setsid forks and ends: init takes the orphan, which says who it is.
  const child = launch('setsid', ['--fork', 'sh', '-c', `echo $$; ${BUSY}`], { stdio: ['ignore', 'pipe', 'ignore'] });
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

test(
  'in a container, which does not see the kernel at work, others have what they do in programs',
  async () => {
    // Nearly all that it does is done by the kernel.
    const load = launch('dd', ['if=/dev/zero', 'of=/dev/null', 'bs=64k'], { stdio: 'ignore' });
    const script = `
      import { cpus } from 'node:os';
      import { readFileSync } from 'node:fs';
      import { setTimeout as sleep } from 'node:timers/promises';
      import { watchOthers } from ${JSON.stringify(new URL('../../bench/others.ts', import.meta.url).href)};
      const programs = () => {
        const [, user, nice, , , , , , steal] = readFileSync('/proc/stat', 'utf8').split('\\n')[0].split(/\\s+/).map(Number);
        return (user + nice + steal) / 100;
      };
      const before = programs();
      const others = watchOthers();
      const began = performance.now();
      await sleep(1500);
      const share = others();
      const seconds = (performance.now() - began) / 1000;
      console.log(share * seconds * cpus().length, programs() - before);`;
    try {
      const enter = ['--pid', '--fork', '--mount-proc', process.execPath, '--input-type=module', '--eval', script];
      const { stdout, stderr } = runSync('unshare', enter);
      const [others = Number.NaN, most = 0] = stdout.split(' ').map(Number);
      assert.ok(others <= most + 0.1, `${others} of ${most} s; ${stderr}`);
    } finally {
      load.kill('SIGKILL');
    }
  },
  { needs: ['netns', 'dd', 'unshare'] },
);
