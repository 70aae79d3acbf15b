/** Confines this process to some CPUs, so that a figure for two means the same on a machine with more. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** All threads that there are now, and what they start. Where there are no more than `count`, nothing changes. */
export async function onCores<T>(count: number, work: () => Promise<T>): Promise<T> {
  const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '';
  const all = expand(list);
  if (all.length <= count) return await work();
  const confine = (cpus: string) =>
    execFileSync('taskset', ['--all-tasks', '--cpu-list', '--pid', cpus, String(process.pid)], { stdio: 'ignore' });
  confine(all.slice(0, count).join(','));
  try {
    return await work();
  } finally {
    confine(list);
  }
}

/** `0-2,5` */
function expand(list: string): number[] {
  return list.split(',').flatMap((range) => {
    const [first = 0, last = first] = range.split('-').map(Number);
    return Array.from({ length: last - first + 1 }, (_, at) => first + at);
  });
}
