/** Takes away what is left of sandboxes whose keeper was killed: their processes are gone with it, not their files. */
import { globSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

/** A folder this young may have a keeper that has not yet written its pid. */
const YOUNG_MS = 10_000;

export function sweep(prefix: string): void {
  for (const entry of readdirSync(tmpdir()).filter((entry) => entry.startsWith(prefix))) {
    const folder = join(tmpdir(), entry);
    if (isKept(folder)) continue;
    removeCgroups(entry);
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

/** In each hierarchy of version 1, or in the one of version 2; a cgroup is removed by rmdir, deepest first. */
function removeCgroups(name: string): void {
  const all = globSync([`/sys/fs/cgroup/${name}{,/**}`, `/sys/fs/cgroup/*/${name}{,/**}`], { withFileTypes: true });
  const folders = all.filter((entry) => entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name));
  for (const folder of folders.sort((a, b) => b.length - a.length)) {
    try {
      rmdirSync(folder);
    } catch {
      // A process is still on its way out: the next sweep finds it.
    }
  }
}
