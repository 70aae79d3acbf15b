/** The images that the Dockerfile makes, built with buildah: for the tests that compare and start them. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { filesIn } from '../lint/files.ts';
import { type DebianPackage, installPackages, packagesImpossible, packagesLack } from '../support/debian.ts';

export const TARGETS = ['controller', 'gate', 'bench'] as const;
export type Target = (typeof TARGETS)[number];

const ROOT = join(import.meta.dirname, '../..');
const FOLDER = join(ROOT, 'build/dockerfile');
const STAMP = join(FOLDER, 'stamp');

const PACKAGES: DebianPackage[] = [
  { name: 'buildah', brings: ['buildah'] },
  { name: 'debootstrap', brings: ['debootstrap'] },
];

/** The tag of each in its archive. */
export const imageOf = (target: Target): string => `localhost/${target}:dockerfile`;

/** An OCI archive. */
export const archiveOf = (target: Target): string => join(FOLDER, `${target}.tar`);

/** Why there are no images of this working tree, in words, or undefined. */
export function dockerfileLack(): string | undefined {
  if (existsSync(STAMP) && readFileSync(STAMP, 'utf8') === key()) return undefined;
  return dockerfileImpossible() ?? packagesLack(PACKAGES) ?? 'the images of the Dockerfile are not built';
}

/** Why buildDockerfile() cannot succeed on this machine, in words, or undefined. */
export function dockerfileImpossible(): string | undefined {
  if (process.geteuid?.() !== 0) return 'not root here: buildah and debootstrap make root file systems';
  return packagesImpossible(PACKAGES);
}

/** Builds all of them, which takes two minutes. Says on stderr what it does. Throws an Error with what the build said. */
export async function buildDockerfile(): Promise<void> {
  installPackages(PACKAGES);
  const made = key();
  process.stderr.write(`dockerfile: building ${TARGETS.join(', ')} into ${FOLDER}\n`);
  const began = performance.now();
  mkdirSync(FOLDER, { recursive: true });
  // It ends with this process, however that ends, and removes what it made.
  const command = ['--pdeathsig', 'TERM', join(import.meta.dirname, 'build'), FOLDER];
  const child = spawn('setpriv', command, { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-20_000);
    });
  }
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  if (code !== 0) throw new Error(`test/dockerfile/build failed (${code ?? signal}):\n${said}`);
  writeFileSync(STAMP, made);
  process.stderr.write(`dockerfile: built in ${Math.round((performance.now() - began) / 1000)} s\n`);
}

/** Of all that the Dockerfile copies, but documents. */
function key(): string {
  const hash = createHash('sha256');
  for (const file of filesIn(ROOT, '**', '.dockerignore', '.npmrc')) {
    const path = join(ROOT, file);
    const stat = statSync(path);
    if (!stat.isFile() || /\.md$|^docs\//.test(file)) continue;
    hash.update(JSON.stringify([file, stat.mode, createHash('sha256').update(readFileSync(path)).digest('hex')]));
  }
  return hash.digest('hex');
}
