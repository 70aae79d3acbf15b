/** Takes away what is left of sandboxes whose keeper was killed: their processes are gone with it, not their files. */
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { removeCgroup } from './cgroup.ts';

/** A folder this young may have a keeper that has not yet written its pid. */
const YOUNG_MS = 10_000;

export function sweep(prefix: string): void {
  for (const entry of readdirSync(tmpdir()).filter((entry) => entry.startsWith(prefix))) {
    const folder = join(tmpdir(), entry);
    if (isKept(folder)) continue;
    removeCgroup(entry);
    rmSync(folder, { recursive: true, force: true });
  }
}

function isKept(folder: string): boolean {
  const pid = read(join(folder, 'keeper.pid'))?.trim();
  if (!pid) {
    return (statSync(folder, { throwIfNoEntry: false })?.ctimeMs ?? 0) > Date.now() - YOUNG_MS;
  }
  // A pid may have been given to another process meanwhile.
  return read(`/proc/${pid}/cmdline`)?.includes(basename(folder)) === true;
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
