import { Command } from 'commander';
import { printable } from '../errors.ts';
import { native } from '../native/addon.ts';
import { type DiffSection, diff, heading } from '../ruleset/diff.ts';
import { familyNames } from '../ruleset/form-text.ts';
import { type Io, paint, printJson } from './output.ts';
import {
  addOutputOption,
  addRedirectOptions,
  addTargetOptions,
  type Context,
  EXIT,
  locateAndPlan,
  readOptions,
  readRedirect,
} from './shared.ts';

export function verifyCommand(context: Context): Command {
  const command = new Command('verify')
    .summary('compare the installed rules with the planned rules')
    .description(
      'Reads rules, routes and addresses from the kernel, and compares them one by one and in order with those that\n' +
        '"apply" would install with the same flags. Prints drift as a diff in the syntax of iptables-save or nft: "-" marks\n' +
        'what is missing, "+" marks what is surplus. Also lists rules of other programs that let traffic bypass the proxy.\n' +
        'Changes nothing, and needs the same capabilities as "apply".',
    )
    .addHelpText(
      'after',
      `
Examples:
  ipnc verify --netns pod
  kubectl get pod web -o yaml | ipnc verify --pid 1234 --pod - --output json

Exit codes: 0 no drift, 1 failed, 2 invalid command line or configuration, 3 drift.`,
    );
  addOutputOption(addRedirectOptions(addTargetOptions(command)));
  return command.action(async () => {
    const { given, json, io } = readOptions(command, context);
    const redirect = readRedirect(command, context);
    const { target, families, backend, reason, form } = await locateAndPlan(given, redirect);
    const compiled = await native().compile(form);
    const verified = await compiled.verify(target);
    const { ahead, doubts, routes, timings } = verified;
    const ok = verified.ok && ahead.length === 0 && doubts.length === 0;
    const drift = diff(form, verified);
    const what = `${familyNames(families)}, ${backend}: ${reason}`;
    if (json) {
      const outcome = { ok, drift, ahead, doubts, routes, timings };
      printJson(io, { command: 'verify', netns: target, families, backend, reason, ...outcome });
    } else if (ok) {
      io.out(`${paint(io, 'green', 'ok')}: the installed rules in ${target.path} are as planned (${what})\n`);
    } else {
      io.out(`${paint(io, 'red', 'drift')}: ${target.path} (${what})\n`);
      for (const section of drift) io.out(text(io, section));
      if (ahead.length > 0) {
        const lines = ahead.map((line) => ` ${printable(line)}\n`);
        io.out(
          `${paint(io, 'bold', '# rules of other programs that let traffic bypass the proxy')}\n${lines.join('')}`,
        );
      }
      for (const doubt of doubts)
        io.out(`${paint(io, 'bold', '# why the rules do not work in this pod')}\n ${doubt}\n`);
    }
    if (!ok) context.exit(EXIT.drift);
  });
}

const STYLES = { '-': 'red', '+': 'green', ' ': 'dim' } as const;

function text(io: Io, section: DiffSection): string {
  const lines = section.lines.map((line) => {
    const style = STYLES[line[0] as keyof typeof STYLES] ?? 'dim';
    return `${paint(io, style, printable(line))}\n`;
  });
  const hidden = section.lines.every((line) => line.startsWith(' '));
  if (hidden) lines.push(' (the rules are equal, but written in another form or at another place)\n');
  return `${paint(io, 'bold', heading(section))}\n${lines.join('')}`;
}
