import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { ImageFile } from './files.ts';

/** Writes the files below `folder`, which has to be empty. */
export function layOut(folder: string, files: readonly ImageFile[]): void {
  for (const file of files) {
    const path = join(folder, file.path);
    mkdirSync(dirname(path), { recursive: true });
    if ('folder' in file) {
      mkdirSync(path, { recursive: true });
      // Whatever this process's umask.
      chmodSync(path, file.mode ?? 0o755);
    } else if ('link' in file) symlinkSync(file.link, path);
    else writeFileSync(path, file.content, { mode: file.mode ?? 0o644 });
  }
}
