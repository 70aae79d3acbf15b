/** Damages samples of input as libFuzzer does, but without looking at the code that is run. */

/** Numbers at which readers of lengths and tags go wrong. */
const EDGES = [0, 1, 2, 3, 4, 7, 8, 0x0a, 0x0b, 0x0c, 0x12, 0x22, 0x5c, 0x7f, 0x80, 0xc0, 0xed, 0xfe, 0xff];

export class Mutator {
  readonly #random: () => number;
  readonly #words: readonly Buffer[];

  /** `random` gives numbers from 0 up to 1. `words` are pieces that a reader knows. */
  constructor(random: () => number, words: readonly (string | Uint8Array)[]) {
    this.#random = random;
    this.#words = words.map((word) => Buffer.from(word));
  }

  /** A damaged sample, or now and then random bytes, of at most `most` bytes. */
  next(samples: readonly Buffer[], most: number): Buffer {
    let bytes = this.#pick(samples) ?? Buffer.alloc(0);
    if (this.#below(20) === 0) bytes = Buffer.from(Array.from({ length: this.#below(64) }, () => this.#below(256)));
    for (let times = this.#below(6) + 1; times > 0; times--) bytes = this.#damage(bytes, samples);
    // A reader must not see what is behind the input.
    return Buffer.from(bytes.subarray(0, most));
  }

  #damage(bytes: Buffer, samples: readonly Buffer[]): Buffer {
    const [at, end] = [this.#below(bytes.length + 1), this.#below(bytes.length + 1)].sort((a, b) => a - b) as [
      number,
      number,
    ];
    const replaced = (from: number, to: number, ...pieces: Uint8Array[]) =>
      Buffer.concat([bytes.subarray(0, from), ...pieces, bytes.subarray(to)]);
    switch (this.#below(8)) {
      case 0:
        return replaced(at, at + 1, Buffer.from([(bytes[at] ?? 0) ^ (1 << this.#below(8))]));
      case 1:
        return replaced(at, at + 1, Buffer.from([this.#pick(EDGES) ?? 0]));
      case 2:
        return replaced(at, at, Buffer.from([this.#below(256)]));
      case 3:
        return replaced(at, end);
      case 4:
        return bytes.subarray(0, at);
      case 5:
        return replaced(at, at, ...Array.from({ length: this.#below(20) }, () => bytes.subarray(at, end)));
      case 6: {
        const other = this.#pick(samples) ?? bytes;
        const from = this.#below(other.length + 1);
        return replaced(at, end, other.subarray(from, from + this.#below(other.length + 1)));
      }
      default:
        return replaced(at, this.#below(2) === 0 ? at : end, this.#pick(this.#words) ?? Buffer.alloc(0));
    }
  }

  #pick<T>(values: readonly T[]): T | undefined {
    return values[this.#below(values.length)];
  }

  #below(limit: number): number {
    return Math.floor(this.#random() * limit);
  }
}
