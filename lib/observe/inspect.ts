/**
 * Lets the operator look into the running controller: its log level, CPU profiles and heap snapshots. Nothing listens
 * until a process sends SIGUSR1. The controller then opens a Unix socket in a folder of its own user, and closes it when
 * nobody has used it for a while. By default Node opens its debugger on a TCP port for this signal, and whoever may
 * connect to that port runs code as the controller. The handler here replaces that.
 */
import { lstatSync, mkdirSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { runOptions } from '../config/options.ts';
import { duration } from '../config/values.ts';
import type { Logger } from './log.ts';

export const SIGNAL = 'SIGUSR1';
/** Every container has this file system in memory, also one with a read-only root. */
const MEMORY = '/dev/shm';
const IDLE_MS = 600_000;
/** The limits of a profile: --cpu-profile of "ipnc inspect" has the same. */
export const profileDuration = duration('1s', '5m');

/** The folder that the controller with this pid makes, and its socket. */
export function inspectPlaces(pid: number): { folder: string; socket: string } {
  const folder = join(MEMORY, `ipnc-${pid}`);
  return { folder, socket: join(folder, 'inspect.sock') };
}

/**
 * Whether this user owns the folder and nobody else can enter it. Anybody can make a folder of this name in the shared
 * memory of a machine, and could then pretend to be the controller.
 */
export function isPrivate(folder: string): boolean {
  const found = lstatSync(folder, { throwIfNoEntry: false });
  return found?.isDirectory() === true && found.uid === process.getuid?.() && (found.mode & 0o077) === 0;
}

export interface InspectOptions {
  log: Logger;
  /** Milliseconds without a request after which the socket is closed. */
  idleMs?: number;
}

/** From now on SIGUSR1 opens the socket. Dispose it to close an open socket; the signal is handled until the process ends. */
export function allowInspection({ log, idleMs = IDLE_MS }: InspectOptions): Disposable {
  let opened: Opened | undefined;
  let over = false;
  const close = () => {
    opened?.[Symbol.dispose]();
    opened = undefined;
  };
  process.on(SIGNAL, () => {
    if (over || opened !== undefined) return;
    try {
      opened = new Opened(log, idleMs, close);
    } catch (err) {
      log.error({ err }, 'the socket for "ipnc inspect" cannot be opened');
    }
  });
  return {
    [Symbol.dispose]: () => {
      over = true;
      close();
    },
  };
}

interface Answer {
  status: number;
  text: string;
}

class Opened implements Disposable {
  readonly #log: Logger;
  readonly #server: Server;
  readonly #idle: NodeJS.Timeout;
  readonly #places = inspectPlaces(process.pid);
  /** A profile or a snapshot is being made. */
  #busy = false;

  constructor(log: Logger, idleMs: number, onIdle: () => void) {
    this.#log = log;
    const { folder, socket } = this.#places;
    makeFolder(folder, socket);
    this.#server = createServer((request, response) => {
      this.#idle.refresh();
      void this.#answer(request, response);
    });
    this.#idle = setTimeout(() => {
      if (this.#busy) this.#idle.refresh();
      else onIdle();
    }, idleMs).unref();
    this.#server.on('error', (err) => {
      log.error({ err }, 'the socket for "ipnc inspect" failed');
      onIdle();
    });
    this.#server.listen(socket);
    // The controller's work decides when the process ends.
    this.#server.unref();
    log.warn({ detail: socket }, 'opened the socket for "ipnc inspect"');
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#idle);
    this.#server.close();
    this.#server.closeAllConnections();
    rmSync(this.#places.folder, { recursive: true, force: true });
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://inspect');
    try {
      if (request.method === 'PUT' && pathname === '/log-level') {
        const level = runOptions.logLevel.parse(searchParams.get('level') ?? '', { field: 'level', source: 'flag' });
        return send(response, { status: 200, text: this.#setLevel(level) });
      }
      if (request.method === 'GET' && pathname === '/cpu-profile') {
        const ms = profileDuration(searchParams.get('for') ?? '', { field: 'for', source: 'flag' });
        const left = new AbortController();
        response.once('close', () => left.abort());
        return await this.#alone('a CPU profile', response, async () =>
          send(response, { status: 200, text: await cpuProfile(ms, left.signal) }),
        );
      }
      if (request.method === 'GET' && pathname === '/heap-snapshot') {
        return await this.#alone('a heap snapshot', response, async () => {
          const { getHeapSnapshot } = await import('node:v8');
          await pipeline(getHeapSnapshot(), response);
        });
      }
      send(response, { status: 404, text: 'the paths are /log-level, /cpu-profile and /heap-snapshot' });
    } catch (error) {
      // The client may have left in the middle.
      if (response.headersSent) response.destroy();
      else send(response, { status: 400, text: error instanceof Error ? error.message : String(error) });
    }
  }

  #setLevel(level: string): string {
    const before = this.#log.level;
    this.#log.level = level;
    this.#log.warn({ detail: `from ${before} to ${level}` }, 'somebody changed the log level');
    return before;
  }

  async #alone(what: string, response: ServerResponse, work: () => Promise<void>): Promise<void> {
    if (this.#busy) {
      send(response, { status: 409, text: 'another profile or snapshot is being made' });
      return;
    }
    this.#busy = true;
    this.#log.warn({ detail: what }, 'somebody inspects the controller');
    try {
      await work();
    } finally {
      this.#busy = false;
    }
  }
}

/** A container that was restarted finds the folder of the process before it, which had the same pid. */
function makeFolder(folder: string, socket: string): void {
  try {
    mkdirSync(folder, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || !isPrivate(folder)) throw error;
    rmSync(socket, { force: true });
  }
}

function send(response: ServerResponse, { status, text }: Answer): void {
  response.writeHead(status, { 'Content-Length': Buffer.byteLength(text) }).end(text);
}

/** As JSON. Ends early at the signal. */
async function cpuProfile(ms: number, signal: AbortSignal): Promise<string> {
  const { Session } = await import('node:inspector/promises');
  const session = new Session();
  session.connect();
  try {
    await session.post('Profiler.enable');
    await session.post('Profiler.start');
    await sleep(ms, undefined, { signal }).catch(() => {});
    const { profile } = await session.post('Profiler.stop');
    return JSON.stringify(profile);
  } finally {
    session.disconnect();
  }
}
