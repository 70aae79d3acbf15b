import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { createConnection } from 'node:net';
import { text } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command, Option } from 'commander';
import { runOptions } from '../config/options.ts';
import { count } from '../config/values.ts';
import { ConfigError, Failure } from '../errors.ts';
import type { Context } from './shared.ts';

interface Given {
  logLevel?: string;
  cpuProfile?: string;
  heapSnapshot?: true;
  pid?: string;
}

const WHAT = 'What to do (exactly one):';
const TARGET = 'Target:';
/** How long the controller may take to open its socket. */
const OPEN_MS = 10_000;
const LOOK_MS = 20;
/** The largest pid that Linux allows (include/linux/threads.h, PID_MAX_LIMIT). */
const PID_MAX = 4_194_304;

export function inspectCommand({ io }: Context): Command {
  const levels = 'set the log level of the running controller until it ends: fatal, error, warn, info, debug or trace';
  const command = new Command('inspect')
    .summary('look into the running controller: log level, CPU profile, heap snapshot')
    .description(
      'Changes the log level of a controller that runs, or writes a CPU profile or a heap snapshot of it to standard\n' +
        'output. Must run as the user of the controller and in its PID namespace, which "kubectl exec" does. A heap\n' +
        'snapshot contains the credentials of the controller, and the controller stops working while it takes one.',
    )
    .addOption(new Option('--log-level <level>', levels).helpGroup(WHAT))
    .addOption(new Option('--cpu-profile <duration>', 'record what uses CPU, for 1s to 5m').helpGroup(WHAT))
    .addOption(new Option('--heap-snapshot', 'write what is in memory').helpGroup(WHAT))
    .addOption(new Option('--pid <number>', 'the controller, if there are several').helpGroup(TARGET))
    .addHelpText(
      'after',
      `
Examples:
  kubectl -n istio-system exec CONTROLLER -- ipnc inspect --log-level debug
  kubectl -n istio-system exec CONTROLLER -- ipnc inspect --cpu-profile 30s > controller.cpuprofile
  kubectl -n istio-system exec CONTROLLER -- ipnc inspect --heap-snapshot > controller.heapsnapshot

Chrome DevTools and Visual Studio Code open both files.

Exit codes: 0 done, 1 failed, 2 invalid command line.`,
    );
  return command.action(async () => {
    const { method, path } = await requestOf(command.opts<Given>(), io.stdout);
    const answer = await ask(await socketOf(controllerPid(command.opts<Given>().pid)), method, path);
    if (answer.statusCode !== 200) throw new Failure('ERR_INSPECT', { detail: await text(answer) });
    if (path.startsWith('/log-level')) {
      io.out(`the log level was ${await text(answer)}, and is ${command.opts<Given>().logLevel} now\n`);
    } else await pipeline(answer, io.stdout, { end: false });
  });
}

async function requestOf(
  { logLevel, cpuProfile, heapSnapshot }: Given,
  stdout: NodeJS.WritableStream,
): Promise<{ method: string; path: string }> {
  const { profileDuration } = await import('../observe/inspect.ts');
  const wanted = { '--log-level': logLevel, '--cpu-profile': cpuProfile, '--heap-snapshot': heapSnapshot };
  const given = Object.entries(wanted).filter(([, value]) => value !== undefined);
  const [[flag, value] = ['', ''], ...more] = given;
  if (flag === '' || more.length > 0) {
    const names = given.map(([name]) => name).join(', ');
    const wrong = flag === '' ? 'no action is given' : 'only one action is possible';
    const expected = 'exactly one of --log-level, --cpu-profile and --heap-snapshot';
    throw new ConfigError('inspect', flag === '' ? undefined : names, wrong, expected);
  }
  const origin = { field: flag, source: 'flag' } as const;
  if (flag === '--log-level') {
    const level = runOptions.logLevel.parse(String(value), origin);
    return { method: 'PUT', path: `/log-level?level=${level}` };
  }
  if (flag === '--cpu-profile') profileDuration(String(value), origin);
  if ('isTTY' in stdout && stdout.isTTY === true) {
    throw new ConfigError(flag, undefined, 'standard output is a terminal', 'a file, as in "> controller.cpuprofile"');
  }
  return { method: 'GET', path: flag === '--cpu-profile' ? `/cpu-profile?for=${value}` : '/heap-snapshot' };
}

/** The names under which this program is started. */
const PROGRAM = /(^|\/)(main\.[jt]s|ipnc|istio-pod-network-controller)$/;

/** Whether the words of a command line are those of `ipnc run`. No other process may get the signal, which would end it. */
export function isController(words: readonly string[]): boolean {
  const at = words.findIndex((word) => PROGRAM.test(word));
  return at !== -1 && words[at + 1] === 'run';
}

function controllerPid(given: string | undefined): number {
  if (given !== undefined) {
    const pid = count(1, PID_MAX)(given, { field: '--pid', source: 'flag' });
    if (!existsSync(`/proc/${pid}`)) throw new Failure('ERR_NO_PROCESS', { subject: given });
    if (isController(wordsOf(pid))) return pid;
    throw new ConfigError('--pid', given, 'not a process of "ipnc run"', 'the pid of a controller');
  }
  const found = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => isController(wordsOf(pid)));
  const [pid, ...more] = found;
  if (pid === undefined) throw new Failure('ERR_INSPECT', { detail: 'no controller runs in this PID namespace' });
  if (more.length === 0) return pid;
  throw new ConfigError('--pid', undefined, `controllers run with the pids ${found.join(', ')}`, 'one of them');
}

/** Empty if the process has ended meanwhile. */
function wordsOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return [];
  }
}

/** Makes the controller open its socket, and resolves with the path when it is open. */
async function socketOf(pid: number): Promise<string> {
  const { inspectPlaces, isPrivate, SIGNAL } = await import('../observe/inspect.ts');
  const { folder, socket } = inspectPlaces(pid);
  try {
    process.kill(pid, SIGNAL);
  } catch (cause) {
    const detail = `the signal cannot be sent to process ${pid} (${(cause as NodeJS.ErrnoException).code})`;
    throw new Failure('ERR_INSPECT', { detail, cause });
  }
  for (const began = performance.now(); performance.now() - began < OPEN_MS; await sleep(LOOK_MS)) {
    if (isPrivate(folder) && (await accepts(socket))) return socket;
  }
  throw new Failure('ERR_INSPECT', { detail: `process ${pid} did not open ${socket}` });
}

/** Whether a process listens there. A process that was killed leaves the file of its socket behind. */
function accepts(path: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const connection = createConnection(path)
    .once('connect', () => {
      connection.destroy();
      resolve(true);
    })
    .once('error', () => resolve(false));
  return promise;
}

function ask(socketPath: string, method: string, path: string): Promise<IncomingMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  request({ socketPath, method, path, agent: false }, resolve)
    .on('error', (cause) => reject(new Failure('ERR_INSPECT', { detail: cause.message, cause })))
    .end();
  return promise;
}
