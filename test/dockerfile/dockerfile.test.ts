/** What the Dockerfile makes, built by buildah: the files that chart/image lists, and a controller that works. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BENCH_ENTRYPOINT, benchLayers } from '../../chart/image/bench.ts';
import { ENVIRONMENT, gateLayer, type ImageFile, imageLayers, MAIN, PATH, USER } from '../../chart/image/files.ts';
import { tar, withFolders } from '../cluster/images/tar.ts';
import { gatedPod, Mesh, plainPod } from '../cluster/mesh-pod.ts';
import { programs } from '../cluster/programs.ts';
import { suite } from '../suite.ts';
import { CHART, helm } from '../support/helm.ts';
import { run } from '../support/process.ts';
import { scratchFolder } from '../support/scratch.ts';
import { archiveOf, imageOf, TARGETS, type Target } from './images.ts';

const ROOT = join(import.meta.dirname, '../..');
const RELEASE = join(ROOT, 'build/Release');
const SYSTEM = 'istio-system';

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

/** The archive's folder, unpacked once. */
async function unpacked(target: Target): Promise<string> {
  const at = join(folder, target);
  if (!existsSync(at)) {
    mkdirSync(at);
    await run('tar', ['--extract', '--file', archiveOf(target), '--directory', at]);
  }
  return at;
}

/** An archive in which containerd finds the image's name, which buildah writes only as Docker's tools read it. */
async function forContainerd(target: Target): Promise<string> {
  const at = await unpacked(target);
  const index = join(at, 'index.json');
  const { manifests, ...rest } = JSON.parse(readFileSync(index, 'utf8')) as { manifests: object[] };
  const annotations = { 'io.containerd.image.name': imageOf(target) };
  writeFileSync(index, JSON.stringify({ ...rest, manifests: manifests.map((each) => ({ ...each, annotations })) }));
  const archive = `${at}-containerd.tar`;
  await run('tar', ['--create', '--file', archive, '--directory', at, '.']);
  return archive;
}

/** The image's configuration, and its files as `tar --list --verbose` shows them, without size and time. */
async function read(target: Target): Promise<{ config: Config; files: string[] }> {
  const at = await unpacked(target);
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

const images = suite('Dockerfile, images');
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

const works = suite('Dockerfile, on a cluster');
works.needs('dockerfile', 'cluster', 'addon', 'toolbox');

let mesh: Mesh;
works.before(async () => {
  mesh = await Mesh.start(['toolbox']);
  const ctr = (await programs(['ctr'])).path('ctr');
  for (const target of ['controller', 'gate'] as const) {
    await mesh.node.exec([ctr, '--namespace', 'k8s.io', 'images', 'import', await forContainerd(target)]);
  }
});
works.after(async () => {
  await mesh?.stop();
});

works(
  "the chart's controller sets up a pod that waits in the gate, from the images of the Dockerfile",
  async () => {
    const [repository = '', tag = ''] = imageOf('controller').split(':');
    const [gate, gateTag] = imageOf('gate').split(':');
    const set = [
      ...[`image.repository=${repository}`, `image.tag=${tag}`, 'image.pullPolicy=Never'],
      ...[`gateImage.repository=${gate}`, `gateImage.tag=${gateTag}`, 'injection.mode=none'],
    ];
    const where = ['--namespace', SYSTEM, '--create-namespace', '--kubeconfig', mesh.controlPlane.kubeconfig];
    const values = set.flatMap((each) => ['--set', each]);
    await helm('install', 'mesh', CHART, ...where, '--wait', '--timeout', '90s', ...values);
    const body = gatedPod('web');
    const [first] = body.spec?.initContainers ?? [];
    if (first === undefined) throw new Error('no gate');
    first.image = imageOf('gate');
    const [web, peer] = await Promise.all([mesh.runInitialized(body), mesh.run(plainPod('peer'))]);
    await mesh.expectCaptured(web, peer);
  },
  { timeoutMs: 180_000 },
);
