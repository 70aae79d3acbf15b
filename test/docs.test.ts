/** The documents say what the source says, and the source names documents that exist. test/lint checks their links. */
import assert from 'node:assert/strict';
import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { anchorsIn, documentsIn } from './lint/links.ts';
import { suite } from './suite.ts';
import { ipnc } from './support/command-line.ts';
import { DOC_TABLES, tableIn } from './support/doc-tables.ts';
import { checkDocument, checkLogLine, checkPods, schemaFiles } from './support/schemas.ts';

const test = suite('docs');
const ROOT = fileURLToPath(new URL('..', import.meta.url));
const read = (name: string) => readFileSync(join(ROOT, name), 'utf8');

for (const { name, file, make } of DOC_TABLES) {
  test(`${file}, table ${name}: as "npm run docs" writes it`, async () => {
    assert.equal(tableIn(read(file), name), await make());
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

test('docs/schemas/: as "npm run docs" writes it, and every file is in docs/schemas.md', () => {
  const made = schemaFiles();
  assert.deepEqual(readdirSync(join(ROOT, 'docs/schemas')).sort(), [...made.keys()].sort());
  for (const [name, text] of made) {
    assert.equal(read(`docs/schemas/${name}`), text, name);
    assert.ok(read('docs/schemas.md').includes(`(schemas/${name})`), name);
  }
});

test('the examples of JSON in docs/operate.md are what their schemas say', () => {
  const examples = [...read('docs/operate.md').matchAll(/^```json\n(.*?)^```/gms)];
  const [line, answer, ...more] = examples.map(([, text = '']) => JSON.parse(text) as unknown);
  assert.equal(more.length, 0);
  checkLogLine(line);
  checkPods(answer);
});

test('the command line prints what its schemas say', async () => {
  // ipnc() checks it; test/native/ does so with what needs a network namespace.
  const plan = await ipnc([
    'plan',
    '-m',
    'TPROXY',
    '--redirect-dns',
    '--capture-all-dns',
    '-x',
    '10.0.0.0/8',
    '--output',
    'json',
  ]);
  assert.equal(plan.code, 0, plan.stderr);
  assert.equal((await ipnc(['doctor', '--output', 'json'])).stdout[0], '{');
  const refused = await ipnc(['plan', '-q', '80-', '--output', 'json']);
  assert.match(refused.stderr, /"ERR_CONFIG"/);
});

test('a field that a schema does not know is found', () => {
  const line = { level: 'info', time: '2026-11-26T10:02:11.482Z', pod: 'shop/web', uid: 'a', msg: 'initialized' };
  checkLogLine(line);
  assert.throws(() => checkLogLine({ ...line, extra: 1 }), /extra/);
  assert.throws(() => checkLogLine({ ...line, us: { total: 'long' } }), /us\.total/);
  assert.throws(() => checkPods({ pods: [{ name: 'web' }] }), /namespace/);
  assert.throws(() => checkDocument({ error: { code: 'ERR_CONFIG' } }), /message/);
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

test('each row of a table has as many cells as its heading', () => {
  const wrong: string[] = [];
  let rows = 0;
  const cells = (line: string) =>
    line
      .replaceAll('\\|', '')
      .replace(/`[^`]*`/g, '')
      .split('|').length;
  for (const document of DOCUMENTS) {
    let heading: string | undefined;
    for (const line of read(document).split('\n')) {
      if (!line.startsWith('|')) heading = undefined;
      else if (heading === undefined) heading = line;
      else {
        rows++;
        if (cells(line) !== cells(heading)) wrong.push(`${document}: ${line}`);
      }
    }
  }
  assert.ok(rows > 500, `${rows}`);
  assert.deepEqual(wrong, []);
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
