/**
 * Programs that tests run. Their output is kept for a while: when a test fails, test/suite.ts prints what the programs
 * of that test wrote. The linter sends tests here instead of to node:child_process.
 */
import {
  type ChildProcess,
  type ExecFileOptions,
  execFile,
  type PromiseWithChild,
  type SpawnOptions,
  type SpawnSyncOptions,
  spawn,
  spawnSync,
} from 'node:child_process';
import { promisify } from 'node:util';

/** How many programs that have ended well are kept. */
const KEPT = 3;
/** How much is shown of each stream, in characters. */
const SHOWN = 4_000;

interface Output {
  stdout: string;
  stderr: string;
}

export interface Ended extends Output {
  /** The exit code, or the name of the signal that ended it. */
  code: number | NodeJS.Signals;
}

interface Entry extends Output {
  command: string;
  /** Undefined while it runs. */
  code?: number | string | undefined;
}

let entries: Entry[] = [];

const execute = promisify(execFile);

/**
 * Runs a program to its end; stdin is `child.stdin`. Rejects if the exit code is not 0; the error's message has the
 * command and both streams, and `code`, `stdout` and `stderr` are fields of it.
 */
export function run(
  command: string,
  args: readonly string[] = [],
  options: ExecFileOptions = {},
): PromiseWithChild<Output> {
  const running = execute(command, args, { maxBuffer: 1 << 28, ...options, encoding: 'utf8' });
  const entry = enter(command, args);
  const ended = running.then(
    (output) => {
      end(entry, { ...output, code: 0 });
      return output;
    },
    (error: Error & Partial<Output> & { code?: number | string | null; signal?: string | null }) => {
      const { stdout = '', stderr = '', code, signal } = error;
      end(entry, { stdout, stderr, code: code ?? signal ?? error.message });
      error.message = describe(entry);
      throw error;
    },
  );
  return Object.assign(ended, { child: running.child });
}

/** Runs a program to its end, whatever that is. Rejects if it cannot be started. */
export function runToEnd(command: string, args: readonly string[], options: ExecFileOptions = {}): Promise<Ended> {
  return run(command, args, options).then(
    (output) => ({ ...output, code: 0 }),
    (error: Ended & { signal?: NodeJS.Signals }) => {
      const { stdout, stderr } = error;
      const code = error.code ?? error.signal;
      if (typeof code !== 'number' && error.signal === undefined) throw error;
      return { code, stdout, stderr };
    },
  );
}

/** The same, and nothing else happens meanwhile. Throws if it cannot be started or runs out of `timeout`. */
export function runSync(
  command: string,
  args: readonly string[] = [],
  options: Omit<SpawnSyncOptions, 'encoding'> = {},
): Ended {
  const settings = { maxBuffer: 1 << 28, ...options, encoding: 'utf8' as const };
  const { status, signal, stdout, stderr, error } = spawnSync(command, args, settings);
  const entry = enter(command, args);
  const code = status ?? signal;
  end(entry, { stdout: stdout ?? '', stderr: stderr ?? '', code: code ?? String(error) });
  if (error !== undefined || code === null) throw new Error(describe(entry), { cause: error });
  return { code, stdout: entry.stdout, stderr: entry.stderr };
}

/** Runs a program that has to succeed; returns its standard output. */
export function output(
  command: string,
  args: readonly string[] = [],
  options: Omit<SpawnSyncOptions, 'encoding'> = {},
): string {
  const ended = runSync(command, args, options);
  if (ended.code !== 0) throw new Error(describe({ ...ended, command: commandLine(command, args) }));
  return ended.stdout;
}

/** Starts a program, as `spawn` does. Its output flows at once: whoever reads it has to begin in the same tick. */
export const launch = ((command: string, args: readonly string[], options: SpawnOptions = {}) => {
  const child = spawn(command, args, options);
  const entry = enter(command, args);
  record(child, entry, 'stdout');
  record(child, entry, 'stderr');
  child.once('error', ({ message }) => end(entry, { code: message }));
  child.once('close', (code, signal) => end(entry, { code: code ?? signal ?? '' }));
  return child;
}) as typeof spawn;

/** What the programs of this test have written, and forgets those that have ended; '' if there is nothing to show. */
export function takeOutput(): string {
  const shown = entries.map(describe).join('\n');
  entries = entries.filter(({ code }) => code === undefined);
  return shown;
}

function enter(command: string, args: readonly string[]): Entry {
  const entry: Entry = { command: commandLine(command, args), stdout: '', stderr: '' };
  entries.push(entry);
  return entry;
}

function end(entry: Entry, outcome: Partial<Entry>): void {
  Object.assign(entry, outcome);
  const well = entries.filter(({ code }) => code === 0);
  const old = new Set(well.slice(0, Math.max(0, well.length - KEPT)));
  entries = entries.filter((entry) => !old.has(entry));
}

function record(child: ChildProcess, entry: Entry, name: 'stdout' | 'stderr'): void {
  child[name]?.on('data', (chunk: Buffer | string) => {
    entry[name] = `${entry[name]}${chunk}`.slice(-SHOWN);
  });
}

function describe({ command, code, stdout, stderr }: Entry): string {
  const state = code === undefined ? 'still runs' : typeof code === 'number' ? `exit code ${code}` : code;
  return [`${command}: ${state}`, stdout, stderr]
    .map((text) => text.trimEnd().slice(-SHOWN))
    .filter((text) => text !== '')
    .join('\n');
}

/** Arguments may be whole programs and rule sets: of these the begin. */
function commandLine(command: string, args: readonly string[]): string {
  const line = [command, ...args].join(' ').replaceAll(/\s*\n\s*/g, ' ');
  return line.length > 300 ? `${line.slice(0, 300)} ...` : line;
}
