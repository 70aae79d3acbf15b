/** What the Dockerfile makes, built by buildah: the files that chart/image lists, and the same configuration. */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BENCH_ENTRYPOINT, benchLayers } from '../../chart/image/bench.ts';
import { ENVIRONMENT, gateLayer, type ImageFile, imageLayers, MAIN, PATH, USER } from '../../chart/image/files.ts';
import { tar, withFolders } from '../cluster/images/tar.ts';
import { suite } from '../suite.ts';
import { run } from '../support/process.ts';
import { scratchFolder } from '../support/scratch.ts';
import { archiveOf, TARGETS, type Target } from './images.ts';

const ROOT = join(import.meta.dirname, '../..');
const RELEASE = join(ROOT, 'build/Release');

const LISTS: Record<Target, () => Promise<ImageFile[]>> = {
  controller: async () => (await imageLayers(ROOT, RELEASE)).flat(),
  gate: async () => gateLayer(ROOT, RELEASE),
  bench: async () => (await benchLayers(ROOT, RELEASE)).flat(),
};
const CONFIGS: Record<Target, { Entrypoint: string[]; Env: string[]; User?: string }> = {
  controller: { Entrypoint: [MAIN], Env: ENVIRONMENT, User: USER },
  gate: { Entrypoint: ['/pod-network-gate'], Env: [PATH], User: USER },
  bench: { Entrypoint: BENCH_ENTRYPOINT, Env: [PATH] },
};

const folder = scratchFolder('dockerfile');

interface Manifest {
  config: { digest: string };
  layers: { digest: string }[];
}
interface Config {
  Entrypoint: string[];
  Env: string[];
  User?: string;
  Labels?: Record<string, string>;
}

/** The image's configuration, and its files as `tar --list --verbose` shows them, without size and time. */
async function read(target: Target): Promise<{ config: Config; files: string[] }> {
  const at = join(folder, target);
  mkdirSync(at);
  await run('tar', ['--extract', '--file', archiveOf(target), '--directory', at]);
  const json = (path: string): unknown => JSON.parse(readFileSync(join(at, path), 'utf8'));
  const blob = (digest: string) => `blobs/${digest.replace(':', '/')}`;
  const { manifests } = json('index.json') as { manifests: { digest: string }[] };
  const { config, layers } = json(blob(manifests[0]?.digest ?? '')) as Manifest;
  const files = await Promise.all(layers.map(({ digest }) => list(join(at, blob(digest)))));
  return { config: (json(blob(config.digest)) as { config: Config }).config, files: sorted(files.flat()) };
}

async function list(archive: string): Promise<string[]> {
  const { stdout } = await run('tar', ['--list', '--verbose', '--numeric-owner', '--file', archive]);
  return stdout.trimEnd().split('\n').map(entry);
}

/** `-rwxr-xr-x 0/0 /app/lib/main.js` */
function entry(line: string): string {
  const [, mode, owner, path = ''] = /^(\S+) (\S+) +\d+ \S+ \S+ (.*)$/.exec(line) ?? [];
  return `${mode} ${owner} ${path.replace(/^(?:\.?\/)*/, '/')}`;
}

/** A folder may be in more than one layer. */
function sorted(entries: string[]): string[] {
  return [...new Set(entries)].filter((each) => !each.endsWith(' /')).sort();
}

const images = suite('Dockerfile');
images.needs('dockerfile', 'addon', 'gate', 'toolbox', 'tar', 'ldd');

for (const target of TARGETS) {
  images(
    `${target}: the files that chart/image lists, with their modes, and the configuration of the tests' image`,
    async () => {
      const { config, files } = await read(target);
      const expected = join(folder, `${target}-expected.tar`);
      writeFileSync(expected, Buffer.concat(tar(withFolders(await LISTS[target]()))));
      assert.deepEqual(files, sorted(await list(expected)));
      const { Entrypoint, Env, User } = config;
      assert.deepEqual({ Entrypoint, Env, ...(User && { User }) }, CONFIGS[target]);
    },
    { timeoutMs: 60_000 },
  );
}
