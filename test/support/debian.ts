/** Debian packages that a part of the tests needs beyond what ./setup installs. */
import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

export interface DebianPackage {
  name: string;
  /** The package is there if one of these files or commands is, however it came. */
  brings: string[];
}

/** Folders of system programs, which an ordinary user's PATH may lack. */
const FOLDERS = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin', '/usr/local/go/bin'];

/** Why these packages cannot be used now, with the remedy, or undefined if all are there. */
export function packagesLack(packages: readonly DebianPackage[]): string | undefined {
  const names = missingPackages(packages);
  if (names.length === 0) return undefined;
  return hasCommand('apt-get')
    ? `missing here; as root: ${['apt-get', ...installation(names)].join(' ')}`
    : `missing here; the names of the packages in Debian: ${names.join(' ')}`;
}

/** Installs those that are missing, if this is root on Debian. Throws an Error that says what is missing otherwise. */
export function installPackages(packages: readonly DebianPackage[]): void {
  const names = missingPackages(packages);
  if (names.length > 0 && process.geteuid?.() === 0 && hasCommand('apt-get')) {
    console.error(`installing Debian packages: ${names.join(' ')}`);
    // The lists of packages may be absent, or name files that the mirrors have replaced.
    let said = aptGet(installation(names));
    if (said !== undefined) said = [aptGet(['update']), aptGet(installation(names))].at(-1);
    if (said !== undefined) console.error(said);
  }
  const lack = packagesLack(packages);
  if (lack !== undefined) throw new Error(lack);
}

function missingPackages(packages: readonly DebianPackage[]): string[] {
  return packages.filter(({ brings }) => !brings.some(hasCommand)).map(({ name }) => name);
}

function installation(names: string[]): string[] {
  return ['install', '--yes', '--no-install-recommends', ...names];
}

/** What it said if it failed. */
function aptGet(args: string[]): string | undefined {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const { status, stdout, stderr } = spawnSync('apt-get', args, { env, encoding: 'utf8', maxBuffer: 1 << 26 });
  return status === 0 ? undefined : `${stdout}${stderr}`;
}

/** Of a name, in the folders of programs; of a full path, itself. */
function hasCommand(name: string): boolean {
  return (name.startsWith('/') ? [''] : FOLDERS).some((folder) => {
    try {
      accessSync(join(folder, name), constants.R_OK);
      return true;
    } catch {
      return false;
    }
  });
}
