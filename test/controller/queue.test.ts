/** The work queue with a clock that the test moves, so that the order of events is fixed. */
import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import { type Attempt, type Clock, type QueueOptions, WorkQueue } from '../../lib/controller/queue.ts';
import { suite } from '../suite.ts';

class FakeClock implements Clock {
  #now = 0;
  readonly timers = new Set<{ at: number; call: () => void }>();

  now() {
    return this.#now;
  }

  after(ms: number, call: () => void) {
    const timer = { at: this.#now + ms, call };
    this.timers.add(timer);
    return () => this.timers.delete(timer);
  }

  async pass(ms: number) {
    this.#now += ms;
    for (const timer of this.timers) {
      if (timer.at > this.#now) continue;
      this.timers.delete(timer);
      timer.call();
    }
    await turn();
  }
}

interface Running {
  attempt: Attempt;
  end(): Promise<void>;
  fail(error?: unknown): Promise<void>;
}

/** A queue whose workers end when they are told to. `random` 1: no jitter, the whole back-off. */
function harness(options: Partial<QueueOptions> = {}) {
  const clock = new FakeClock();
  const running: Running[] = [];
  const seen: string[] = [];
  const errors: unknown[][] = [];
  const queue = new WorkQueue({
    concurrency: 2,
    clock,
    random: () => 1,
    retry: (error) => (error === 'final' ? false : typeof error === 'number' ? { afterMs: error } : {}),
    onError: (...told) => errors.push(told),
    work: (attempt) => {
      seen.push(attempt.key);
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const over = async () => {
        running.splice(running.indexOf(entry), 1);
        await turn();
      };
      const entry: Running = {
        attempt,
        end: () => {
          resolve();
          return over();
        },
        fail: (error = 'healable') => {
          reject(error);
          return over();
        },
      };
      running.push(entry);
      return promise;
    },
    ...options,
  });
  const first = () => {
    const [entry] = running;
    assert.ok(entry, 'nothing runs');
    return entry;
  };
  return { clock, queue, running, seen, errors, first };
}

const IDLE = { waiting: { new: 0, resync: 0, costly: 0 }, running: 0, backingOff: 0, oldestMs: 0, longestRunMs: 0 };

const test = suite('queue');

test('works on a bounded number of keys at once, in the order of arrival', async () => {
  const { queue, seen, first } = harness();
  for (const key of ['a', 'b', 'c', 'd']) queue.add(key);
  await turn();
  assert.deepEqual(seen, ['a', 'b']);
  await first().end();
  assert.deepEqual(seen, ['a', 'b', 'c']);
  await first().end();
  await first().end();
  await first().end();
  assert.deepEqual(seen, ['a', 'b', 'c', 'd']);
  assert.deepEqual(queue.stats(), IDLE);
});

test('a key that waits is worked on once', async () => {
  const { queue, seen } = harness();
  queue.add('a');
  queue.add('a');
  await turn();
  assert.deepEqual(seen, ['a']);
});

test('a key added while it runs runs once more, alone', async () => {
  const { queue, seen, running, first } = harness();
  queue.add('a');
  await turn();
  queue.add('a');
  queue.add('a');
  await turn();
  assert.equal(running.length, 1);
  await first().end();
  assert.deepEqual(seen, ['a', 'a']);
  await first().end();
  assert.deepEqual(seen, ['a', 'a']);
  assert.deepEqual(queue.stats(), IDLE);
});

test('a key added while it runs keeps the higher priority, and no memory of failures before a success', async () => {
  const { queue, clock, first } = harness();
  queue.add('a', 'resync');
  await turn();
  await first().fail();
  await clock.pass(100);
  queue.add('a');
  queue.add('a', 'resync');
  await first().end();
  assert.deepEqual(first().attempt, { key: 'a', priority: 'new', failures: 0, waitedMs: 0 });
});

test('a new pod goes before all resync work that waits', async () => {
  const { queue, seen, first } = harness({ concurrency: 1 });
  queue.add('r1', 'resync');
  queue.add('r2', 'resync');
  queue.add('n1');
  await turn();
  queue.add('n2');
  await first().end();
  await first().end();
  await first().end();
  assert.deepEqual(seen, ['n1', 'n2', 'r1', 'r2']);
});

test('resync work leaves a worker to new pods', async () => {
  const { queue, seen } = harness({ concurrency: 3 });
  for (const key of ['r1', 'r2', 'r3', 'r4']) queue.add(key, 'resync');
  await turn();
  assert.deepEqual(seen, ['r1', 'r2']);
  queue.add('n');
  await turn();
  assert.deepEqual(seen, ['r1', 'r2', 'n']);
  assert.deepEqual(queue.stats().waiting, { new: 0, resync: 2, costly: 0 });
});

test('resync work that waits becomes new when it is added as such, and never the other way', async () => {
  const { queue, seen, first } = harness({ concurrency: 1 });
  queue.add('busy');
  await turn();
  for (const key of ['r1', 'r2']) queue.add(key, 'resync');
  queue.add('n');
  queue.add('r2');
  queue.add('n', 'resync');
  for (let i = 0; i < 4; i++) await first().end();
  assert.deepEqual(seen, ['busy', 'n', 'r2', 'r1']);
});

test('waits twice as long after each failure, up to a limit, and starts over after a success', async () => {
  const { queue, clock, errors, running, first } = harness({ backoffMs: [100, 500] });
  queue.add('a');
  await turn();
  for (const wait of [100, 200, 400, 500, 500]) {
    await first().fail();
    assert.equal(errors.at(-1)?.[2], wait);
    assert.deepEqual(queue.stats(), { ...IDLE, backingOff: 1 });
    await clock.pass(wait - 1);
    assert.equal(running.length, 0);
    await clock.pass(1);
    assert.equal(running.length, 1);
  }
  assert.equal(first().attempt.failures, 5);
  await first().end();
  queue.add('a');
  await turn();
  assert.equal(first().attempt.failures, 0);
});

test('the verdict on an error may set another limit for its wait', async () => {
  const retry = (error: unknown) => (error === 'slow' ? { longestMs: 2000 } : {});
  const { queue, clock, errors, first } = harness({ backoffMs: [100, 500], retry });
  queue.add('a');
  await turn();
  for (const [error, wait] of [
    ['slow', 100],
    ['slow', 200],
    ['slow', 400],
    ['slow', 800],
    ['slow', 1600],
    ['slow', 2000],
    ['other', 500],
  ] as const) {
    await first().fail(error);
    assert.equal(errors.at(-1)?.[2], wait);
    await clock.pass(wait);
  }
});

test('the wait has jitter: from half to the whole', async () => {
  for (const [random, wait] of [
    [0, 50],
    [0.5, 75],
    [1, 100],
  ] as const) {
    const { queue, errors, first } = harness({ random: () => random });
    queue.add('a');
    await turn();
    await first().fail();
    assert.equal(errors[0]?.[2], wait);
  }
});

test('what the other side asks for is waited in addition', async () => {
  const { queue, errors, clock, running, first } = harness();
  queue.add('a');
  await turn();
  await first().fail(2_000);
  assert.equal(errors[0]?.[2], 2_100);
  queue.add('a');
  await clock.pass(1_999);
  assert.equal(running.length, 0);
  await clock.pass(1);
  assert.equal(running.length, 1);
});

test('a final error is reported, and its key is forgotten', async () => {
  const { queue, errors, clock, first } = harness();
  queue.add('a');
  await turn();
  await first().fail('final');
  assert.deepEqual(errors, [['final', { key: 'a', priority: 'new', failures: 0, waitedMs: 0 }, undefined]]);
  assert.deepEqual(queue.stats(), IDLE);
  assert.equal(clock.timers.size, 0);
});

test('what happened to a key that backs off brings its attempt forward; resync does not', async () => {
  const { queue, clock, running, first } = harness();
  queue.add('a');
  await turn();
  for (const wait of [100, 200, 400]) {
    await first().fail();
    if (wait < 400) await clock.pass(wait);
  }
  await clock.pass(60);
  queue.add('a', 'resync');
  await clock.pass(0);
  assert.equal(running.length, 0);
  queue.add('a');
  await clock.pass(0);
  assert.equal(first().attempt.failures, 3);
});

test('a key that fails and is added again and again does not cause a busy loop', async () => {
  const { queue, clock, running, first } = harness();
  queue.add('a');
  await turn();
  queue.add('a');
  await first().fail();
  queue.add('a');
  await clock.pass(49);
  assert.equal(running.length, 0);
  await clock.pass(1);
  assert.equal(running.length, 1);
});

test('a new pod that fails keeps its priority, whatever adds it meanwhile', async () => {
  const { queue, clock, first } = harness({ concurrency: 1 });
  queue.add('a');
  await turn();
  queue.add('a', 'resync');
  await first().fail();
  await clock.pass(100);
  assert.equal(first().attempt.priority, 'new');
  queue.add('a', 'resync');
  await first().end();
  assert.equal(first().attempt.priority, 'resync');
});

test('a final error is not the last word on what was added meanwhile', async () => {
  const { queue, first } = harness();
  queue.add('a');
  await turn();
  queue.add('a');
  await first().fail('final');
  assert.equal(first().attempt.failures, 0);
});

test('a key that is forgotten is not worked on, not tried again and not kept', async () => {
  const { queue, clock, seen, running, first } = harness({ concurrency: 1 });
  queue.add('runs');
  await turn();
  queue.add('waits');
  queue.forget('waits');
  queue.forget('unknown');
  queue.add('runs');
  queue.forget('runs');
  await first().fail();
  assert.deepEqual(queue.stats(), IDLE);
  queue.add('paused');
  await turn();
  await first().fail();
  queue.forget('paused');
  await clock.pass(60_000);
  assert.deepEqual(seen, ['runs', 'paused']);
  assert.equal(running.length, 0);
  assert.deepEqual([queue.stats(), clock.timers.size], [IDLE, 0]);
});

test('tells how long the oldest has waited, and each worker how long its key did', async () => {
  const { queue, clock, first } = harness({ concurrency: 1 });
  queue.add('busy');
  await turn();
  await clock.pass(5);
  queue.add('r', 'resync');
  await clock.pass(30);
  queue.add('n');
  await clock.pass(10);
  assert.deepEqual(queue.stats(), {
    waiting: { new: 1, resync: 1, costly: 0 },
    running: 1,
    backingOff: 0,
    oldestMs: 40,
    longestRunMs: 45,
  });
  await first().end();
  assert.equal(first().attempt.waitedMs, 10);
});

test('drain lets finish what runs and starts nothing more', async () => {
  const { queue, clock, seen, first } = harness();
  queue.add('paused');
  await turn();
  await first().fail();
  for (const key of ['a', 'b', 'waits']) queue.add(key);
  await turn();
  queue.add('a');
  let left: number | undefined;
  const drained = queue.drain().then((count) => {
    left = count;
  });
  queue.add('late');
  await first().end();
  assert.equal(left, undefined);
  await first().fail();
  await drained;
  assert.equal(left, 0);
  await clock.pass(60_000);
  assert.deepEqual(seen, ['paused', 'a', 'b']);
  assert.deepEqual([queue.stats(), clock.timers.size], [IDLE, 0]);
  assert.equal(await queue.drain(), 0);
});

test('drain does not wait beyond the signal, and says how many still run', async () => {
  const { queue } = harness();
  queue.add('a');
  await turn();
  const abort = new AbortController();
  const drained = queue.drain(abort.signal);
  abort.abort();
  assert.equal(await drained, 1);
  assert.equal(await queue.drain(AbortSignal.abort()), 1);
});

test('whatever is thrown, nothing is left unhandled and no worker is lost', async () => {
  const thrower = () => {
    throw new Error('from a callback');
  };
  for (const options of [{ work: thrower }, { onError: thrower }, { retry: thrower }]) {
    const { queue, first } = harness({ concurrency: 1, ...options });
    queue.add('a');
    queue.add('b');
    await turn();
    if (!('work' in options)) {
      await first().fail('final');
      assert.equal(first().attempt.key, 'b');
      await first().end();
    }
    assert.equal(queue.stats().running, 0);
  }
});

test("by default, Node's own clock", async () => {
  const worked = Promise.withResolvers<number>();
  const queue = new WorkQueue({
    concurrency: 1,
    backoffMs: [1, 1],
    retry: () => ({}),
    work: async ({ failures }) => {
      if (failures < 3) throw new Error('not yet');
      worked.resolve(failures);
    },
  });
  queue.add('a');
  assert.equal(await worked.promise, 3);
});

test('a key that costs much waits longer and longer, is not hurried, and never has a second worker', async () => {
  const { queue, clock, running, seen } = harness({
    concurrency: 3,
    retry: (error) => (error === 'costly' ? { costlyMs: 5_000, longestMs: 15_000 } : {}),
  });
  for (const key of ['a', 'b']) queue.add(key);
  await turn();
  for (const { fail } of [...running]) await fail('costly');
  // Once may be bad luck.
  await clock.pass(100);
  assert.deepEqual(seen.splice(0), ['a', 'b', 'a', 'b']);
  for (const { fail } of [...running]) await fail('costly');
  // Neither is worked on before its time, whoever asks.
  queue.add('a');
  queue.add('b');
  await clock.pass(9_999);
  assert.deepEqual(seen, []);
  await clock.pass(1);
  assert.deepEqual(
    [running.map(({ attempt }) => attempt.key), queue.stats().waiting],
    [['a'], { new: 0, resync: 0, costly: 1 }],
  );
  assert.equal(running[0]?.attempt.priority, 'costly');
  // Others are worked on meanwhile.
  queue.add('c');
  await turn();
  assert.deepEqual(
    running.map(({ attempt }) => attempt.key),
    ['a', 'c'],
  );
  await running[0]?.fail('costly');
  assert.deepEqual(
    running.map(({ attempt }) => attempt.key),
    ['c', 'b'],
  );
  await clock.pass(14_999);
  assert.equal(queue.stats().backingOff, 1);
  await running[1]?.end();
  await clock.pass(1);
  assert.equal(running[1]?.attempt.key, 'a');
  await running[1]?.fail('costly');
  await clock.pass(14_999);
  assert.equal(running.length, 1);
  await clock.pass(1);
  await running[1]?.end();
  // After a success it is a key as any other.
  queue.add('a');
  await turn();
  assert.equal(running[1]?.attempt.priority, 'new');
});
