/** Network namespaces and the cables between them, and their removal whatever happens. */
import { execFile, execFileSync } from 'node:child_process';
import { promisify } from 'node:util';
import { TOOLBOX } from './toolbox.ts';

const run = promisify(execFile);

async function ip(...words: string[]): Promise<string> {
  return (await run('ip', words)).stdout;
}

export interface CableEnd {
  netns: string;
  interface: string;
  /** With prefix length: `10.0.0.1/24`. */
  addresses: string[];
}

/** Netns by short names; on the machine they carry this process's prefix. */
export class Network implements AsyncDisposable {
  readonly #prefix: string;
  /** The commands that remove what was made. */
  readonly #removals: { program: string; words: string[] }[] = [];
  /** The clean-up at the end of the process, unless it was done before. */
  readonly #atExit = (): void => {
    for (const { program, words } of this.#removals) {
      try {
        execFileSync(program, words, { stdio: 'ignore' });
      } catch {
        // Gone already.
      }
    }
  };

  constructor(prefix: string) {
    this.#prefix = `${prefix}-${process.pid}`;
    process.on('exit', this.#atExit);
  }

  name(short: string): string {
    return `${this.#prefix}-${short}`;
  }

  path(short: string): string {
    return `/run/netns/${this.name(short)}`;
  }

  async add(...shorts: string[]): Promise<void> {
    for (const short of shorts) {
      await this.#add(short);
      await this.ip(short, 'link', 'set', 'lo', 'up');
    }
  }

  /** As `add`, for a netns that a new user namespace owns, as with pods of `hostUsers: false`; returns the latter's path. */
  async addOwned(short: string): Promise<string> {
    const path = this.path(short);
    const userns = `/run/${this.name(short)}.userns`;
    // `ip` lays out /run/netns, and then one netns takes the place of another.
    await this.#add(short);
    this.#removals.push({ program: TOOLBOX, words: ['netns', `del ${userns}`] });
    await run(TOOLBOX, ['netns', `del ${path}`, `add-user ${path} ${userns}`]);
    return userns;
  }

  async #add(short: string): Promise<void> {
    this.#removals.push({ program: 'ip', words: ['netns', 'del', this.name(short)] });
    await ip('netns', 'add', this.name(short));
  }

  /** `ip` inside a netns. */
  ip(short: string, ...words: string[]): Promise<string> {
    return ip('-netns', this.name(short), ...words);
  }

  /** A veth pair, up and with its addresses usable at once. */
  async connect(a: CableEnd, b: CableEnd): Promise<void> {
    const peer = ['peer', 'name', b.interface, 'netns', this.name(b.netns)];
    await this.ip(a.netns, 'link', 'add', a.interface, 'type', 'veth', ...peer);
    // Up before they get addresses: IPv6 has to find its neighbour at the first attempt, the next is a second later.
    for (const end of [a, b]) await this.ip(end.netns, 'link', 'set', end.interface, 'up');
    for (const end of [a, b]) {
      for (const address of end.addresses) {
        // Without `nodad` an IPv6 address is of no use for a second or two.
        const flags = address.includes(':') ? ['nodad'] : [];
        await this.ip(end.netns, 'address', 'add', address, 'dev', end.interface, ...flags);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { program, words } of this.#removals.splice(0)) await run(program, words).catch(() => {});
    process.off('exit', this.#atExit);
  }
}
