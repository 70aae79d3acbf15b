/** Network namespaces and the cables between them, and their removal whatever happens. */
import { execFile, execFileSync } from 'node:child_process';
import { promisify } from 'node:util';

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
  readonly #made = new Set<string>();
  /** What the end of the process does if nobody else has. */
  readonly #atExit = (): void => {
    for (const name of this.#made) {
      try {
        execFileSync('ip', ['netns', 'del', name], { stdio: 'ignore' });
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
      this.#made.add(this.name(short));
      await ip('netns', 'add', this.name(short));
      await this.ip(short, 'link', 'set', 'lo', 'up');
    }
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
    for (const name of this.#made) await ip('netns', 'del', name).catch(() => {});
    this.#made.clear();
    process.off('exit', this.#atExit);
  }
}
