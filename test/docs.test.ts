/** docs/cli.md says what the option table says; docs/operate.md knows each reason and code that somebody may read. */

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { CATALOGUE } from '../lib/errors.ts';
import { SKIP_REASONS } from '../lib/istio/enrolment.ts';
import { suite } from './suite.ts';
import { DOC_TABLES, tableIn } from './support/doc-tables.ts';

const test = suite('docs');
const read = (name: string) => readFileSync(new URL(`../${name}`, import.meta.url), 'utf8');
const operate = read('docs/operate.md');

for (const { name, file, make } of DOC_TABLES) {
  test(`docs/${file}, table ${name}: as "npm run docs" writes it`, () => {
    assert.equal(tableIn(read(`docs/${file}`), name), make());
  });
}

/** Quoted words of a source that match. */
const wordsOf = (file: string, pattern: RegExp) => [...read(file).matchAll(pattern)].map(([, word]) => word ?? '');

const told: Record<string, readonly string[]> = {
  'why a pod was left alone': SKIP_REASONS,
  'why a pod waits': ['namespace', ...wordsOf('lib/netns/locate.ts', /^ {2}\| '([a-z-]+)';?$/gm)],
  'reasons of Events': [
    ...wordsOf('lib/controller/controller.ts', /reason: '([A-Z][A-Za-z]+)'/g),
    ...Object.values(CATALOGUE).map((meaning) => ('event' in meaning ? meaning.event : 'InstallFailed')),
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
