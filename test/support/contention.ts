/** Configurations that contend for one netns, and others who are at work in it meanwhile. */
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import type { Compiled } from '../../lib/native/addon.ts';
import type { Backend } from '../../lib/ruleset/form.ts';
import { compile, type Farm, inside } from './netns.ts';
import { launch } from './process.ts';

/** No two have the same rules; the first and the last have as many in each table. */
const FLAGS: string[][] = [
  [],
  ['-m', 'TPROXY'],
  ['--redirect-dns', '--capture-all-dns'],
  ['-p', '16001', '-u', '2000'],
];

/** Four configurations, each in the form of each backend. */
export function compileAll(...backends: Backend[]): Promise<Compiled[]> {
  return Promise.all(backends.flatMap((backend) => FLAGS.map((flags) => compile('--backend', backend, ...flags))));
}

/** Runs a shell command in the netns again and again, until what it returns is called. */
export function busyLoop(farm: Farm, path: string, command: string) {
  const stopped = farm.file();
  const script = `d=0; f=0; while [ ! -e ${stopped} ]; do if ${command}; then d=$((d+1)); else f=$((f+1)); fi; done; echo $d $f`;
  const ended = inside(path, ['sh', '-c', script]);
  return async function stop() {
    writeFileSync(stopped, '');
    const [done = 0, failed = 0] = (await ended).split(' ').map(Number);
    return { done, failed };
  };
}

/** Another process's lock on the netns, until it is disposed of. */
export async function holdLock(path: string): Promise<AsyncDisposable> {
  // Longer than any test: it ends when it is disposed of, or with the sandbox of the test's file.
  const holder = launch('flock', ['-x', path, 'sh', '-c', 'echo held; exec sleep 3600'], {
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  });
  await once(holder.stdout, 'data');
  return {
    async [Symbol.asyncDispose]() {
      if (holder.pid !== undefined) process.kill(-holder.pid, 'SIGKILL');
      await once(holder, 'close');
    },
  };
}
