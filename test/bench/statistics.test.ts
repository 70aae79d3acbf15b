/** Percentiles and their confidence intervals, which contain the true value as often as they claim. */
import assert from 'node:assert/strict';
import { growth, percentile, ratioOf, seeded, summarize, thinned } from '../../bench/statistics.ts';
import { suite } from '../suite.ts';

const test = suite('bench, statistics');

/** Rounds that differ from one another, as they do on a real machine. Median of all: `middle`. */
function draw(random: ReturnType<typeof seeded>, middle: number): number[][] {
  return Array.from({ length: 12 }, () => {
    const round = middle * (0.9 + 0.2 * random.next());
    return Array.from({ length: 20 }, () => round * (0.8 + 0.4 * random.next()));
  });
}

test('percentiles are those of the samples, whatever their order', () => {
  const samples = seeded(1).shuffled(Array.from({ length: 101 }, (_, at) => at));
  assert.equal(percentile(samples, 0), 0);
  assert.equal(percentile(samples, 0.5), 50);
  assert.equal(percentile(samples, 0.99), 99);
  assert.equal(percentile(samples, 1), 100);
});

test('the same seed gives the same order, another one another', () => {
  const items = Array.from({ length: 20 }, (_, at) => at);
  assert.deepEqual(seeded(7).shuffled(items), seeded(7).shuffled(items));
  assert.notDeepEqual(seeded(7).shuffled(items), seeded(8).shuffled(items));
  assert.deepEqual(
    seeded(7)
      .shuffled(items)
      .sort((a, b) => a - b),
    items,
  );
});

test('19 of 20 intervals hold the true median, though the samples of a round resemble each other', () => {
  const random = seeded(2);
  const trials = 200;
  let held = 0;
  for (let trial = 0; trial < trials; trial++) {
    const { p50 } = summarize(draw(random, 100), random);
    assert.ok(p50.low <= p50.value && p50.value <= p50.high);
    if (p50.low <= 100 && 100 <= p50.high) held++;
  }
  // A bootstrap of twelve rounds is a little too sure of itself. One that drew samples would hold 60 %.
  assert.ok(held / trials > 0.87, `${held} of ${trials}`);
});

test('a ratio cancels what slows both in the same round', () => {
  const random = seeded(3);
  const base = draw(random, 100);
  const slow = Array.from({ length: 12 }, (_, at) => (at % 3 === 0 ? 3 : 1));
  const twice = base.map((round) => round.map((value) => 2 * value * (0.99 + 0.02 * random.next())));
  const scaled = (rounds: number[][]) => rounds.map((round, at) => round.map((value) => value * (slow[at] ?? 1)));
  const { value, low, high } = ratioOf(scaled(twice), scaled(base), random);
  assert.ok(value > 1.95 && value < 2.05, String(value));
  assert.ok(low > 1.9 && high < 2.1, `${low} to ${high}`);
});

test('thinning keeps percentiles and the largest', () => {
  const random = seeded(4);
  const rounds = Array.from({ length: 10 }, () => Array.from({ length: 3000 }, () => 100 * random.next() ** 4));
  const kept = thinned(rounds);
  assert.ok(kept.flat().length <= 2400);
  for (const p of [0.5, 0.9, 0.99]) {
    const [before, after] = [percentile(rounds.flat(), p), percentile(kept.flat(), p)];
    assert.ok(Math.abs(after / before - 1) < 0.05, `p${100 * p}: ${before} became ${after}`);
  }
  assert.equal(Math.max(...kept.flat()), Math.max(...rounds.flat()));
  assert.deepEqual(thinned([[3, 1, 2]]), [[1, 2, 3]]);
});

test('growth is that of the second half, in a minute', () => {
  assert.ok(Math.abs(growth([90, 9, 50, 20, 1, 3, 5, 7]) - 120) < 1e-9);
});
