/** A program that answers each line on its standard input with a line on its standard output. */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';

export class Coprocess implements AsyncDisposable {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #waiting: ((answer: string) => void)[] = [];
  /** What every question is answered with from then on. */
  #ended: string | undefined;

  constructor(program: string, ...words: string[]) {
    this.#child = spawn(program, words, { stdio: ['pipe', 'pipe', 'inherit'] });
    createInterface({ input: this.#child.stdout }).on('line', (line) => this.#waiting.shift()?.(line));
    const end = (reason: string) => {
      this.#ended = `error ${reason}`;
      for (const answer of this.#waiting.splice(0)) answer(this.#ended);
    };
    this.#child.once('error', ({ message }) => end(message));
    this.#child.once('exit', () => end('the program ended'));
    // That is how its end may be noticed first.
    this.#child.stdin.on('error', () => {});
  }

  /** Answers come in the order of the questions. Throws on an answer that starts with `error`. */
  async ask(line: string): Promise<string> {
    const answer =
      this.#ended ??
      (await new Promise<string>((resolve) => {
        this.#waiting.push(resolve);
        this.#child.stdin.write(`${line}\n`);
      }));
    if (answer.startsWith('error')) throw new Error(`${line}: ${answer}`);
    return answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#ended !== undefined) return;
    this.#child.stdin.end();
    await once(this.#child, 'exit');
  }
}
