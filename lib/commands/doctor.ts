import { Command, Option } from 'commander';
import { type RunOption, runOptions } from '../config/options.ts';
import { type Check, examine } from '../doctor.ts';
import { type Io, paint, printJson } from '../output.ts';
import { addOutputOption, type Context, EXIT, flagsOf, readOptions } from './shared.ts';

export function doctorCommand(context: Context): Command {
  const command = new Command('doctor')
    .summary("what this machine's kernel, capabilities and sockets allow")
    .description('Says what this kernel and this process can do, and the remedy for each lack. Changes nothing.')
    .addHelpText('after', '\nExit codes: 0 nothing essential is missing, 1 something is, 2 usage.');
  const { hostRoot, criSocket } = runOptions;
  for (const option of [hostRoot, criSocket]) {
    const { help, env } = option;
    command.addOption(new Option(flagsOf(option), `${help} (env: ${env[0]})`).helpGroup('As for "run":'));
  }
  addOutputOption(command);
  return command.action(async () => {
    const { given, json, io } = readOptions(command, context);
    const read = <T>(
      { flag, env: [variable], parse }: RunOption<T>,
      word: string | true | undefined,
    ): T | undefined => {
      const text = String(word ?? io.environment[variable] ?? '');
      const field = word === undefined ? `${variable} (environment)` : `--${flag}`;
      return text === '' ? undefined : parse(text, { field, source: 'flag' });
    };
    const root = read(hostRoot, given.hostRoot) ?? '/';
    const checks = await examine({ hostRoot: root === '/' ? '' : root, criSocket: read(criSocket, given.criSocket) });
    const ok = checks.every(({ status }) => status !== 'missing');
    if (json) printJson(io, { command: 'doctor', ok, checks });
    else io.out(text(io, checks));
    if (!ok) context.exit(EXIT.failed);
  });
}

const STYLES = { ok: 'green', warn: 'yellow', missing: 'red' } as const;

function text(io: Io, checks: readonly Check[]): string {
  const width = Math.max(...checks.map(({ name }) => name.length));
  return checks
    .map(({ name, status, detail, remedy }) => {
      const line = `${paint(io, STYLES[status], status.padEnd(7))}  ${name.padEnd(width)}  ${detail}\n`;
      const indent = ' '.repeat(9 + width + 2);
      return remedy === undefined ? line : `${line}${indent}${paint(io, 'dim', `try: ${remedy}`)}\n`;
    })
    .join('');
}
