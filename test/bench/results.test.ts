/** The results of a run and their uses: the schema, goals and published figures. */

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkGoals, goals } from '../../bench/goals.ts';
import { seriesOf } from '../../bench/method.ts';
import { judge, OTHERS, SPREAD, STALLED, Turns } from '../../bench/noise.ts';
import { Progress } from '../../bench/progress.ts';
import { publish } from '../../bench/publish.ts';
import { jsonSchema, parseResults, type Results } from '../../bench/schema.ts';
import { seeded } from '../../bench/statistics.ts';
import { suite } from '../suite.ts';
import { sample } from './sample.ts';

const test = suite('bench, results');

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

test('what a run leaves behind is read again as it was', () => {
  const results = sample({ seed: 1 });
  assert.deepEqual(parseResults(JSON.parse(JSON.stringify(results)), 'x'), results);
});

const wrong: [field: string, change: (results: Results) => void][] = [
  ['made', (results) => Object.assign(results, { made: 'yesterday' })],
  ['mode', (results) => Object.assign(results, { mode: 'fast' })],
  ['workloads.0.series.0.rounds.0', ({ workloads }) => workloads[0]?.series[0]?.rounds.splice(0, 1, [])],
  ['workloads.0.series.0.unit', ({ workloads }) => Object.assign(workloads[0]?.series[0] ?? {}, { unit: 'min' })],
  ['workloads.1.charts.0.kind', ({ workloads }) => Object.assign(workloads[1]?.charts[0] ?? {}, { kind: 'pie' })],
  ['goals.0.bound', ({ goals }) => Object.assign(goals[0] ?? {}, { bound: 'about' })],
];
for (const [field, change] of wrong)
  test(`results with a wrong ${field} are refused`, () => {
    const results = structuredClone(sample({ seed: 1 }));
    change(results);
    assert.throws(
      () => parseResults(results, 'x.json'),
      (error: Error) => error.message.startsWith(`x.json: ${field}: `),
    );
  });

test('a field that the schema does not know is refused', () => {
  assert.throws(() => parseResults({ ...sample({ seed: 1 }), extra: 1 }, 'x'), /extra/);
});

test('bench/results/README.md tells of every field', () => {
  const text = read('bench/results/README.md');
  const names = new Set<string>();
  const collect = (schema: unknown): void => {
    if (typeof schema !== 'object' || schema === null) return;
    const { properties } = schema as { properties?: Record<string, unknown> };
    for (const name of Object.keys(properties ?? {})) names.add(name);
    for (const part of Object.values(schema)) collect(part);
  };
  collect(jsonSchema());
  assert.ok(names.size > 40);
  assert.deepEqual(
    [...names].filter((name) => !text.includes(`\`${name}\``)),
    [],
  );
});

test('a goal is met or missed by its figure, and neither where that was not measured or refused', () => {
  const { workloads } = sample({ seed: 1 });
  const of = (name: RegExp) => checkGoals(workloads).find((goal) => name.test(goal.name));
  assert.equal(of(/^CPU of the controller/)?.measured, 900);
  assert.equal(of(/^API writes/)?.met, false);
  assert.equal(of(/^nsenter \+ iptables-restore to ipnc/)?.met, true);
  assert.equal(of(/^beyond: the controller's RSS/)?.met, true);
  assert.equal(of(/^rules active to gate exited/)?.met, undefined);
  const [single] = workloads;
  if (single) single.refused = 'noise';
  assert.equal(of(/^nsenter \+ iptables-restore to ipnc/)?.measured, undefined);
});

test('goals have names of their own', () => {
  assert.equal(new Set(goals.map(({ name }) => name)).size, goals.length);
});

const CONNECTION_MARKS = '<!-- bench:connection -->\nold\n<!-- /bench:connection -->\n';
const MARKED = {
  'README.md': `# x\n\n<!-- bench:start -->\nold\n<!-- /bench:start -->\n\nthe end\n${CONNECTION_MARKS}`,
  'docs/performance-figures.md': ['connection', 'sandbox', 'start', 'scale', 'cold', 'summary', 'figures', 'goals']
    .map((name) => `<!-- bench:${name} -->\nold\n<!-- /bench:${name} -->\n`)
    .join('between\n'),
};

function inFolder(use: (root: string) => void): void {
  const root = mkdtempSync(join(tmpdir(), 'ipnc-publish-'));
  try {
    mkdirSync(join(root, 'docs'));
    for (const [path, text] of Object.entries(MARKED)) writeFileSync(join(root, path), text);
    use(root);
  } finally {
    rmSync(root, { recursive: true });
  }
}

test('publishing fills what is between the markers, and nothing else, however often', () => {
  inFolder((root) => {
    const page = () => readFileSync(join(root, 'docs/performance-figures.md'), 'utf8');
    assert.deepEqual(publish(sample({ seed: 1 }), root), ['docs/performance.svg', 'docs/performance-figures.md']);
    const first = page();
    assert.match(first, /<!-- bench:summary -->\n\n!\[.*\]\(performance.svg\)/);
    assert.match(first, /\*\*nftables: ours/);
    assert.doesNotMatch(first, /pod start: |RunPodSandbox: /);
    assert.equal(first.match(/\nold\n/g)?.length, 5);
    publish(sample({ seed: 1 }), root);
    assert.equal(page(), first);
    assert.equal(readFileSync(join(root, 'README.md'), 'utf8'), MARKED['README.md']);
  });
});

test("a run of a pod's start is published by itself, with its picture and its goals", () => {
  inFolder((root) => {
    const made = publish(
      startsOf({ 'template-sidecar': 1150, 'istio-init': 3000, 'istio-cni': 2900, none: 650 }),
      root,
    );
    assert.deepEqual(made, ['docs/start.svg', 'README.md', 'docs/performance-figures.md']);
    const readme = readFileSync(join(root, 'README.md'), 'utf8');
    assert.match(readme, /^# x\n\n<!-- bench:start -->\n\n!\[.*\]\(docs\/start.svg\)/);
    assert.match(readme, /\| \*\*template-sidecar\*\* \| 0\.3[89]x \| 500 \| 1,150 \|/);
    assert.match(readme, /<!-- \/bench:start -->\n\nthe end\n/);
    const page = readFileSync(join(root, 'docs/performance-figures.md'), 'utf8');
    assert.match(page, /created to app started, to Istio's istio-init, p50 \| at most 0\.45x \| 0\.3[89]x \| met/);
    assert.match(
      page,
      /\| bound \| 20\.0 \| 20\.0 \| 20\.0 \|\n\| proxy is ready \| {2}\| 2,900 \| 1,050 \|\n\| app starts \| 650 \| 3,000 \| 1,150 \|/,
    );
    assert.doesNotMatch(page, /an install \|/);
    assert.equal(page.match(/\nold\n/g)?.length, 7);
    assert.match(readFileSync(join(root, 'docs/start.svg'), 'utf8'), /template-sidecar/);
  });
});

test('a run of what a connection costs is published by itself, with its picture and its goals', () => {
  inFolder((root) => {
    const forms = { none: 50, 'ours-legacy': 64, 'ours-nftables': 63.5, 'istio-legacy': 90 };
    const made = publish(connectionsOf(forms, [{ id: 'ports', label: 'x', value: 0.4, unit: 'us' }]), root);
    assert.deepEqual(made, ['docs/connection.svg', 'README.md', 'docs/performance-figures.md']);
    const readme = readFileSync(join(root, 'README.md'), 'utf8');
    assert.match(readme, /a connection of the app takes 14\.0 us more .* \(nftables: 13\.5 us\), .* 40\.0 us more/);
    assert.match(readme, /<!-- bench:start -->\nold\n/);
    const page = readFileSync(join(root, 'docs/performance-figures.md'), 'utf8');
    assert.match(page, /1,000 excluded ports, beyond the defaults \| at most 0\.5 us \| 0\.40 us \| met/);
    assert.equal(page.match(/\nold\n/g)?.length, 7);
    assert.match(readFileSync(join(root, 'docs/connection.svg'), 'utf8'), /ours-legacy.*14\.0 us/);
  });
});

test('a run of RunPodSandbox is published by itself, with its goals', () => {
  inFolder((root) => {
    assert.deepEqual(publish(sandboxesOf({ off: 90, nri: 90.5 }, 100), root), ['docs/performance-figures.md']);
    const page = () => readFileSync(join(root, 'docs/performance-figures.md'), 'utf8');
    assert.match(page(), /<!-- bench:sandbox -->\n\n## RunPodSandbox/);
    assert.match(page(), /pods with rules before it returns, with NRI \| at least 100 % \| 100 % \| met/);
    assert.match(page(), /with NRI, beyond no runtime events, p50 \| at most 1 ms \| 0\.50 ms \| met/);
    assert.equal(page().match(/\nold\n/g)?.length, 7);
    publish(sandboxesOf({ off: 90, nri: 92 }, 99.8), root);
    assert.match(page(), /99\.8 % \| MISSED/);
    assert.match(page(), /2\.00 ms \| MISSED/);
  });
});

type Measured = Results['workloads'][number];

/** A run of this workload alone. */
function runOf(measured: Pick<Measured, 'name' | 'series' | 'figures'> & Partial<Pick<Measured, 'charts'>>): Results {
  const { workloads, ...rest } = sample({ seed: 1 });
  const noise = workloads[0]?.noise;
  const workload = { charts: [], ...measured, title: 'Pods', seconds: 1, ...(noise && { noise }) };
  return { ...rest, workloads: [workload], goals: checkGoals([workload]) };
}

/** A run of the workload `sandbox`: p50 of each source, milliseconds, and the percentage of pods with rules by NRI. */
function sandboxesOf(sources: Record<string, number>, early: number): Results {
  const series = Object.entries(sources).map(([source, value]) => {
    const named = {
      id: `run/${source}`,
      name: source,
      group: 'RunPodSandbox',
      ours: source !== 'off',
      unit: 'ms',
    } as const;
    return seriesOf(
      seeded(1),
      named,
      Array.from({ length: 4 }, () => [value]),
    );
  });
  return runOf({ name: 'sandbox', series, figures: [{ id: 'early/nri', label: 'NRI', value: early, unit: '%' }] });
}

/** A run of the workload `connection`: p50 of each form, microseconds. */
function connectionsOf(forms: Record<string, number>, figures: Measured['figures']): Results {
  const series = ['outbound', 'upstream'].flatMap((path) =>
    Object.entries(forms).map(([form, value]) => {
      const named = { id: `ports-1000/${path}/4/${form}`, name: form, group: path, ours: form.startsWith('ours') };
      return seriesOf(
        seeded(1),
        named,
        Array.from({ length: 4 }, () => [value]),
      );
    }),
  );
  return runOf({ name: 'connection', series, figures });
}

/** A run of the workload `mesh`: p50 of each way, milliseconds. */
function startsOf(ways: Record<string, number>): Results {
  const random = seeded(1);
  const rounds = (value: number) => Array.from({ length: 4 }, () => [value]);
  const series = ['app', 'ready'].flatMap((stage) =>
    Object.entries(ways).map(([way, value]) => {
      const named = {
        id: `${stage}/${way}`,
        name: way,
        group: stage,
        ours: way.startsWith('template'),
        unit: 'ms',
      } as const;
      const baseline = { id: `${stage}/istio-init`, rounds: rounds(ways['istio-init'] ?? 1) };
      return seriesOf(random, named, rounds(value), { baseline });
    }),
  );
  const bars = Object.entries(ways).map(([name, value]) => {
    const begin = [{ name: 'bound', from: 0, to: 20 }];
    const proxied = name === 'none' ? [] : [{ name: 'proxy is ready', from: 20, to: value - 100 }];
    return { name, stages: [...begin, ...proxied, { name: 'app starts', from: 20, to: value }] };
  });
  const charts: Measured['charts'] = [{ kind: 'waterfall', title: 'A start', bars }];
  return runOf({ name: 'mesh', series, figures: [], charts });
}

for (const name of ['scale', 'cold']) {
  test(`figures of the workload ${name} go into a block of their own`, () => {
    inFolder((root) => {
      const { workloads, ...rest } = sample({ seed: 1 });
      const figures = [{ id: 'many/mark', label: 'more, if the pod gets a mark', value: 9.5, unit: 'ms' }];
      const apart = { name, title: 'x', seconds: 1, series: workloads[0]?.series ?? [], figures, charts: [] };
      assert.deepEqual(publish({ ...rest, workloads: [apart] }, root), ['docs/performance-figures.md']);
      const text = readFileSync(join(root, 'docs/performance-figures.md'), 'utf8');
      const block = `<!-- bench:${name} -->.*more, if the pod gets a mark \\| 9.50 ms.*<!-- /bench:${name} -->`;
      assert.match(text, new RegExp(block, 's'));
      assert.match(text, /<!-- bench:figures -->\nold/);
      const refused = { ...apart, refused: 'noise' };
      assert.throws(() => publish({ ...rest, workloads: [refused] }, root), new RegExp(`refused.*${name}`));
    });
  });
}

test('what is not fit to be quoted is not published', () => {
  inFolder((root) => {
    assert.throws(() => publish({ ...sample({ seed: 1 }), mode: 'quick' }, root), /not a full one/);
    const refused = sample({ seed: 1 });
    if (refused.workloads[0]) refused.workloads[0].refused = 'noise';
    assert.throws(() => publish(refused, root), /refused.*single/);
    writeFileSync(join(root, 'docs/performance-figures.md'), 'no markers');
    assert.throws(
      () => publish(sample({ seed: 1 }), root),
      /performance-figures.md: the markers <!-- bench:summary -->/,
    );
  });
});

test('README.md and docs/performance-figures.md have the markers', () => {
  for (const name of ['start', 'connection']) assert.ok(read('README.md').includes(`<!-- bench:${name} -->`));
  for (const name of ['connection', 'sandbox', 'start', 'scale', 'cold', 'summary', 'figures', 'goals'])
    assert.ok(read('docs/performance-figures.md').includes(`<!-- /bench:${name} -->`));
});

const units = (count: number, of: (at: number) => number) => Array.from({ length: count }, (_, at) => of(at));

test('a machine is too noisy when it was faster at one time than at another, or stalled often', () => {
  const refused = (times: number[], others: number, timed = true) => judge(times, others, { timed }).refused;
  const quiet = (at: number) => 75 + (at % 7);
  assert.equal(refused(units(80, quiet), 0.05), undefined);
  const faster = units(80, (at) => quiet(at) * (at < 20 ? SPREAD + 0.1 : 1));
  assert.match(refused(faster, 0.05) ?? '', /one quarter/);
  const slow = units(80, (at) => 4 * quiet(at));
  assert.equal(refused(slow, 0.05), undefined);
  const stalling = (share: number) => units(400, (at) => (at % 100 < 100 * share ? 500 : quiet(at)));
  assert.match(refused(stalling(STALLED + 0.03), 0.05) ?? '', /more than twice/);
  assert.equal(refused(stalling(STALLED - 0.03), 0.05), undefined);
  assert.match(refused(units(80, quiet), OTHERS + 0.02) ?? '', /other programs had 17 % of the CPUs/);
  assert.equal(refused(units(10, quiet), 0), undefined);
  // Memory is the same on a slow machine, but not on one that stalls, nor beside other programs.
  assert.equal(refused(faster, 0.05, false), undefined);
  assert.match(refused(stalling(STALLED + 0.03), 0.05, false) ?? '', /more than twice/);
  assert.match(refused(faster, OTHERS + 0.02, false) ?? '', /other programs/);
});

test('a turn after which the machine is slow or stalls is measured again, but not for ever', async () => {
  const quiet = () => units(100, () => 75);
  const turns = new Turns();
  turns.units.push(...quiet());
  /** Each attempt of the turn has the next of these lists of units. Further attempts have the last one. */
  const take = async (...after: number[][]) => {
    let at = 0;
    const turn = async () => {
      turns.units.push(...(after[Math.min(at, after.length - 1)] ?? []));
      return ++at;
    };
    return turns.take(turn);
  };
  const slow = units(100, () => 75 * (SPREAD + 0.1));
  const stalls = units(100, (at) => (at < 100 * (STALLED + 0.02) ? 500 : 75));
  assert.equal(await take(quiet()), 1);
  assert.equal(await take(slow, quiet()), 2);
  assert.equal(await take(stalls, slow, quiet()), 3);
  assert.deepEqual([turns.repeated, turns.units.length], [3, 400], 'units of repeated turns are dropped');
  assert.equal(await take(slow), 3, 'the third attempt counts');
  for (let turn = 0; turn < 20; turn++) await take(slow, slow, quiet());
  assert.equal(turns.repeated, 32);
  assert.equal(await take(slow), 1, 'the workload has used up its repeats');
});

test('progress is shown on a terminal only, and says how long it will take', () => {
  const parts = [
    { name: 'single', seconds: 60 },
    { name: 'churn', seconds: 60 },
  ];
  const written = (isTTY: boolean) => {
    let text = '';
    const write = (more: string) => {
      text += more;
      return true;
    };
    const out = { isTTY, write } as unknown as NodeJS.WriteStream;
    const progress = new Progress(parts, out);
    progress.start('single');
    progress.update(0.5);
    progress.clear();
    return text;
  };
  assert.equal(written(false), '');
  assert.match(written(true), /0 % {2}2:00 left {2}single/);
  const progress = new Progress(parts, { isTTY: true, write: () => true } as unknown as NodeJS.WriteStream);
  progress.start('churn');
  // Twice as slow as planned.
  assert.match(progress.line(0.5, 60), /75 % {2}1:00 left {2}churn/);
});
