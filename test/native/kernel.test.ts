/** Each case installed twice over: by the addon, and by iptables-legacy-restore from the plan's text. */

import assert from 'node:assert/strict';
import { cases } from '../cases.ts';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { output } from '../support/process.ts';

const OURS = 'ipnc-plan-ours';
const TWIN = 'ipnc-plan-twin';
const PREFIX = { 4: 'iptables', 6: 'ip6tables' } as const;
const FAMILIES = [4, 6] as const;
type Family = (typeof FAMILIES)[number];

const test = suite('kernel');
test.needs('netns', 'uid-map', 'ipv6', 'ip', 'iptables-legacy-restore', 'ip6tables-legacy-restore');

test.before.each(() => {
  for (const name of [OURS, TWIN]) {
    discard(name);
    ip('netns', 'add', name);
    ip('-n', name, 'link', 'set', 'lo', 'up');
  }
});
test.after.each(() => {
  for (const name of [OURS, TWIN]) discard(name);
});

for (const { name, args } of cases) {
  const needs = args.includes('4294967294') ? ['every-uid'] : [];
  test(
    `restore and save give the plan's text: ${name}`,
    async () => {
      const plan = await textOf(args);
      for (const family of FAMILIES) {
        restore(TWIN, family, plan[family]);
        assert.equal(rulesOf(save(TWIN, family)), rulesOf(plan[family]));
      }
    },
    { needs },
  );

  test(
    `apply leaves what restore leaves: ${name}`,
    async () => {
      const pristine = FAMILIES.map((family) => save(OURS, family));
      const plan = await textOf(args);
      for (const family of FAMILIES) restore(TWIN, family, plan[family]);
      const target = ['--netns', OURS, ...withFamilies(args)];

      const first = await ipnc(['apply', ...target, '--output', 'json']);
      assert.equal(first.code, 0, first.stderr);
      for (const family of FAMILIES) assert.equal(save(OURS, family), save(TWIN, family));

      const second = await ipnc(['apply', ...target, '--output', 'json']);
      assert.equal(second.code, 0, second.stderr);
      assert.equal(JSON.parse(second.stdout).changed, false, second.stdout);
      for (const family of FAMILIES) assert.equal(save(OURS, family), save(TWIN, family));

      const verified = await ipnc(['verify', ...target]);
      assert.equal(verified.code, 0, verified.stdout + verified.stderr);

      const cleaned = await ipnc(['clean', '--netns', OURS]);
      assert.equal(cleaned.code, 0, cleaned.stderr);
      FAMILIES.forEach((family, at) => {
        assert.equal(withoutEmptyTables(save(OURS, family)), withoutEmptyTables(pristine[at] ?? ''));
      });
      assert.doesNotMatch(ip('-n', OURS, 'rule', 'show') + ip('-n', OURS, '-6', 'rule', 'show'), /fwmark/);
      assert.doesNotMatch(ip('-n', OURS, '-6', 'addr', 'show', 'lo'), /::6\/128/);
    },
    { needs: ['addon', ...needs] },
  );
}

test(
  'every rule of another case is drift',
  async () => {
    const plain = ['--netns', OURS, '--ip-families', '4,6'];
    assert.equal((await ipnc(['apply', ...plain])).code, 0);
    const { code, stdout } = await ipnc(['verify', ...plain, '-o', '5432']);
    assert.equal(code, 3, stdout);
    for (const line of [
      '-A ISTIO_OUTPUT -p tcp -m tcp --dport 5432 -j RETURN',
      '-A ISTIO_OUTPUT -p udp -m udp --dport 5432 -j RETURN',
    ]) {
      assert.ok(stdout.split('\n').includes(`-${line}`), stdout);
    }
    assert.ok(stdout.includes('# IPv4 nat\n'), stdout);
    assert.ok(stdout.includes('# IPv6 nat\n'), stdout);
  },
  { needs: ['addon'] },
);

/** Both families where the case names none, since these netns have no address yet. */
function withFamilies(args: readonly string[]): string[] {
  return args.includes('--ip-families') ? [...args] : [...args, '--ip-families', '4,6'];
}

async function textOf(args: readonly string[]): Promise<Record<Family, string>> {
  const { code, stdout, stderr } = await ipnc(['plan', ...withFamilies(args)]);
  assert.equal(code, 0, stderr);
  const part = (family: Family) => new RegExp(`^# IPv${family}:.*\n((?:[^#\n].*\n)*)`, 'm').exec(stdout)?.[1] ?? '';
  return { 4: part(4), 6: part(6) };
}

function restore(netns: string, family: Family, text: string): void {
  if (text !== '') run(netns, [`${PREFIX[family]}-legacy-restore`, '--noflush'], text);
}

/** Without comments and counters; tables by name, since the kernel lists them in the order of their first use. */
function save(netns: string, family: Family): string {
  return run(netns, [`${PREFIX[family]}-legacy-save`])
    .replace(/^#.*\n/gm, '')
    .replace(/\[\d+:\d+\]/g, '[0:0]')
    .split(/(?<=^COMMIT\n)/m)
    .sort()
    .join('');
}

/**
 * What both a plan and a save hold: tables sorted by name, without the kernel's own chains, inserts where they land.
 */
function rulesOf(text: string): string {
  return text
    .split(/^COMMIT\n/m)
    .map((table) => table.replace(/^:\w+ ACCEPT .*\n/gm, '').replace(/^-I (\w+) \d+ /gm, '-A $1 '))
    .map((table) => table.replace(/-mowner ! --gid-owner=/g, '-m owner ! --gid-owner '))
    .filter((table) => !/^(\*\w+\n)?$/.test(table))
    .sort()
    .join('');
}

/** The kernel keeps a table that was once asked for. */
function withoutEmptyTables(save: string): string {
  return save.replace(/^\*\w+\n(:\w+ ACCEPT \[0:0\]\n)+COMMIT\n/gm, '');
}

function discard(netns: string): void {
  try {
    ip('netns', 'del', netns);
  } catch {
    // There was none.
  }
}

function run(netns: string, words: string[], input = ''): string {
  return output('ip', ['netns', 'exec', netns, ...words], { input });
}

function ip(...words: string[]): string {
  return output('ip', words);
}
