/** An invalid command line is refused with the flag, the value and what is expected. */

import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HELP, parse, type Request } from '../../bench/cli.ts';
import { WAYS } from '../../bench/mesh/ways.ts';
import { suite } from '../suite.ts';
import { runSync } from '../support/process.ts';
import { sample } from './sample.ts';

const test = suite('bench, command line');
const MAIN = fileURLToPath(new URL('../../bench/main.ts', import.meta.url));
const NAMES = ['single', 'churn', 'mesh', 'controller'];

const bad: [words: string[], message: RegExp][] = [
  [['--only', 'singel'], /--only: "singel" is no workload; there are single, churn, mesh/],
  [['--only', 'single,'], /--only: "" is no workload/],
  [['--seed', '-1'], /--seed/],
  [['--seed', '1e3'], /--seed: "1e3": a whole number from 0 to 4294967295/],
  [['--seed', '4294967296'], /--seed: "4294967296"/],
  [['--plant', 'ours'], /--plant: "ours": NAME=MICROSECONDS/],
  [['--plant', 'ours=soon'], /--plant: "soon": a whole number/],
  [['--driver', 'other'], /--driver: "other": NAME=COMMAND/],
  [['--driver', 'other='], /--driver: "other=": NAME=COMMAND/],
  [['--driver', 'Other=x'], /--driver: "Other=x": NAME=COMMAND/],
  [['--compare', 'a.json'], /--compare: two files/],
  [['--compare', 'a.json', 'b.json', 'c.json'], /--compare: two files/],
  [['a.json'], /"a.json": no argument is expected here/],
  [['--publish', '--quick'], /--publish: needs a full run/],
  [['--publish', '--only', 'single'], /--publish: needs a full run/],
  [['--pods', '3'], /--pods: "3": goes with --only mesh alone/],
  [['--only', 'mesh', '--pods', '0'], /--pods: "0": a whole number from 1 to 10000/],
  [['--only', 'mesh', '--at-once', '99'], /--at-once: "99": a whole number from 1 to 50/],
  [['--rate', '100'], /--rate: "100": needs --only controller/],
  [['--only', 'single,controller', '--rate', '100'], /--rate: "100": needs --only controller/],
  [['--only', 'controller', '--rate', '0'], /--rate: "0": a whole number from 1 to 2000/],
  [['--publish', '--only', 'single,churn'], /--publish: needs a full run/],
  [['--fast'], /--fast/],
  [['--seed'], /--seed/],
];
for (const [words, message] of bad)
  test(`bench ${words.join(' ')}`, () => assert.throws(() => parse(words, NAMES), message));

test('what is asked for rightly is understood', () => {
  const driver = 'istio-iptables=/usr/bin/istio-iptables -p 15001 --netns {netns}';
  const words = ['--quick', '--only', 'single,churn', '--driver', driver, '--plant', 'ours=100', '--seed', '7'];
  const { plant, externals, only, quick, seed } = parse(words, NAMES) as Request;
  assert.deepEqual([...plant], [['ours', 100]]);
  assert.deepEqual(externals, [
    { name: 'istio-iptables', command: ['/usr/bin/istio-iptables', '-p', '15001', '--netns', '{netns}'] },
  ]);
  assert.deepEqual({ only, quick, seed }, { only: ['single', 'churn'], quick: true, seed: 7 });
});

test('the number of pods of a mesh is understood', () => {
  const words = ['--only', 'mesh', '--pods', '3', '--at-once', '2', '--resident', '30', '--ways', 'none,away'];
  const expected = { pods: 3, atOnce: 2, resident: 30, ways: ['none', 'away'] };
  assert.deepEqual((parse(words, NAMES) as Request).starts, expected);
});

test('some of the ways can be measured, but are not published', () => {
  const refused = (message: string | RegExp, ...words: string[]) =>
    assert.throws(() => parse(words, NAMES), { message });
  refused('--ways: "none": goes with --only mesh alone', '--only', 'single', '--ways', 'none');
  refused(`--ways: "ours": not a way; expected some of ${WAYS.join(', ')}`, '--only', 'mesh', '--ways', 'none,ours');
  for (const [flag = '', value = ''] of [
    ['--ways', 'none'],
    ['--at-once', '10'],
    ['--resident', '100'],
  ])
    refused(
      new RegExp(`^${flag}: "${value}": cannot be combined with --publish`),
      '--only',
      'mesh',
      '--publish',
      flag,
      value,
    );
  for (const way of WAYS) assert.ok(HELP.includes(way), way);
});

test('a rate is understood', () => {
  assert.equal((parse(['--only', 'controller', '--rate', '100'], NAMES) as Request).rate, 100);
});

function bench(...words: string[]) {
  const { code: status, stdout, stderr } = runSync(process.execPath, [MAIN, ...words]);
  return { status, stdout, stderr };
}

test('usage errors end with 2 and say nothing else', () => {
  const { status, stdout, stderr } = bench('--only', 'nothing');
  assert.deepEqual({ status, stdout }, { status: 2, stdout: '' });
  assert.match(
    stderr,
    /^--only: "nothing" is no workload; there are single, .*controller, end-to-end, sandbox, mesh, scale, cold, soak\n$/,
  );
});

test('--help names every workload', () => {
  const { status, stdout } = bench('--help');
  assert.equal(status, 0);
  for (const name of ['single', 'concurrency', 'churn', 'live', 'sweep', 'size', 'gate', 'controller', 'end-to-end'])
    assert.ok(stdout.includes(name), name);
});

test('files that are no results are refused, with the field that is wrong', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ipnc-bench-cli-'));
  try {
    const path = join(folder, 'x.json');
    const refused = (content: string) => {
      writeFileSync(path, content);
      const { status, stderr } = bench('--from', path);
      assert.equal(status, 2, stderr);
      return stderr;
    };
    assert.match(refused('{'), /x\.json: .*JSON/);
    assert.match(refused(JSON.stringify({ ...sample({ seed: 1 }), schema: 2 })), /x\.json: schema: 2: .*expected 1/);
    assert.match(bench('--from', join(folder, 'none.json')).stderr, /none\.json: ENOENT/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('results are printed as one last line, and read again from among the others', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ipnc-bench-cli-'));
  try {
    const results = sample({ seed: 1 });
    const [file, log] = [join(folder, 'a.json'), join(folder, 'a.log')];
    writeFileSync(file, JSON.stringify(results, null, 2));
    const { status, stdout } = bench('--from', file, '--output', '-');
    assert.equal(status, 0);
    assert.deepEqual(readdirSync(folder), ['a.json']);
    assert.deepEqual(JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? ''), results);
    writeFileSync(log, stdout);
    assert.equal(bench('--compare', file, log).status, 0);
    assert.equal(bench('--from', log).status, 0);
    assert.match(readFileSync(`${log}.html`, 'utf8'), /<html/);
    // As of a run that was ended.
    writeFileSync(log, stdout.replace(/^\{.*$/m, ''));
    const { status: ended, stderr } = bench('--from', log);
    assert.equal(ended, 2);
    assert.match(stderr, /a\.log: no results; a log has them in its last line/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a run of some workloads prints only the goals that it measured', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ipnc-bench-cli-'));
  try {
    const path = join(folder, 'x.json');
    writeFileSync(path, JSON.stringify(sample({ seed: 1 })));
    const { stdout } = bench('--from', path);
    assert.match(stdout, /nsenter \+ iptables-restore to ipnc .* (met|MISSED)/);
    assert.doesNotMatch(stdout, /not measured/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('refused results are shown, marked, and end with 3', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ipnc-bench-cli-'));
  try {
    const results = sample({ seed: 1 });
    const path = join(folder, 'x.json');
    writeFileSync(path, JSON.stringify(results));
    const sound = bench('--from', path);
    assert.equal(sound.status, 0, sound.stderr);
    assert.doesNotMatch(sound.stdout, /REFUSED/);
    const [single] = results.workloads;
    if (single) single.refused = 'a loud fan';
    writeFileSync(path, JSON.stringify(results));
    const { status, stdout } = bench('--from', path);
    assert.equal(status, 3);
    assert.match(stdout, /REFUSED, the machine was too noisy to tell: a loud fan/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
