/** Drivers, and programs of others, install the expected rules. One that installs other rules is not measured. */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Coprocess } from '../../bench/coprocess.ts';
import type { External } from '../../bench/drivers/external.ts';
import { Floors } from '../../bench/drivers/floors.ts';
import { prepareDrivers } from '../../bench/drivers/index.ts';
import { rulesetOf } from '../../bench/drivers/rules.ts';
import { Farm } from '../../bench/farm.ts';
import { interleaved, type Subject } from '../../bench/method.ts';
import { seeded } from '../../bench/statistics.ts';
import { iptablesText } from '../../lib/ruleset/iptables.ts';
import { suite } from '../suite.ts';

const test = suite('bench, drivers');
test.needs('netns', 'uid-map', 'ipv6', 'addon', 'toolbox', 'nsenter', 'nft');
test.needs('iptables-legacy-restore', 'ip6tables-legacy-restore', 'iptables-nft-restore');

const MAIN = fileURLToPath(new URL('../../lib/main.ts', import.meta.url));
const ruleset = rulesetOf();

async function withDrivers(
  externals: External[],
  use: (made: { drivers: Awaited<ReturnType<typeof prepareDrivers>>; farm: Farm; folder: string }) => Promise<void>,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'ipnc-drivers-'));
  try {
    await using farm = new Farm(folder);
    await using floors = new Floors();
    const freshNetns = () => farm.one();
    const drivers = await prepareDrivers({ floors, folder, ruleset, freshNetns, externals, plant: new Map() });
    await use({ drivers, farm, folder });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

test(
  'each installs the rules that it stands for, and what is not installed does not stand',
  async () => {
    await withDrivers([], async ({ drivers, farm }) => {
      assert.equal(drivers.length, 14);
      for (const driver of drivers) {
        const name = `${driver.backend}/${driver.name}`;
        const path = await farm.one();
        assert.equal(await driver.stands(path), false, name);
        const before = await driver.usage();
        const took = await driver.install(path);
        const after = await driver.usage();
        assert.ok(took > 1 && took < 60e6, `${name}: ${took} us`);
        assert.equal(await driver.stands(path), true, name);
        assert.ok(after.cpu > before.cpu && after.rss > 0.5, `${name}: ${JSON.stringify(after)}`);
      }
    });
  },
  { timeoutMs: 60_000 },
);

test(
  'programs given by flag are measured too, inside the netns or with its path, and their backend is found out',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'ipnc-external-'));
    try {
      const script = join(folder, 'restore.sh');
      const text = ([4, 6] as const).map((family) => {
        const rules = join(folder, `v${family}`);
        writeFileSync(rules, iptablesText(ruleset, family));
        return `${family === 4 ? 'iptables' : 'ip6tables'}-legacy-restore --noflush < ${rules}`;
      });
      writeFileSync(script, `echo noise on standard output\n${text.join('\n')}\n`);
      const externals = [
        { name: 'inside', command: ['sh', '-e', script] },
        { name: 'outside', command: [process.execPath, MAIN, 'apply', '--backend', 'nftables', '--netns', '{netns}'] },
      ];
      await withDrivers(externals, async ({ drivers, farm }) => {
        for (const [name, backend] of [
          ['inside', 'iptables-legacy'],
          ['outside', 'nftables'],
        ]) {
          const driver = drivers.find((each) => each.name === name);
          assert.equal(driver?.backend, backend);
          const path = await farm.one();
          await driver?.install(path);
          assert.equal(await driver?.stands(path), true, name);
        }
      });
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
  { timeoutMs: 60_000 },
);

const refused: [what: string, command: string[], message: RegExp][] = [
  ['installs nothing', ['true'], /--driver other: "true" installs other rules than the rest/],
  ['installs too little', ['iptables-legacy', '-t', 'nat', '-N', 'ISTIO_OUTPUT'], /installs other rules/],
  ['fails', ['false'], /false ended with 1/],
  ['is not there', ['/nonexistent/program'], /\/nonexistent\/program ended with 127/],
];
for (const [what, command, message] of refused)
  test(`a program that ${what} is refused`, async () => {
    await assertRejects(
      withDrivers([{ name: 'other', command }], async () => {}),
      message,
    );
  });

for (const [program, message] of [
  ['true', /anything: error the program ended/],
  ['/nonexistent/program', /ENOENT/],
] as const)
  test(`a coprocess that is over says so instead of leaving its asker waiting: ${program}`, async () => {
    await using coprocess = new Coprocess(program);
    // While it ends, and afterwards.
    for (let question = 0; question < 3; question++) {
      await assertRejects(coprocess.ask('anything'), message);
      await sleep(50);
    }
  });

async function assertRejects(work: Promise<unknown>, message: RegExp): Promise<void> {
  const error = await work.then(
    () => undefined,
    (error: Error) => error,
  );
  assert.match(error?.message ?? 'it did not reject', message);
}

/** What the method does, without a machine to measure. */
function recorded(id: string, told: string[]): Subject {
  let rounds = 0;
  return {
    id,
    name: id,
    group: 'x',
    ours: false,
    setUp: async () => void told.push(`${id} up`),
    round: async () => {
      told.push(id);
      // The first is no measure.
      return [rounds++ === 0 ? 1e9 : 100];
    },
    tearDown: async (warm) => void told.push(`${id} ${warm ? 'warm' : 'down'}`),
  };
}

test('subjects take turns in an order of the seed, and the round that warms up is thrown away', async () => {
  const orderOf = async (seed: number) => {
    const told: string[] = [];
    const method = { random: seeded(seed), reference: async () => void told.push('unit'), progress: () => {} };
    const subjects = ['a', 'b', 'c'].map((id) => recorded(id, told));
    const series = await interleaved(method, subjects, { rounds: 6, seconds: 10 });
    for (const { summary, rounds } of series) {
      assert.equal(rounds.length, 6);
      assert.equal(summary.max, 100);
    }
    assert.equal(told.filter((each) => each === 'a warm').length, 1);
    assert.ok(told.includes('unit'));
    return told.filter((each) => /^[abc]$/.test(each)).join('');
  };
  const order = await orderOf(1);
  assert.equal(order, await orderOf(1));
  assert.notEqual(order, await orderOf(2));
  const rounds = order.match(/.{3}/g) ?? [];
  assert.ok(new Set(rounds).size > 1, order);
  for (const round of rounds) assert.equal([...round].sort().join(''), 'abc');
});
