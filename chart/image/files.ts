/** What the image holds, from the files of this machine and this working tree: the one list there is. */
import { execFile } from 'node:child_process';
import { existsSync, globSync, readFileSync, realpathSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import { BUNDLE } from './bundle.ts';

const run = promisify(execFile);

/** `path` without a leading slash; `mode` is 0644 where it is absent, 0755 of a folder. */
export type ImageFile = { path: string; mode?: number } & ({ content: Buffer } | { link: string } | { folder: true });

/** The entry point; also in PATH as `ipnc` and as `istio-pod-network-controller`. */
export const MAIN = '/app/lib/main.js';
/** Of what does not say otherwise, such as the gate: the controller has to be told to run as root. */
export const USER = '1337:1337';
/** What a pod waits with; `ipnc init` finds it where it was built. */
export const GATE = '/usr/local/bin/pod-network-gate';
/** An image that has an environment is given none. */
export const PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** For malloc one heap, instead of one for each thread; what is free at its end goes back to the system. */
export const ENVIRONMENT = [PATH, 'MALLOC_ARENA_MAX=1', 'MALLOC_TRIM_THRESHOLD_=131072'];
export const NODE = 'usr/local/bin/node';
/** V8 collects sooner: under load the heap is a third of what it would be. */
export const FLAG = '--optimize-for-size';
export const RELEASE = 'app/build/Release';
const LICENSES = 'usr/share/licenses';

/** Node, and its libraries, which nothing above it has to bring again. */
export async function runtimeLayer(root: string): Promise<{ files: ImageFile[]; ofNode: string[] }> {
  // The one that node's npm package chose for this machine, which may be another than the one that runs this.
  const node = realpathSync(join(root, 'node_modules/node/bin/node'));
  const ofNode = await libraries(node);
  return { files: [program(NODE, node), ...ofNode.map(inPlace)], ofNode };
}

/**
 * Node changes seldom and ours often: a layer each.
 *
 * @param root the project's folder
 * @param release where the addon and the gate were built: `build/Release`
 */
export async function imageLayers(root: string, release: string): Promise<[runtime: ImageFile[], own: ImageFile[]]> {
  const { files: runtime, ofNode } = await runtimeLayer(root);
  const addon = addonIn(release);
  const gate = join(release, 'gate');
  const ofAddon = (await libraries(addon)).filter((path) => !ofNode.includes(path));
  const { programs, packages } = await bundle(root);
  const own: ImageFile[] = [
    ...programs,
    { path: 'app/package.json', content: Buffer.from('{"type":"module"}\n') },
    program(`${RELEASE}/${basename(addon)}`, addon),
    ...ofAddon.map(inPlace),
    { path: 'usr/local/bin/ipnc', link: MAIN },
    { path: 'usr/local/bin/istio-pod-network-controller', link: MAIN },
    program(`${RELEASE}/gate`, gate),
    { path: GATE.slice(1), link: `/${RELEASE}/gate` },
    ...licenses(root, packages),
    ...(await copyrights([...ofNode, ...ofAddon])),
  ];
  return [runtime, own];
}

/** The gate, with its licences: what every pod of the mesh needs, as an image volume or an init container. */
export function gateLayer(root: string, release: string): ImageFile[] {
  const gate = program('pod-network-gate', join(release, 'gate'));
  // Whoever has the path of the controller's image finds it here as well.
  return [gate, { path: GATE.slice(1), link: '/pod-network-gate' }, ...texts(root, OWN_LICENSES)];
}

export function addonIn(release: string): string {
  const [addon] = globSync([join(release, 'bindings/ipnc.node'), join(release, 'ipnc.node')]);
  if (addon === undefined) throw new Error(`the addon is not built in ${release}; run ./setup`);
  return addon;
}

export function program(path: string, from: string | Buffer): ImageFile {
  return { path, mode: 0o755, content: typeof from === 'string' ? readFileSync(from) : from };
}

/**
 * A file for what each verb has, and one for each part that some share: of most verbs the controller is no part.
 * `packages`: folders of those whose code went into it.
 */
async function bundle(root: string): Promise<{ programs: ImageFile[]; packages: string[] }> {
  const { outputFiles, metafile } = await build({
    absWorkingDir: root,
    entryPoints: ['lib/main.ts'],
    ...BUNDLE,
    splitting: true,
    outdir: 'lib', // nothing is written there
    write: false,
    metafile: true,
    logLevel: 'silent', // what it throws says it all
  });
  const programs = outputFiles.map(({ path, text }) => {
    // esbuild keeps the entry's first line, which asks for /usr/bin/env.
    const content = text.replace(/^#!.*\n/, `#!/${NODE} ${FLAG}\n`);
    return program(join(dirname(MAIN), basename(path)).slice(1), Buffer.from(content));
  });
  return { programs, packages: packagesOf(Object.keys(metafile.inputs)) };
}

/** Folders of the packages that these files are of, `files` relative to the project's folder. */
export function packagesOf(files: readonly string[]): string[] {
  return [...new Set(files.map((file) => PACKAGE.exec(file)?.[0] ?? ''))].filter(Boolean).sort();
}

/** The innermost one: packages may bring packages of their own. */
const PACKAGE = /^.*node_modules\/(?:@[^/]+\/)?[^/]+/;

/** Ours, and those of what is in the bundle and linked to the addon, which may not be given away without. */
export function licenses(root: string, packages: string[]): ImageFile[] {
  const node = 'node_modules/node/node_modules/node-linux-*/LICENSE';
  const theirs = packages.map((folder) => `${folder}/{LICEN[SC]E,licen[sc]e}*`);
  return texts(root, [...OWN_LICENSES, node, ...theirs]);
}

const OWN_LICENSES = ['LICENSE', 'native/LICENSE', 'native/COPYING'];

function texts(root: string, patterns: string[]): ImageFile[] {
  return globSync(patterns, { cwd: root })
    .sort()
    .map((file) => ({
      path: `${LICENSES}/${file.replaceAll('node_modules/', '')}`,
      content: readFileSync(join(root, file)),
    }));
}

/** Debian's word on the packages that these files are of; nothing where there is no dpkg. */
export async function copyrights(files: string[]): Promise<ImageFile[]> {
  // dpkg knows a file by one path, with or without the /usr that /lib leads to. One that it does not know makes it fail,
  // and the others are reported all the same.
  const known = files.flatMap((path) => [path, realpathSync(path)]);
  const { stdout } = await run('dpkg-query', ['--search', ...known]).catch((error: { stdout?: string }) => error);
  const packages = new Set([...(stdout ?? '').matchAll(/^([^:]+):/gm)].map(([, name]) => name));
  return [...packages]
    .sort()
    .map((name) => `/usr/share/doc/${name}/copyright`)
    .filter(existsSync)
    .map((path) => ({ path: path.slice(1), content: readFileSync(path) }));
}

/** The shared libraries an executable or an addon needs, its loader among them, at the paths where it finds them. */
export async function libraries(file: string): Promise<string[]> {
  const { stdout } = await run('ldd', [file]);
  return [...stdout.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map(([, path]) => path ?? '');
}

export function inPlace(path: string): ImageFile {
  return program(path.slice(1), path);
}
