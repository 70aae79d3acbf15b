/** Code that several verbs share: their flags, and how the flags become a plan and a target. */
import { readFileSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { ConfigError } from '../errors.ts';
import { foreignFlags } from '../istio/foreign.ts';
import { optionList, options } from '../istio/options.ts';
import { plan } from '../istio/plan.ts';
import { type Pod, readPod } from '../istio/pod.ts';
import { type Redirect, redirect } from '../istio/redirect.ts';
import { environmentSource, flagSource } from '../istio/sources.ts';
import { type Netns, native, type TableResult } from '../native/addon.ts';
import { type BackendChoice, chooseBackend } from '../native/backend.ts';
import { familiesOf } from '../netns/families.ts';
import { identifyTarget, type TargetOptions, targetPath } from '../netns/target.ts';
import { defaultOf, flagsOf } from '../options/option.ts';
import { boolean, choice } from '../options/values.ts';
import { type Backend, type Form, formOf } from '../ruleset/form.ts';
import type { Family } from '../ruleset/model.ts';
import { type Io, paint, toJson } from './output.ts';

export const EXIT = { done: 0, failed: 1, usage: 2, drift: 3 } as const;

/** One run of the command line. A verb sets an exit code other than 0 with `exit`. */
export interface Context {
  io: Io;
  exit(code: number): void;
}

const TARGET = 'Target (exactly one):';
const SOURCE = 'Source (flags take precedence over it):';
export const OTHER = 'Output and help:';

const byAttribute = new Map<string, string>();

export function addRedirectOptions(command: Command): Command {
  const pod = 'a Pod in YAML or JSON, "-" for standard input; without it environment variables apply (docs/cli.md)';
  command.addOption(new Option('--pod <file>', pod).helpGroup(SOURCE));
  for (const [, entry] of optionList) {
    const initial = defaultOf(entry);
    const option = new Option(flagsOf(entry), `${entry.help}${initial === undefined ? '' : ` (default: ${initial})`}`);
    byAttribute.set(option.attributeName(), entry.flag);
    command.addOption(option.helpGroup(entry.group));
  }
  for (const { flag, short, value } of foreignFlags) {
    const flags = `${short === undefined ? '' : `-${short}, `}--${flag}${value ? ' [value]' : ''}`;
    command.addOption(new Option(flags).hideHelp());
  }
  const { group } = options.families;
  const counters = 'whether nftables rules count packets; iptables rules always do (default: true)';
  return command
    .addOption(new Option('--backend <name>', 'auto, iptables-legacy or nftables (default: auto)').helpGroup(group))
    .addOption(new Option('--counters [bool]', counters).helpGroup(group));
}

export function addTargetOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--netns <path>', 'the file of a network namespace, or a name in /run/netns').helpGroup(TARGET),
    )
    .addOption(new Option('--pid <number>', 'a process in the network namespace').helpGroup(TARGET));
}

export function addOutputOption(command: Command): Command {
  return command.addOption(new Option('--output <form>', 'text or json (default: text)').helpGroup(OTHER));
}

export interface CommonOptions extends TargetOptions {
  pod?: string;
  backend?: string;
  counters?: string | true;
  output?: string;
}

/** The redirect settings from flags, environment or Pod, and the backend to use. */
export interface Request extends Redirect {
  backend: 'auto' | Backend;
  counters: boolean;
}

/** The flags that every verb has. Throws ConfigError. */
export function readOptions(command: Command, { io }: Context) {
  const given = command.opts<CommonOptions & Record<string, string | true | undefined>>();
  const json = outputForm(given.output) === 'json';
  return { given, json, io };
}

function outputForm(text = 'text'): 'text' | 'json' {
  return choice('text', 'json')(text, { field: '--output', source: 'flag' });
}

/** Reads the redirect settings, and prints their warnings. Throws ConfigError. */
export function readRedirect(command: Command, { io }: Context): Request {
  const given = command.opts<CommonOptions & Record<string, string | true | undefined>>();
  const flags = new Map<string, string | true>();
  for (const [attribute, value] of Object.entries(given)) {
    const flag = byAttribute.get(attribute);
    if (flag !== undefined && value !== undefined) flags.set(flag, value);
  }
  for (const { flag, short, value, instead } of foreignFlags) {
    const attribute = new Option(`--${flag}${value ? ' [value]' : ''}`).attributeName();
    if (given[attribute] !== undefined) {
      throw new ConfigError(
        `${short === undefined ? '' : `-${short}, `}--${flag}`,
        undefined,
        'not a flag of this program',
        instead,
      );
    }
  }
  const backend = readBackend(given.backend);
  const counters =
    typeof given.counters !== 'string' || boolean(given.counters, { field: '--counters', source: 'flag' });
  const pod = given.pod === undefined ? undefined : podFrom(given.pod, io);
  const found = redirect({
    flags: flagSource(flags),
    environment: pod === undefined ? environmentSource(io.environment) : {},
    ...(pod && { pod }),
  });
  for (const warning of found.warnings) io.err(`${paint(io, 'yellow', 'warning:')} ${warning}\n`);
  return { ...found, backend, counters };
}

export function readBackend(text = 'auto'): 'auto' | Backend {
  return choice('auto', 'iptables-legacy', 'nftables')(text, { field: '--backend', source: 'flag' });
}

/** Which rules to install in which netns, in which form, and why in this form. */
export interface PlannedTarget extends BackendChoice {
  target: Netns;
  families: Family[];
  form: Form;
}

export async function locateAndPlan(
  given: TargetOptions,
  { backend: wanted, counters, ...redirect }: Request,
): Promise<PlannedTarget> {
  const identity = await identifyTarget(targetPath(given));
  const { path, dev, ino, cookie } = identity;
  const target: Netns = { path, dev, ino, cookie };
  const ruleset = plan(redirect.spec, familiesOf(identity, redirect));
  const { backend, reason } = await chooseBackend(wanted, identity, ruleset, () => native().probe());
  return { target, families: ruleset.families, backend, reason, form: formOf(ruleset, backend, { counters }) };
}

/** `IPv4 nat`; `inet nat` for an nftables table of both families. */
export function tableName({ family, table }: Pick<TableResult, 'family' | 'table'>): string {
  return `${family === 'inet' ? family : `IPv${family}`} ${table}`;
}

/** Prints a failure to standard error: one or two lines for people, one JSON document for programs. */
export function printError(io: Io, json: boolean, error: { code: string; message: string; remedy?: string }): void {
  if (json) io.err(`${toJson({ error })}\n`);
  else {
    io.err(`${paint(io, 'red', 'error:')} ${error.message}\n`);
    if (error.remedy !== undefined) io.err(`${paint(io, 'dim', '  try:')} ${error.remedy}\n`);
  }
}

function podFrom(file: string, io: Io): Pod {
  const field = file === '-' ? '--pod' : `--pod ${JSON.stringify(file)}`;
  let text: string;
  try {
    text = file === '-' ? io.readInput() : readFileSync(file, 'utf8');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : String(error);
    throw new ConfigError('--pod', file, `cannot be read (${code})`, 'a file with a Pod, or "-" for standard input');
  }
  return readPod(text, field);
}
