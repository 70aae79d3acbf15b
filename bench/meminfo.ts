/** What the kernel has allocated for itself, the parts that netns and rules are made of, in KiB. */
import { readFileSync } from 'node:fs';

export function kernelMemory(): number {
  const text = readFileSync('/proc/meminfo', 'utf8');
  const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0);
  return field('Slab') + field('Percpu') + field('VmallocUsed') + field('KernelStack');
}
