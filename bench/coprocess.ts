/** A program that answers each line on its standard input with a line on its standard output. */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';

export class Coprocess implements AsyncDisposable {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #waiting: ((answer: string) => void)[] = [];

  constructor(program: string, ...words: string[]) {
    this.#child = spawn(program, words, { stdio: ['pipe', 'pipe', 'inherit'] });
    createInterface({ input: this.#child.stdout }).on('line', (line) => this.#waiting.shift()?.(line));
    this.#child.once('exit', () => {
      for (const answer of this.#waiting.splice(0)) answer('error the program ended');
    });
  }

  /** Answers come in the order of the questions. Throws on an answer that starts with `error`. */
  async ask(line: string): Promise<string> {
    const answer = await new Promise<string>((resolve) => {
      this.#waiting.push(resolve);
      this.#child.stdin.write(`${line}\n`);
    });
    if (answer.startsWith('error')) throw new Error(`${line}: ${answer}`);
    return answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null) return;
    this.#child.stdin.end();
    await once(this.#child, 'exit');
  }
}
