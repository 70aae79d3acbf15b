/**
 * Lays out an image's root file system in a folder, for the Dockerfile: `npm run build:image-root -- DIR`. With `--gate`
 * it is the image of the gate, with `--bench` that of the harness.
 */
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { benchLayers } from './bench.ts';
import { gateLayer, imageLayers } from './files.ts';
import { layOut } from './lay-out.ts';

const root = join(import.meta.dirname, '../..');
const release = join(root, 'build/Release');

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { bench: { type: 'boolean' }, gate: { type: 'boolean' } },
});
const [folder, ...more] = positionals;
if (folder === undefined || more.length > 0) fail('one folder, which is empty or not there, has to be named');
const target = resolve(process.env.INIT_CWD ?? '.', folder);
if (existsSync(target) && readdirSync(target).length > 0) fail(`${target} is not empty`);
// An image without it would leave every pod waiting.
if (!existsSync(join(release, 'gate'))) fail(`${join(release, 'gate')} is not built; run ./setup`);

mkdirSync(target, { recursive: true });
const files = values.gate
  ? gateLayer(root, release)
  : (await (values.bench ? benchLayers : imageLayers)(root, release)).flat();
layOut(target, files);
const bytes = files.reduce((sum, file) => sum + ('content' in file ? file.content.length : 0), 0);
console.log(`${target}: ${files.length} files, ${(bytes / 1e6).toFixed(1)} MB`);

function fail(message: string): never {
  console.error(`error: ${message}`);
  process.exit(2);
}
