import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A new folder that is removed when this process ends; `name` is a part of its own name. */
export function scratchFolder(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `ipnc-${name}-`));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
