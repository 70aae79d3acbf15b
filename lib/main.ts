#!/usr/bin/env node
/** The command line. Each verb has a file in cli/. */
import { Command, CommanderError, Option } from 'commander';
import manifest from '../package.json' with { type: 'json' };
import { applyCommand } from './cli/apply.ts';
import { cleanCommand } from './cli/clean.ts';
import { doctorCommand } from './cli/doctor.ts';
import { initCommand } from './cli/init.ts';
import { inspectCommand } from './cli/inspect.ts';
import { type Io, processIo } from './cli/output.ts';
import { planCommand } from './cli/plan.ts';
import { runCommand } from './cli/run.ts';
import { type Context, EXIT, OTHER, printError } from './cli/shared.ts';
import { verifyCommand } from './cli/verify.ts';

import { demoCommand } from './demo/command.ts';
import { asFailure, ConfigError, ConfigErrors } from './errors.ts';

/** Enough for a message and a suggestion; an error does not repeat an argument of a megabyte. */
const MESSAGE_LIMIT = 400;

/** Wide enough for the longest flag and a few words; narrower terminals break the lines themselves. */
const HELP_WIDTH = 120;

export async function run(words: readonly string[], io: Io = processIo): Promise<number> {
  let code: number = EXIT.done;
  const json = words.some((word, at) => word === '--output=json' || (word === '--output' && words[at + 1] === 'json'));
  const context: Context = {
    io,
    exit: (value) => {
      code = value;
    },
  };
  try {
    await program(context, json).parseAsync([...words], { from: 'user' });
    return code;
  } catch (error) {
    return fail(error, io, json);
  }
}

function program(context: Context, json: boolean): Command {
  const { io } = context;
  const program = new Command('ipnc')
    .description(
      "Installs a service mesh's redirect rules in the network namespaces of pods. It runs no other program, and pods\n" +
        'need no privilege.',
    )
    .version(manifest.version, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help; each verb has its own help')
    .helpCommand('help [verb]', 'print the help of a verb')
    .addHelpText(
      'after',
      `
Examples:
  ipnc doctor                        check what this machine supports
  ipnc demo                          show how it works; needs no cluster
  ipnc plan                          print Istio's default rules
  ipnc apply --netns pod             install them in /run/netns/pod

Exit codes: 0 done or nothing to do, 1 failed (all changes are undone, unless the message says otherwise), 2 invalid
command line or configuration (nothing was changed), 3 drift ("verify").`,
    )
    .exitOverride()
    .configureOutput({
      writeOut: (text) => io.out(text),
      writeErr: (text) => io.err(text),
      outputError: (text) => printError(io, json, { code: 'ERR_USAGE', message: message(text) }),
      getOutHasColors: () => io.colour,
      getOutHelpWidth: () => HELP_WIDTH,
      getErrHelpWidth: () => HELP_WIDTH,
    });
  program.hook('preAction', (_, verb) => {
    const [excess] = verb.args;
    if (excess !== undefined && verb.registeredArguments.length === 0) {
      const expected = `flags only, see "ipnc ${verb.name()} --help"`;
      throw new ConfigError('argument', excess, `"${verb.name()}" takes no arguments`, expected);
    }
  });
  const verbs = [runCommand, planCommand, applyCommand, verifyCommand, cleanCommand, doctorCommand, demoCommand];
  for (const verb of [...verbs, inspectCommand, initCommand]) {
    program.addCommand(
      verb(context)
        .copyInheritedSettings(program)
        .allowExcessArguments()
        .addHelpOption(new Option('-h, --help', 'print this help').helpGroup(OTHER)),
    );
  }
  return program;
}

function fail(error: unknown, io: Io, json: boolean): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.usage;
  if (error instanceof ConfigError) {
    const { code, field, value, wrong, expected } = error;
    const shownValue = value === undefined ? {} : { value: value.slice(0, MESSAGE_LIMIT) };
    printError(io, json, { code, message: error.message, ...(json && { field, ...shownValue, wrong, expected }) });
    return EXIT.usage;
  }
  if (error instanceof ConfigErrors) {
    for (const each of error.errors) fail(each, io, json);
    return EXIT.usage;
  }
  const { code, message, remedy } = asFailure(error);
  printError(io, json, { code, message, remedy });
  return EXIT.failed;
}

/** Makes a message of commander printable, because it repeats arguments unchanged. */
function message(text: string): string {
  const line = text.replace(/^error: /, '').trimEnd();
  const plain = line.replace(/[^\P{Cc}\n]|\p{Cf}/gu, '?');
  return plain.length > MESSAGE_LIMIT ? `${plain.slice(0, MESSAGE_LIMIT)}...` : plain;
}

if (import.meta.main) {
  // The reader of the pipe may close it early: `ipnc plan | head`.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit(EXIT.failed);
  });
  const code = await run(process.argv.slice(2));
  if (code !== EXIT.done) process.exitCode = code;
}
