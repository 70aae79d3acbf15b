/** The machine of a run. */
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';
import type { Machine } from './schema.ts';

export function describeMachine(): Machine {
  const before = loadavg()[0] ?? 0;
  const name = process.env.NODE_NAME;
  return {
    ...(name && { name }),
    kernel: release(),
    cpu: cpus()[0]?.model.trim() || 'unknown',
    cpus: availableParallelism(),
    memoryMiB: Math.round(totalmem() / 2 ** 20),
    distribution: /^PRETTY_NAME="?([^"\n]*)/m.exec(read('/etc/os-release'))?.[1] ?? 'unknown distribution',
    node: process.version,
    // A guest can see that it runs in a virtual machine, where threads wake up later.
    virtual: /^flags\s*:.*\bhypervisor\b/m.test(read('/proc/cpuinfo')) ? 'virtual machine' : '',
    load: { before, after: before },
  };
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
