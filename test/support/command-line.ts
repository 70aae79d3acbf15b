/**
 * The command line run in this process, with nothing of this process's environment in it. What it prints as JSON has to be
 * what docs/schemas/ says.
 */

import { Writable } from 'node:stream';
import { Command } from 'commander';
import type { Io } from '../../lib/cli/output.ts';
import { addRedirectOptions, readRedirect } from '../../lib/cli/shared.ts';
import { plan } from '../../lib/istio/plan.ts';
import { run } from '../../lib/main.ts';
import type { Ruleset } from '../../lib/ruleset/model.ts';
import { checkDocument } from './schemas.ts';

export interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
}

export async function ipnc(
  words: readonly string[],
  { environment = {}, input = '' }: { environment?: Record<string, string>; input?: string } = {},
): Promise<Outcome> {
  const { io, outcome } = recorded(environment, input);
  outcome.code = await run(words, io);
  if (/ --output[ =]json( |$)/.test(` ${words.join(' ')}`)) {
    if (outcome.stdout.startsWith('{')) checkDocument(JSON.parse(outcome.stdout));
    // One document for each error of a configuration; warnings are text.
    for (const [document] of outcome.stderr.matchAll(/^\{$.*?^\}$/gms)) checkDocument(JSON.parse(document));
  }
  return outcome;
}

/** The plan of redirect flags, before it gets the form of a backend. Both families, unless the flags name others. */
export function rulesetOf(flags: readonly string[]): Ruleset {
  const { io } = recorded({}, '');
  const command = addRedirectOptions(new Command())
    .exitOverride()
    .parse([...flags], { from: 'user' });
  const { spec, families } = readRedirect(command, { io, exit: () => {} });
  return plan(spec, families === 'auto' ? [4, 6] : families);
}

function recorded(environment: Record<string, string>, input: string): { io: Io; outcome: Outcome } {
  const outcome: Outcome = { code: -1, stdout: '', stderr: '' };
  const io: Io = {
    out: (text) => {
      outcome.stdout += text;
    },
    err: (text) => {
      outcome.stderr += text;
    },
    stdout: new Writable({
      write(chunk: Buffer, _, done) {
        outcome.stdout += chunk;
        done();
      },
    }),
    colour: false,
    environment,
    readInput: () => input,
  };
  return { io, outcome };
}
