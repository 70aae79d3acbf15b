/** The output of a command: aligned and coloured text for people, or JSON. */
import { readFileSync } from 'node:fs';
import { styleText } from 'node:util';

/** The surroundings of one run of the command line. A test passes its own. */
export interface Io {
  out(text: string): void;
  err(text: string): void;
  /** For output that is too large for memory. */
  stdout: NodeJS.WritableStream;
  /** Whether text for people has colours. */
  colour: boolean;
  environment: Readonly<Record<string, string | undefined>>;
  /** The whole of standard input. */
  readInput(): string;
}

export type Style = 'bold' | 'dim' | 'green' | 'yellow' | 'red' | 'cyan';

/** There are no colours with NO_COLOR (no-color.org), or if standard output is not a terminal. */
export const processIo: Io = {
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
  stdout: process.stdout,
  colour: process.stdout.isTTY === true && (process.env.NO_COLOR ?? '') === '',
  environment: process.env,
  readInput: () => readFileSync(0, 'utf8'),
};

export function paint({ colour }: Pick<Io, 'colour'>, style: Style, text: string): string {
  return colour ? styleText(style, text, { validateStream: false }) : text;
}

/** Prints one JSON document. A bigint becomes a decimal string. */
export function printJson(io: Io, value: unknown): void {
  io.out(`${toJson(value)}\n`);
}

export function toJson(value: unknown): string {
  return JSON.stringify(value, (_, item: unknown) => (typeof item === 'bigint' ? item.toString() : item), 2);
}

/** Aligns the cells of rows, with two blanks between columns. The columns in `right` are aligned on the right. */
export function columns(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [at, cell] of row.entries()) widths[at] = Math.max(widths[at] ?? 0, cell.length);
  }
  return rows
    .map((row) => {
      const cells = row.map((cell, at) => {
        const width = widths[at] ?? 0;
        return right.includes(at) ? cell.padStart(width) : cell.padEnd(width);
      });
      return `${cells.join('  ').trimEnd()}\n`;
    })
    .join('');
}
