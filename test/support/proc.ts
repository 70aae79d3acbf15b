/** Processes as /proc shows them. A small Debian has neither pgrep nor a program kill. */
import { readdirSync, readFileSync } from 'node:fs';

/** The pids of processes whose command line suits. Another `proc` is that of another PID namespace. */
export function pidsOf(suits: (words: string[]) => boolean, proc = '/proc'): number[] {
  return readdirSync(proc).flatMap((entry) => {
    try {
      const words = readFileSync(`${proc}/${entry}/cmdline`, 'utf8').split('\0');
      return /^\d+$/.test(entry) && suits(words) ? [Number(entry)] : [];
    } catch {
      return []; // no process, or it ended
    }
  });
}

/** A command that kills them, for a node: its pids are not those of this machine. */
export function killCommand(pids: readonly number[]): string[] {
  return ['sh', '-c', 'kill -9 "$@"', 'sh', ...pids.map(String)];
}
