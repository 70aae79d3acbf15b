/** A slower series is detected, and an unchanged one is not, although the speed of the machine differs each time. */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compare } from '../../bench/compare.ts';
import { Floors } from '../../bench/drivers/floors.ts';
import { prepareDrivers } from '../../bench/drivers/index.ts';
import { rulesetOf } from '../../bench/drivers/rules.ts';
import { Farm } from '../../bench/farm.ts';
import { interleaved } from '../../bench/method.ts';
import type { Results, Series } from '../../bench/schema.ts';
import { seeded } from '../../bench/statistics.ts';
import { burstOf } from '../../bench/workloads/single.ts';
import { suite } from '../suite.ts';
import { runSync } from '../support/process.ts';
import { sample } from './sample.ts';

const test = suite('bench, compare');
const MAIN = fileURLToPath(new URL('../../bench/main.ts', import.meta.url));

const slower = (before: Results, after: Results) =>
  compare(before, after)
    .changes.filter(({ verdict }) => verdict === 'slower')
    .map(({ id }) => id);

test('an unchanged tree is not accused in ten runs, on machines of half and double speed', () => {
  const first = sample({ seed: 1 });
  for (let run = 2; run <= 11; run++)
    assert.deepEqual(slower(first, sample({ seed: run, slower: [0.5, 1, 2][run % 3] ?? 1 })), []);
});

test('100 us more in each install are detected in each of ten runs, even from a machine of double speed', () => {
  const first = sample({ seed: 1 });
  for (let run = 2; run <= 11; run++) {
    const found = slower(first, sample({ seed: run, planted: 100, slower: [0.5, 1][run % 2] ?? 1 }));
    assert.deepEqual(found, ['single/iptables-legacy/ours', 'single/nftables/ours']);
  }
});

test('a figure that got faster is not a fault', () => {
  const { changes } = compare(sample({ seed: 1, planted: 100 }), sample({ seed: 2 }));
  assert.equal(changes.filter(({ verdict }) => verdict === 'faster').length, 2);
  assert.equal(changes.filter(({ verdict }) => verdict === 'slower').length, 0);
});

function changed(change: (results: Results) => void): Results {
  const results = sample({ seed: 2 });
  change(results);
  return results;
}

test('a series of three rounds is too short to compare, and the report says so', () => {
  const few = changed(({ workloads }) => {
    for (const series of workloads[0]?.series ?? []) series.rounds.length = 3;
    const [ours] = workloads[0]?.series.filter(({ ratio, ours }) => ours && ratio) ?? [];
    if (ours?.ratio) ours.ratio.value *= 10;
  });
  const { changes, left } = compare(sample({ seed: 1 }), few);
  assert.deepEqual(
    changes.filter(({ verdict }) => verdict === 'slower'),
    [],
  );
  assert.ok(left.includes('single, iptables-legacy/ours: too few rounds to know what chance does'), left.join('\n'));
});

test('figures are compared within their tolerance, and those without one are not', () => {
  const grown = (id: string, by: number) =>
    changed(({ workloads }) => {
      for (const figure of workloads[1]?.figures ?? []) if (figure.id === id) figure.value *= by;
    });
  assert.deepEqual(slower(sample({ seed: 1 }), grown('start/rss', 1.1)), []);
  assert.deepEqual(slower(sample({ seed: 1 }), grown('start/rss', 1.2)), ['controller/start/rss']);
  assert.deepEqual(slower(sample({ seed: 1 }), grown('told', 10)), []);
});

test('one is an increase over zero', () => {
  const leaking = (value: number) =>
    changed(({ workloads }) => {
      const of = { id: 'descriptors', label: 'descriptors left', value, unit: '', tolerance: 0 };
      workloads[1]?.figures.push(of);
    });
  assert.deepEqual(slower(leaking(0), leaking(1)), ['controller/descriptors']);
  assert.deepEqual(slower(leaking(0), leaking(0)), []);
});

test('a refused, skipped or missing figure is reported, and is neither a fault nor a success', () => {
  const refused = changed(({ workloads }) => {
    const [single] = workloads;
    if (single) single.refused = 'noise';
    workloads.pop();
  });
  const { changes, left } = compare(sample({ seed: 1 }), refused);
  assert.deepEqual(changes, []);
  assert.deepEqual(left, ['single: refused, noise', 'controller: not in the later run']);
});

test('--compare ends with 1 where something got slower, else with 0', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ipnc-compare-'));
  try {
    const file = (name: string, results: Results) => {
      const path = join(folder, name);
      writeFileSync(path, JSON.stringify(results));
      return path;
    };
    const before = file('before.json', sample({ seed: 1 }));
    const comparedTo = (after: Results) =>
      runSync(process.execPath, [MAIN, '--compare', before, file('after.json', after)]);
    const same = comparedTo(sample({ seed: 2 }));
    assert.equal(same.code, 0);
    assert.doesNotMatch(same.stdout, /WORSE/);
    const worse = comparedTo(sample({ seed: 2, planted: 100 }));
    assert.equal(worse.code, 1);
    assert.match(worse.stdout, /ours <of nftables>.*WORSE/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

/** Of real installs, by the real method. */
async function measured(plant: ReadonlyMap<string, number>): Promise<Series[]> {
  const folder = mkdtempSync(join(tmpdir(), 'ipnc-planted-'));
  try {
    await using farm = new Farm(folder);
    await using floors = new Floors();
    const random = seeded(5);
    const method = {
      random,
      reference: async () => {},
      atRest: async () => {},
      turn: <T>(run: () => Promise<T>) => run(),
      progress: () => {},
    };
    const freshNetns = () => farm.one();
    const all = await prepareDrivers({ floors, folder, ruleset: rulesetOf(), freshNetns, externals: [], plant });
    const drivers = async () => all.filter(({ name }) => name === 'floor' || name === 'ours');
    const bench = {
      ...method,
      quick: true,
      folder,
      farm,
      floors,
      drivers,
      starts: { atOnce: 1, resident: 0 },
      seconds: 30,
    };
    const subjects = (await drivers()).map((driver) => burstOf(bench, driver, { burst: 10 }));
    return await interleaved(method, subjects, { rounds: 8, seconds: 20 });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

test(
  'a slowdown planted in the real driver is found, and nothing else is',
  async () => {
    const of = (series: Series[]): Results => {
      const [single] = sample({ seed: 1 }).workloads;
      return { ...sample({ seed: 1 }), workloads: single ? [{ ...single, series }] : [] };
    };
    const before = await measured(new Map());
    // Far more than what a machine that runs other tests meanwhile could hide.
    const after = await measured(new Map([['ours', 30_000]]));
    assert.deepEqual(slower(of(before), of(after)), ['single/iptables-legacy/ours', 'single/nftables/ours']);
  },
  { needs: ['netns', 'uid-map', 'ipv6', 'addon', 'toolbox'], timeoutMs: 90_000 },
);
