/** Debian packages that a part of the tests needs beyond what ./setup installs. */
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { runSync } from './process.ts';

export interface DebianPackage {
  name: string;
  /** The package is there if one of these files or commands is, however it came. */
  brings: string[];
}

/** An ordinary user's PATH may lack the folders of system programs, and Go. */
const MORE_FOLDERS = ['/usr/sbin', '/sbin', '/usr/local/go/bin'];

/** Why these packages cannot be used now, with the remedy, or undefined if all are there. */
export function packagesLack(packages: readonly DebianPackage[]): string | undefined {
  const names = missingPackages(packages);
  if (names.length === 0) return undefined;
  return hasCommand('apt-get')
    ? `missing here; as root: ${['apt-get', ...installation(names)].join(' ')}`
    : `missing here; the names of the packages in Debian: ${names.join(' ')}`;
}

/** The same, or undefined if installPackages() can bring them. */
export function packagesImpossible(packages: readonly DebianPackage[]): string | undefined {
  return canInstall() ? undefined : packagesLack(packages);
}

/**
 * Installs those that are missing, if this is root on Debian. Throws an Error that says what is missing, and what
 * apt-get said.
 */
export function installPackages(packages: readonly DebianPackage[]): void {
  const names = missingPackages(packages);
  let said: string | undefined;
  if (names.length > 0 && canInstall()) {
    console.error(`installing Debian packages: ${names.join(' ')}`);
    said = aptGet(installation(names));
    if (said !== undefined) {
      // The lists of packages may be absent, or name files that the mirrors have replaced.
      const update = aptGet(['update']);
      said = aptGet(installation(names)) && `${update ?? ''}${said}`;
    }
  }
  const lack = packagesLack(packages);
  if (lack !== undefined) throw new Error(said === undefined ? lack : `${lack}\n${said.trim()}`);
}

function canInstall(): boolean {
  return process.geteuid?.() === 0 && hasCommand('apt-get');
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
  const { code, stdout, stderr } = runSync('apt-get', args, { env });
  return code === 0 ? undefined : `${stdout}${stderr}`;
}

/** A name is searched in the folders of programs; a full path is that file. */
function hasCommand(name: string): boolean {
  const folders = name.startsWith('/') ? [''] : [...(process.env.PATH ?? '').split(delimiter), ...MORE_FOLDERS];
  return folders.some((folder) => {
    try {
      accessSync(join(folder, name), constants.R_OK);
      return true;
    } catch {
      return false;
    }
  });
}
