/** A shorter piece is joined with the one before it: an object for each byte would take a hundred times its size. */
const SHORT_BYTES = 4096;

/**
 * Bytes that arrive in pieces, taken in lengths that the protocol names. A byte is copied once at most,
 * or a few times if the pieces are short.
 */
export class ByteQueue {
  readonly #pieces: Buffer[] = [];
  #length = 0;

  push(piece: Buffer): void {
    this.#length += piece.length;
    let last = piece;
    // A longer piece is not copied for a short one, so each byte is copied a few times at most.
    for (let before = this.#pieces.at(-1); before !== undefined; before = this.#pieces.at(-1)) {
      if (last.length >= SHORT_BYTES || before.length > last.length) break;
      this.#pieces.pop();
      last = Buffer.concat([before, last]);
    }
    this.#pieces.push(last);
  }

  /** Without taking them. Undefined until there are so many. */
  peek(length: number): Buffer | undefined {
    if (this.#length < length) return undefined;
    const [first] = this.#pieces;
    if (first !== undefined && first.length >= length) return first.subarray(0, length);
    const joined = Buffer.concat(this.#pieces.splice(0));
    this.#pieces.push(joined);
    return joined.subarray(0, length);
  }

  take(length: number): Buffer | undefined {
    const taken = this.peek(length);
    if (taken === undefined) return undefined;
    const [first] = this.#pieces;
    if (first !== undefined && first.length > length) this.#pieces[0] = first.subarray(length);
    else this.#pieces.shift();
    this.#length -= length;
    return taken;
  }
}
