import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { Allowance } from '../../lib/controller/allowance.ts';
import { suite } from '../suite.ts';

const test = suite('allowance');

test('a few calls run at once, and the others are merged into one later call', async () => {
  let calls = 0;
  const allowance = new Allowance({ burst: 3, eachMs: 100 });
  const keepAlive = setTimeout(() => {}, 10_000);
  for (let i = 0; i < 1000; i++) allowance.take(() => calls++);
  assert.equal(calls, 3);
  await sleep(1);
  assert.equal(calls, 3);
  for (const began = performance.now(); calls === 3 && performance.now() - began < 5_000; ) await sleep(10);
  assert.equal(calls, 4);
  allowance.take(() => calls++);
  allowance.cancel();
  await sleep(200);
  clearTimeout(keepAlive);
  assert.equal(calls, 4, 'a call that was cancelled is not made');
});
