/** What the image of the harness holds: its sources as they are, and the programs of others that it measures. */
import { existsSync, globSync, readFileSync, realpathSync } from 'node:fs';
import { basename, delimiter, dirname, join } from 'node:path';
import { build } from 'esbuild';
import { BUNDLE } from './bundle.ts';
import {
  addonIn,
  copyrights,
  type ImageFile,
  inPlace,
  libraries,
  licenses,
  NODE,
  packagesOf,
  program,
  RELEASE,
  runtimeLayer,
} from './files.ts';

export const BENCH_ENTRYPOINT = [`/${NODE}`, '/app/bench/main.ts'];

/** What is started by name, by the harness or by what it starts. */
export const PROGRAMS = [
  ...['sh', 'mount', 'unshare', 'nsenter', 'taskset', 'ip', 'nft', 'openssl'],
  ...['', '6'].flatMap((family) =>
    ['legacy', 'legacy-restore', 'legacy-save', 'nft-restore', 'nft-save'].map((verb) => `ip${family}tables-${verb}`),
  ),
];
/** iptables' matches and targets; each distribution has them in one of these. */
const EXTENSIONS = '/{usr/lib,usr/lib64,usr/lib/*-linux-gnu*}/xtables/*.so';
/** Ours, beside the addon. */
const STATIC = ['gate', 'toolbox'];
const LINKED = ['drivers', 'waiters'];
/** Each starts as a process of its own, the last is bundled at run time. */
const ENTRIES = ['bench/main.ts', 'bench/controller/api-server.ts', 'bench/controller/entry.ts'];
/** What sources read beside one another; esbuild's program among them. */
const READ = [
  'package.json',
  'bench/report/style.css',
  'test/fixtures/pods/native-cni.yaml',
  'node_modules/@esbuild/linux-*/{package.json,bin/esbuild}',
];

/**
 * Node, as in the image of the release; the programs of others; ours.
 *
 * @param root the project's folder
 * @param release where the addon and the programs were built: `build/Release`
 */
export async function benchLayers(root: string, release: string): Promise<ImageFile[][]> {
  const { files: runtime, ofNode } = await runtimeLayer(root);
  const linked = [addonIn(release), ...LINKED.map((name) => join(release, name))];
  const built = [...linked, ...STATIC.map((name) => join(release, name))];
  const theirs = await commandFiles(PROGRAMS, linked);
  const tools: ImageFile[] = [
    ...theirs.files.filter(({ path }) => !ofNode.includes(`/${path}`)),
    ...(await copyrights([...theirs.paths, ...ofNode])),
    { path: 'run', folder: true },
    { path: 'tmp', folder: true, mode: 0o1777 },
  ];
  const sources = await sourcesOf(root);
  const own: ImageFile[] = [
    ...[...sources, ...globSync(READ, { cwd: root })].sort().map((path) => {
      const from = join(root, path);
      return path.endsWith('/bin/esbuild') ? program(`app/${path}`, from) : source(`app/${path}`, from);
    }),
    ...built.map((path) => program(`${RELEASE}/${basename(path)}`, path)),
    ...licenses(root, packagesOf(sources)),
  ];
  return [runtime, tools, own];
}

/**
 * Programs of this machine with iptables' extensions, and the libraries of both and of `linked`, each at its own path. One
 * that is several programs is also at /usr/local/bin by each of these names. `paths`: where they come from.
 */
export async function commandFiles(
  names: readonly string[],
  linked: readonly string[] = [],
): Promise<{ files: ImageFile[]; paths: string[] }> {
  const found = names.map((name) => ({ name, path: realpathSync(inPath(name)) }));
  const programs = [...new Set([...found.map(({ path }) => path), ...globSync(EXTENSIONS)])].sort();
  const shared = new Set((await Promise.all([...programs, ...linked].map(libraries))).flat());
  const paths = [...new Set([...programs, ...[...shared].sort()])];
  const links = found
    .filter(({ name, path }) => name !== basename(path))
    .map(({ name, path }) => ({ path: `usr/local/bin/${name}`, link: path }));
  return { files: [...paths.map(inPlace), ...links], paths };
}

/** All that any of the entries imports, and what tells Node how: paths relative to `root`. */
async function sourcesOf(root: string): Promise<string[]> {
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: ENTRIES,
    ...BUNDLE,
    plugins: [],
    outdir: 'bench', // nothing is written there
    write: false,
    metafile: true,
    logLevel: 'silent', // what it throws says it all
  });
  const files = Object.keys(metafile.inputs);
  const manifests = files.flatMap(foldersAbove).map((folder) => join(folder, 'package.json'));
  return [...new Set([...files, ...manifests])].filter((path) => existsSync(join(root, path)));
}

/** From the innermost up, the project's own not included. */
function foldersAbove(path: string): string[] {
  const folder = dirname(path);
  return folder === '.' ? [] : [folder, ...foldersAbove(folder)];
}

function source(path: string, from: string): ImageFile {
  return { path, content: readFileSync(from) };
}

/** Throws where there is none: an image without it would measure less than it says. */
function inPath(name: string): string {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  const found = folders.map((folder) => join(folder, name)).find(existsSync);
  if (found === undefined) throw new Error(`${name} is not in PATH; it is of a package that the Dockerfile installs`);
  return found;
}
