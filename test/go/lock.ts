import { spawn } from 'node:child_process';
import { once } from 'node:events';

/**
 * An exclusive lock that the kernel takes back when this process ends, however it ends: `flock` holds it for a program
 * that reads until this process closes a pipe.
 */
export async function lock(file: string, onWait: () => void): Promise<AsyncDisposable> {
  const holder = spawn('flock', [file, 'sh', '-c', 'echo locked; exec cat'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(holder, 'exit');
  const waiting = setTimeout(onWait, 1_000);
  try {
    await Promise.race([
      once(holder.stdout, 'data'),
      ended.then(([code]) => Promise.reject(new Error(`flock ${file} failed: ${code}`))),
    ]);
  } finally {
    clearTimeout(waiting);
  }
  return {
    async [Symbol.asyncDispose]() {
      holder.stdin.end();
      await ended;
    },
  };
}
