/** Every source of runtime events, in the order in which `auto` tries them. A new one is a file, and a line here. */
import { containerd } from './containerd/source.ts';
import { cri } from './cri/source.ts';
import { inotify } from './inotify.ts';
import { nri } from './nri/source.ts';
import type { EventSource } from './source.ts';

export const SOURCES: readonly EventSource[] = [containerd, nri, cri, inotify];

/** The sources that a value of --runtime-events allows; none for `off`. */
export function sourcesFor(value: string): readonly EventSource[] {
  return value === 'auto' ? SOURCES : SOURCES.filter(({ name }) => name === value);
}
