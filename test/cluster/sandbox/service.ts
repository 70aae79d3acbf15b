/** A program that runs in a sandbox until the sandbox ends, its output in a log of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isOver } from '../../support/patience.ts';
import type { Programs } from '../programs.ts';
import type { Sandbox } from './sandbox.ts';

export interface Service {
  name: string;
  /** Path of what it wrote. */
  log: string;
  /** Its pid on this machine. */
  pid(): number;
  /** Whether it has ended, for any reason. */
  ended(): boolean;
  /** Waits until `probe` is true; throws with the end of the log when the program ends before, or time runs out. */
  ready(probe: () => Promise<boolean>, limitMs?: number): Promise<void>;
  /** Kills it and waits for its end. */
  kill(signal?: NodeJS.Signals): Promise<void>;
  /** Starts it again, as it was. */
  start(): void;
  /** Stops it, and returns what lets it go on; calling that again does nothing. */
  freeze(): () => void;
}

export interface Launcher {
  /** By name of the program. */
  services: ReadonlyMap<string, Service>;
  start(program: string, flags: Record<string, string>): Service;
}

/** Starts programs in one sandbox, with these variables in their environment. */
export function launcher(sandbox: Sandbox, programs: Programs, variables: Record<string, string> = {}): Launcher {
  const services = new Map<string, Service>();
  const env = { PATH: programs.search, HOME: sandbox.folder, ...variables };
  return {
    services,
    start(program, flags) {
      const argv = [programs.path(program), ...Object.entries(flags).map(([flag, value]) => `--${flag}=${value}`)];
      const service = startService(sandbox, program, argv, env);
      services.set(program, service);
      return service;
    },
  };
}

const READY_LIMIT_MS = 60_000;
const POLL_MS = 25;

function startService(sandbox: Sandbox, name: string, argv: string[], env: NodeJS.ProcessEnv): Service {
  const log = join(sandbox.folder, `${name}.log`);
  let child: ChildProcess;

  const start = () => {
    const [command = '', ...rest] = sandbox.enter(argv);
    const out = openSync(log, 'a');
    // A session of its own: a terminal's Ctrl-C is for this process, which then closes the sandbox.
    child = spawn(command, rest, { detached: true, stdio: ['ignore', out, out], env, cwd: sandbox.folder });
    closeSync(out);
    child.unref();
  };
  const ended = () => child.exitCode !== null || child.signalCode !== null;
  const complain = (what: string) => {
    const lines = readFileSync(log, 'utf8').trim().split('\n');
    return new Error(`${name} ${what}; the end of ${log}:\n${lines.slice(-20).join('\n')}`);
  };

  // The child is nsenter, which waits for the program: its only child.
  const pid = () => Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8'));

  start();
  return {
    name,
    log,
    pid,
    ended,
    start,
    async ready(probe, limitMs = READY_LIMIT_MS) {
      const began = performance.now();
      while (!(await probe().catch(() => false))) {
        if (ended()) throw complain('ended');
        if (isOver(began, limitMs)) throw complain(`is not ready after ${limitMs / 1000} s`);
        await sleep(POLL_MS);
      }
    },
    freeze() {
      const inside = pid();
      process.kill(inside, 'SIGSTOP');
      let stopped = true;
      return () => {
        // nsenter stops itself with a program that is stopped.
        if (stopped) for (const each of [inside, child.pid ?? 0]) process.kill(each, 'SIGCONT');
        stopped = false;
      };
    },
    async kill(signal = 'SIGKILL') {
      if (ended()) return;
      const exit = once(child, 'exit');
      child.ref();
      process.kill(pid(), signal);
      // nsenter stops itself with a program that is stopped, and sees its end only when it goes on.
      child.kill('SIGCONT');
      await exit;
    },
  };
}
