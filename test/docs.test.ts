/** docs/cli.md says what the option table says; docs/operate.md knows each reason and code that somebody may read. */

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { runOptionList } from '../lib/config/options.ts';
import { MEANINGS } from '../lib/errors.ts';
import { SKIP_REASONS } from '../lib/istio/enrolment.ts';
import { foreignFlags } from '../lib/istio/foreign.ts';
import { optionList } from '../lib/istio/options.ts';
import { defaultOf, flagsOf, type RedirectOption } from '../lib/options/option.ts';
import { suite } from './suite.ts';

const test = suite('docs');
const read = (name: string) => readFileSync(new URL(`../${name}`, import.meta.url), 'utf8');
const text = read('docs/cli.md');
const operate = read('docs/operate.md');

const code = (words: readonly string[] = []) => words.map((word) => `\`${word}\``).join(', ');

/** Flag, default and environment: how the row of any option starts. */
function rowOf(option: RedirectOption): string {
  const initial = defaultOf(option) ?? option.initial ?? 'false';
  const shown = option.initialText === undefined && initial !== 'none' ? code([initial]) : initial;
  return `| ${code([flagsOf(option)])} | ${shown} | ${code(option.env)} |`;
}

function table(): string {
  const rows = optionList.map(([, option]) => {
    return `${rowOf(option)} ${code(option.annotations)} | ${option.help} |`;
  });
  return ['| flag | default | environment | annotation | meaning |', '|---|---|---|---|---|', ...rows].join('\n');
}

function runTable(): string {
  const rows = runOptionList.map(([, option]) => `${rowOf(option)} ${option.help} |`);
  return ['| flag | default | environment | meaning |', '|---|---|---|---|', ...rows].join('\n');
}

function foreignTable(): string {
  const rows = foreignFlags.map(({ flag, short, instead }) => {
    return `| ${code([...(short === undefined ? [] : [`-${short}`]), `--${flag}`])} | ${instead} |`;
  });
  return ['| flag | instead |', '|---|---|', ...rows].join('\n');
}

/** On failure the message is the table to paste. */
const holds = (expected: string) =>
  assert.ok(text.includes(`\n${expected}\n`), `docs/cli.md should hold:\n${expected}`);

test('the table of redirect options', () => holds(table()));
test("the table of the controller's options", () => holds(runTable()));
test('the table of flags that have no place here', () => holds(foreignTable()));

/** Quoted words of a source that match. */
const wordsOf = (file: string, pattern: RegExp) => [...read(file).matchAll(pattern)].map(([, word]) => word ?? '');

const told: Record<string, readonly string[]> = {
  'why a pod was left alone': SKIP_REASONS,
  'why a pod waits': ['namespace', ...wordsOf('lib/netns/locate.ts', /^ {2}\| '([a-z-]+)';?$/gm)],
  'codes of failures': [...Object.keys(MEANINGS), ...wordsOf('lib/controller/reconcile.ts', /'(ERR_[A-Z_]+)'/g)],
  'reasons of Events': [
    ...wordsOf('lib/controller/controller.ts', /reason: '([A-Z][A-Za-z]+)'/g),
    ...wordsOf('lib/kube/status.ts', /'(ConfigInvalid|InstallFailed)'/g),
  ],
};
for (const [what, names] of Object.entries(told)) {
  test(`docs/operate.md, ${what}`, () => {
    assert.ok(names.length > 3, `${names}`);
    const missing = names.filter((name) => !operate.includes(`\`${name}\``));
    assert.deepEqual(missing, []);
  });
}

test('links between the documents lead to files', () => {
  for (const name of ['docs/install.md', 'docs/migrate.md', 'docs/operate.md', 'docs/security.md']) {
    for (const [, target = ''] of read(name).matchAll(/\]\(([^)#:]+)\)/g)) {
      assert.ok(existsSync(new URL(`../docs/${target}`, import.meta.url)), `${name}: ${target}`);
    }
  }
});
