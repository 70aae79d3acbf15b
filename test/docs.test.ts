/** The documents say what the source says, and their links lead somewhere. */
import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
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

const DOCUMENTS = globSync('**/*.md', { cwd: ROOT, exclude: (name) => /(^|\/)(node_modules|build|\.git)$/.test(name) });

/** Without code, in which nothing is a link. */
function prose(document: string): string {
  return read(document)
    .replace(/^```.*?^```/gms, '')
    .replace(/^(?: {4}|\t).*$/gm, '')
    .replace(/`[^`\n]*`/g, (code) => code.replace(/[[\]()]/g, '_'));
}

/** As GitHub makes them of the headings: letters, digits, "_" and "-" stay, blanks become "-", the second gets "-1". */
function anchorsOf(document: string): Set<string> {
  const anchors = new Set<string>();
  const text = read(document).replace(/^```.*?^```/gms, '');
  for (const [, heading = ''] of text.matchAll(/^#{1,6} +(.*?) *#*$/gm)) {
    const plain = heading.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase();
    const anchor = plain.replace(/[^\p{L}\p{N}\p{M}_ -]/gu, '').replaceAll(' ', '-');
    let unique = anchor;
    for (let at = 1; anchors.has(unique); at++) unique = `${anchor}-${at}`;
    anchors.add(unique);
  }
  return anchors;
}

const isExternal = (target: string) => /^[a-z][a-z0-9+.-]*:/i.test(target);

test('links in the documents lead to files and headings', () => {
  const broken: string[] = [];
  let links = 0;
  for (const document of DOCUMENTS) {
    const text = prose(document);
    const inline = [...text.matchAll(/\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)/g)];
    const named = [...text.matchAll(/^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)/gm)];
    const html = [...text.matchAll(/<(?:a|img|source)\b[^>]*?\s(?:href|src|srcset)="([^"]+)"/g)];
    for (const [, target = ''] of [...inline, ...named, ...html]) {
      if (isExternal(target)) continue;
      links++;
      const [path = '', anchor] = target.split('#');
      const file = path === '' ? document : normalize(join(dirname(document), path));
      if (!existsSync(join(ROOT, file))) broken.push(`${document}: ${target}: no such file`);
      else if (anchor !== undefined && !anchorsOf(file).has(anchor))
        broken.push(`${document}: ${target}: no such heading`);
    }
  }
  assert.ok(DOCUMENTS.length > 10 && links > 30, `${DOCUMENTS.length} documents, ${links} links`);
  assert.deepEqual(broken, []);
});

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
      else if (anchor !== undefined && !anchorsOf(file).has(anchor)) broken.push(`${source}: ${file}#${anchor}`);
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
