/** The layers of lib/: an import points down, and no two folders import each other. */
import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from './suite.ts';

const test = suite('layers');
const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** From the top down. A folder may import what comes after it. */
const LAYERS = [
  'main.ts',
  'demo',
  'cli',
  'controller',
  'observe',
  'kube',
  'netns',
  'config',
  'runtime',
  'native',
  'istio',
  'options',
  'ruleset',
  'errors.ts',
  'backoff.ts',
  'bounded.ts',
  'protobuf.ts',
  'root.ts',
];

interface Import {
  from: string;
  to: string;
}

const FILES = globSync('lib/**/*.ts', { cwd: ROOT });
const IMPORTS: Import[] = FILES.flatMap((from) =>
  [...readFileSync(join(ROOT, from), 'utf8').matchAll(/(?:\bfrom|\bimport\(?)\s*'(\.[^']+)'/g)]
    .map(([, path = '']) => ({ from, to: normalize(join(dirname(from), path)) }))
    .filter(({ to }) => to.startsWith('lib/')),
);

const layerOf = (file: string): number => LAYERS.indexOf(file.split('/')[1] ?? '');
const text = ({ from, to }: Import): string => `${from} imports ${to}`;

test('every file and folder of lib/ has a layer', () => {
  const present = new Set(FILES.map((file) => file.split('/')[1] ?? ''));
  assert.deepEqual([...present].sort(), [...LAYERS].sort());
});

test('imports were found', () => {
  assert.ok(IMPORTS.length > 100, `${IMPORTS.length} imports`);
});

test('imports point down', () => {
  assert.deepEqual(IMPORTS.filter(({ from, to }) => layerOf(from) > layerOf(to)).map(text), []);
});

test('no two folders import each other, but for a folder and the one that holds it', () => {
  const edges = new Set(IMPORTS.map(({ from, to }) => `${dirname(from)} ${dirname(to)}`));
  const mutual = [...edges].filter((edge) => {
    const [from = '', to = ''] = edge.split(' ');
    return from < to && !to.startsWith(`${from}/`) && edges.has(`${to} ${from}`);
  });
  assert.deepEqual(mutual, []);
});
