/** The documents say what the source says, and the source names documents that exist. test/lint checks their links. */
import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { anchorsIn, documentsIn } from './lint/links.ts';
import { suite } from './suite.ts';
import { DOC_TABLES, tableIn } from './support/doc-tables.ts';

const test = suite('docs');
const ROOT = fileURLToPath(new URL('..', import.meta.url));
const read = (name: string) => readFileSync(join(ROOT, name), 'utf8');

for (const { name, file, make } of DOC_TABLES) {
  test(`docs/${file}, table ${name}: as "npm run docs" writes it`, async () => {
    assert.equal(tableIn(read(`docs/${file}`), name), await make());
  });
}

test('docs/operate.md, alerts: those of the chart, with their severity', () => {
  const groups = parse(read('chart/istio-pod-network-controller/files/alerts.yaml')) as {
    rules: { alert: string; labels: { severity: string } }[];
  }[];
  const alerts = groups.flatMap(({ rules }) => rules).map(({ alert, labels }) => [alert, labels.severity]);
  const rows = [...read('docs/operate.md').matchAll(/^\| `(PodNetworkController\w+)` \| (\w+) \|/gm)];
  assert.ok(alerts.length > 5, `${alerts}`);
  assert.deepEqual(
    rows.map(([, alert, severity]) => [alert, severity]),
    alerts,
  );
});

const DOCUMENTS = documentsIn(ROOT);

test('documents that the source names are there', () => {
  const sources = globSync(['{lib,native,bench,test,chart}/**/*.{ts,cc,h,tpl,yaml,txt,json}', '*.json', 'setup'], {
    cwd: ROOT,
    exclude: (name) => /(^|\/)node_modules$/.test(name),
  });
  const broken: string[] = [];
  let names = 0;
  for (const source of [...sources, ...DOCUMENTS]) {
    for (const [, file = '', anchor] of read(source).matchAll(/\b(docs\/[\w-]+\.md)(?:#([\w-]+))?/g)) {
      names++;
      if (!existsSync(join(ROOT, file))) broken.push(`${source}: ${file}`);
      else if (anchor !== undefined && !anchorsIn(join(ROOT, file)).has(anchor))
        broken.push(`${source}: ${file}#${anchor}`);
    }
  }
  assert.ok(names > 30, `${names}`);
  assert.deepEqual(broken, []);
});

test('files and folders that the documents name in code are there', () => {
  const broken: string[] = [];
  let names = 0;
  for (const document of DOCUMENTS.filter((name) => name !== 'CHANGELOG.md')) {
    for (const [, path = ''] of read(document).matchAll(/`((?:bench|chart|lib|native|test)\/[\w./-]*)`/g)) {
      names++;
      if (!existsSync(join(ROOT, path))) broken.push(`${document}: ${path}`);
    }
  }
  assert.ok(names > 80, `${names}`);
  assert.deepEqual(broken, []);
});
