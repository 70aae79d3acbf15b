/** Processes that keep the CPUs busy, so that tests show whether they depend on speed. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';

/** Starts `count` of them. They end when disposed of, or with this process, however it ends. */
export function startBusy(count: number): AsyncDisposable {
  const command = ['--pdeathsig', 'KILL', 'sh', '-c', 'while :; do :; done'];
  const children = Array.from({ length: count }, () => spawn('setpriv', command, { stdio: 'ignore' }));
  return {
    async [Symbol.asyncDispose]() {
      const ended = children.map((child) => once(child, 'exit'));
      for (const child of children) child.kill('SIGKILL');
      await Promise.all(ended);
    },
  };
}
