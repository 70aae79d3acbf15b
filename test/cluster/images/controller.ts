/** Our own image: what a released one holds, from the files of this machine and this working tree. */
import { execFile } from 'node:child_process';
import { globSync, readFileSync, realpathSync } from 'node:fs';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import type { Entry } from './tar.ts';

const run = promisify(execFile);

/** Also in PATH as `ipnc` and as `istio-pod-network-controller`. */
export const MAIN = '/app/lib/main.js';
const NODE = 'usr/local/bin/node';

/** Node changes seldom and ours often: a layer each. */
export async function controllerLayers(root: string, release: string): Promise<Entry[][]> {
  // The one that node's npm package chose for this machine, which may be another than the one that runs this.
  const node = realpathSync(join(root, 'node_modules/node/bin/node'));
  const addon = addonIn(release);
  const gate = join(release, 'gate');
  const runtime = [program(NODE, node), ...(await libraries(node))];
  const known = new Set(runtime.map(({ path }) => path));
  const own: Entry[] = [
    program(MAIN.slice(1), await bundle(root)),
    { path: 'app/package.json', content: Buffer.from('{"type":"module"}\n') },
    program(`app/build/Release/${basename(addon)}`, addon),
    ...(await libraries(addon)).filter(({ path }) => !known.has(path)),
    { path: 'usr/local/bin/ipnc', link: MAIN },
    { path: 'usr/local/bin/istio-pod-network-controller', link: MAIN },
    program('app/build/Release/gate', gate),
    { path: 'usr/local/bin/pod-network-gate', link: '/app/build/Release/gate' },
  ];
  return [runtime, own];
}

function addonIn(release: string): string {
  const [addon] = globSync([join(release, 'bindings/ipnc.node'), join(release, 'ipnc.node')]);
  if (addon === undefined) throw new Error(`the addon is not built in ${release}; run ./setup`);
  return addon;
}

function program(path: string, from: string | Buffer): Entry {
  return { path, mode: 0o755, content: typeof from === 'string' ? readFileSync(from) : from };
}

async function bundle(root: string): Promise<Buffer> {
  const { outputFiles } = await build({
    entryPoints: [join(root, 'lib/main.ts')],
    bundle: true,
    write: false,
    platform: 'node',
    format: 'esm',
    target: 'node24',
    legalComments: 'none',
    logLevel: 'silent', // what it throws says it all
    // CommonJS parts of the dependencies look for these.
    banner: {
      js: [
        `import { createRequire as createRequireOfBundle } from 'node:module';`,
        'const require = createRequireOfBundle(import.meta.url);',
        'const { filename: __filename, dirname: __dirname } = import.meta;',
      ].join('\n'),
    },
  });
  // esbuild keeps the entry's first line, which asks for /usr/bin/env.
  const text = outputFiles[0]?.text.replace(/^#!.*\n/, '') ?? '';
  return Buffer.from(`#!/${NODE}\n${text}`);
}

/** The shared libraries an executable or an addon needs, its loader among them, at the paths where it finds them. */
async function libraries(file: string): Promise<Entry[]> {
  const { stdout } = await run('ldd', [file]);
  const paths = [...stdout.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map(([, path]) => path ?? '');
  return paths.map((path) => program(path.slice(1), path));
}
