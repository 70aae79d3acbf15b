/** A sandbox's cgroup, in each hierarchy of version 1, or in the one of version 2. */
import { existsSync, globSync, mkdirSync, readdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const ROOT = '/sys/fs/cgroup';

function hierarchies(): string[] {
  if (existsSync(join(ROOT, 'cgroup.controllers'))) return [ROOT];
  return readdirSync(ROOT).map((name) => join(ROOT, name));
}

export function createCgroup(name: string): void {
  for (const hierarchy of hierarchies()) mkdirSync(join(hierarchy, name), { recursive: true });
}

/** Returns the folder whose `cgroup.procs` a process joins to have the limit. */
export function limitMemory(name: string, bytes: number): string {
  const [folder, file] = existsSync(join(ROOT, 'cgroup.controllers'))
    ? [join(ROOT, name), 'memory.max']
    : [join(ROOT, 'memory', name), 'memory.limit_in_bytes'];
  writeFileSync(join(folder, file), String(bytes));
  return folder;
}

/** A cgroup is removed by rmdir, its files notwithstanding; children first. */
export function removeCgroup(name: string): void {
  for (const hierarchy of hierarchies()) {
    const inside = globSync('**/', { cwd: join(hierarchy, name), withFileTypes: true });
    const folders = inside.filter((entry) => entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name));
    for (const folder of [...folders, join(hierarchy, name)].sort((a, b) => b.length - a.length)) {
      try {
        rmdirSync(folder);
      } catch {
        // A process is still on its way out: the next sweep finds it.
      }
    }
  }
}
