/** `/livez` shows whether the addon's threads do their work. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Health, native } from '../../lib/native/addon.ts';
import { threadProblems } from '../../lib/observe/liveness.ts';
import { suite } from '../suite.ts';
import { Farm, TOOLBOX } from '../support/netns.ts';
import { nodeEnvironment } from '../support/node.ts';
import { isOver } from '../support/patience.ts';
import { launch } from '../support/process.ts';

const test = suite('liveness');
test.needs('netns', 'uid-map', 'addon', 'toolbox');

test('a thread that the kernel does not let go makes /livez fail, and a thread that works does not', async () => {
  await using farm = new Farm('liveness');
  const path = await farm.add();
  const probe = async (...deny: string[]) => {
    const program = fileURLToPath(new URL('../fixtures/held.ts', import.meta.url));
    const words = ['deny', ...deny, '--', process.execPath, program, path];
    const child = launch(TOOLBOX, words, { stdio: ['pipe', 'pipe', 'inherit'], env: nodeEnvironment() });
    try {
      const [address] = (await once(createInterface(child.stdout), 'line')) as [string];
      for (const began = performance.now(); ; await sleep(20)) {
        const answer = await fetch(`http://${address}/livez`);
        const body = await answer.text();
        if (answer.status !== 200 || isOver(began, 1_000)) return [answer.status, body.trim()] as const;
      }
    } finally {
      child.stdin.end();
      child.kill('SIGKILL');
      await once(child, 'close');
    }
  };
  // The first specification denies nothing that is used.
  assert.deepEqual(await probe('mount=EPERM'), [200, 'ok']);
  const [status, body] = await probe('setns=HOLD');
  assert.equal(status, 503);
  assert.match(body, /^an addon thread has worked on one job for \d+ s$/);
});

test('threads that are lost, or too many to be replaced, are problems', () => {
  const health: Health = native().health();
  assert.deepEqual(threadProblems(health), []);
  assert.deepEqual(threadProblems({ ...health, lost: 1 }), [
    '1 addon threads could not return to the network namespace of this process',
  ]);
  assert.deepEqual(threadProblems({ ...health, stuck: health.spare, longestMs: 29_000 }), []);
  assert.deepEqual(threadProblems({ ...health, stuck: 13, longestMs: 29_000 }), [
    'the kernel blocks 13 addon threads, and only 12 can be replaced',
  ]);
});
