/** Every source of runtime events. A new one is a file, and a line here. */
import { containerd } from './containerd/source.ts';
import { cri } from './cri/source.ts';
import { inotify } from './inotify.ts';
import { nri } from './nri/source.ts';
import type { EventSource } from './source.ts';

/**
 * The source that reports a sandbox first comes first. `auto` uses the first one that the runtime offers and that has no
 * caution for this runtime.
 */
export const SOURCES: readonly EventSource[] = [nri, containerd, cri, inotify];

/** The sources that a value of --runtime-events allows; none for `off`. */
export function sourcesFor(value: string): readonly EventSource[] {
  return value === 'auto' ? SOURCES : SOURCES.filter(({ name }) => name === value);
}
