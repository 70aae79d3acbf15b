/** Bytes that arrive in pieces, taken in lengths that the protocol names. Each byte is copied once at most. */
export class ByteQueue {
  readonly #pieces: Buffer[] = [];
  #length = 0;

  push(piece: Buffer): void {
    this.#pieces.push(piece);
    this.#length += piece.length;
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
