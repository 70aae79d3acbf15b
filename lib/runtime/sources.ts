/** Every source of runtime events. A new one is a file, and a line here. */
import { containerd } from './containerd/source.ts';
import { cri } from './cri/source.ts';
import { inotify } from './inotify.ts';
import { nri } from './nri/source.ts';
import type { EventSource } from './source.ts';

/** From the earliest on. `auto` uses the first that the runtime offers and that has no caution there. */
export const SOURCES: readonly EventSource[] = [nri, containerd, cri, inotify];

/** The sources that a value of --runtime-events allows; none for `off`. */
export function sourcesFor(value: string): readonly EventSource[] {
  return value === 'auto' ? SOURCES : SOURCES.filter(({ name }) => name === value);
}
