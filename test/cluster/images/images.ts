/** The images that pods of the tests are made of, from files of this machine. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import { BENCH_ENTRYPOINT, benchLayers } from '../../../chart/image/bench.ts';
import { ENVIRONMENT, gateLayer, imageLayers, MAIN, PATH, USER } from '../../../chart/image/files.ts';
import { run } from '../../support/process.ts';
import type { Image } from './archive.ts';

const root = join(import.meta.dirname, '../../..');
const release = join(root, 'build/Release');

export type ImageName = keyof typeof images;

/** What to write as a container's `image`. */
export const imageName = (name: ImageName): string => `localhost/${name}:test`;

/** Each makes its image anew: they cost next to nothing, and are never stale. */
export const images = {
  /** Holds a pod's namespaces. */
  pause: async (): Promise<Image> => ({
    name: imageName('pause'),
    layers: [[{ path: 'pause', mode: 0o755, content: await pauseProgram() }]],
    entrypoint: ['/pause'],
  }),

  /** native/toolbox: servers and clients that tell what reached them. */
  toolbox: async (): Promise<Image> => ({
    name: imageName('toolbox'),
    layers: [[{ path: 'toolbox', mode: 0o755, content: fileFromSetup(join(release, 'toolbox')) }]],
    entrypoint: ['/toolbox'],
  }),

  /** native/gate, and nothing else: what a pod of the mesh starts first. */
  'pod-network-gate': async (): Promise<Image> => ({
    name: imageName('pod-network-gate'),
    layers: [gateLayer(root, release)],
    entrypoint: ['/pod-network-gate'],
    user: USER,
  }),

  /** The product: Node, the bundled command line, the addon with its libraries, the gate. */
  'istio-pod-network-controller': async (): Promise<Image> => ({
    name: imageName('istio-pod-network-controller'),
    layers: await imageLayers(root, release),
    entrypoint: [MAIN],
    env: ENVIRONMENT,
    user: USER,
  }),

  /** The harness, with the programs that it measures beside ours. */
  'istio-pod-network-controller-bench': async (): Promise<Image> => ({
    name: imageName('istio-pod-network-controller-bench'),
    layers: await benchLayers(root, release),
    entrypoint: BENCH_ENTRYPOINT,
    env: [PATH],
  }),
} as const;

function fileFromSetup(path: string): Buffer {
  if (!existsSync(path)) throw new Error(`${path} is not built; run ./setup`);
  return readFileSync(path);
}

/** Compiled once for each content of its source. */
async function pauseProgram(): Promise<Buffer> {
  const source = join(import.meta.dirname, 'pause.c');
  const key = createHash('sha256').update(readFileSync(source)).digest('hex').slice(0, 16);
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'istio-pod-network-controller/cluster');
  const program = join(cache, `${basename(source, '.c')}-${key}`);
  if (!existsSync(program)) {
    mkdirSync(cache, { recursive: true });
    const partial = `${program}.${process.pid}`;
    await run('gcc', ['-static', '-O2', '-s', '-Wl,--build-id=none', '-o', partial, source]);
    renameSync(partial, program);
  }
  return readFileSync(program);
}
