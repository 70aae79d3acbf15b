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
  try {
    const pid = readFileSync(join(folder, 'keeper.pid'), 'utf8').trim();
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(basename(folder));
  } catch {
    return (statSync(folder, { throwIfNoEntry: false })?.ctimeMs ?? 0) > Date.now() - YOUNG_MS;
  }
}
