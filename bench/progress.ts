/** A line that says how far a run is and how long it will still take. Only for a terminal. */

export interface Part {
  name: string;
  /** As planned. */
  seconds: number;
}

const WIDTH = 24;

export class Progress {
  readonly #parts: readonly Part[];
  readonly #out: Pick<NodeJS.WriteStream, 'write' | 'isTTY'>;
  #began = performance.now();
  #at = 0;
  #last = 0;

  constructor(parts: readonly Part[], out: Pick<NodeJS.WriteStream, 'write' | 'isTTY'> = process.stderr) {
    this.#parts = parts;
    this.#out = out;
  }

  start(name: string): void {
    this.#at = this.#parts.findIndex((part) => part.name === name);
    this.#began = performance.now();
    this.update(0);
  }

  /** The share of the current part, 0 to 1. */
  update(share: number): void {
    const now = performance.now();
    if (!this.#out.isTTY || (share > 0 && now - this.#last < 100)) return;
    this.#last = now;
    this.#out.write(`\r\x1b[K${this.line(share, (now - this.#began) / 1000)}`);
  }

  /** Before anything else is printed. */
  clear(): void {
    if (this.#out.isTTY) this.#out.write('\r\x1b[K');
  }

  line(share: number, elapsed: number): string {
    const seconds = (parts: readonly Part[]) => parts.reduce((sum, part) => sum + part.seconds, 0);
    const current = this.#parts[this.#at];
    // The plan, until what is done tells better.
    const left =
      share > 0.1 ? (elapsed / share) * (1 - share) : Math.max(0, (current?.seconds ?? 0) * (1 - share) - elapsed);
    const whole = seconds(this.#parts);
    const done = (seconds(this.#parts.slice(0, this.#at)) + share * (current?.seconds ?? 0)) / (whole || 1);
    const filled = Math.round(done * WIDTH);
    const bar = `${'█'.repeat(filled)}${'░'.repeat(WIDTH - filled)}`;
    const remaining = clock(left + seconds(this.#parts.slice(this.#at + 1)));
    return `${bar} ${String(Math.round(100 * done)).padStart(3)} %  ${remaining} left  ${current?.name ?? ''}`;
  }
}

/** `1:05` */
function clock(seconds: number): string {
  const whole = Math.ceil(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, '0')}`;
}
