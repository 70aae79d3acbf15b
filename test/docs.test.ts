/** docs/cli.md says what the option table says. */
import { readFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { defaultOf, flagsOf } from '../lib/commands/shared.ts';
import { runOptionList } from '../lib/config/options.ts';
import { foreignFlags } from '../lib/redirect/foreign.ts';
import { optionList, type RedirectOption } from '../lib/redirect/options.ts';
import { suite } from './suite.ts';

const test = suite('docs');
const text = readFileSync(new URL('../docs/cli.md', import.meta.url), 'utf8');

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
