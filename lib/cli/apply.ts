import { Command } from 'commander';
import { type ApplyResult, native, PHASES, type Timings } from '../native/addon.ts';
import { familyNames } from '../ruleset/form-text.ts';
import { columns, type Io, paint, printJson } from './output.ts';
import {
  addOutputOption,
  addRedirectOptions,
  addTargetOptions,
  type Context,
  locateAndPlan,
  type PlannedTarget,
  readOptions,
  readRedirect,
  tableName,
} from './shared.ts';

export function applyCommand(context: Context): Command {
  const command = new Command('apply')
    .summary('install the rules in a network namespace')
    .description(
      'Installs the redirect rules in a network namespace: all of them or none. Keeps rules that are already correct,\n' +
        'replaces rules of an earlier configuration, and does not change the rules of other programs. Needs\n' +
        "CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW. Without flags it installs Istio's default rules.",
    )
    .addHelpText(
      'after',
      `
Examples:
  ipnc apply --netns pod                               Istio's default rules in /run/netns/pod
  ipnc apply --pid 1234 -b 8080 -i 10.0.0.0/8,fd00::/8 capture inbound port 8080, and outbound traffic to two networks
  kubectl get pod web -o yaml | ipnc apply --netns /run/netns/cni-1 --pod -

Exit codes: 0 done or nothing to do, 1 failed (all changes are undone, unless the message says otherwise), 2 invalid
command line or configuration (nothing was changed).`,
    );
  addOutputOption(addRedirectOptions(addTargetOptions(command)));
  command.option('--release', "wake the pod's gate (pod-network-gate) when the rules are installed");
  return command.action(async () => {
    const { given, json, io } = readOptions(command, context);
    const { release = false } = command.opts<{ release?: boolean }>();
    const redirect = readRedirect(command, context);
    const located = await locateAndPlan(given, redirect);
    const { target, families, backend, reason, form } = located;
    const compiled = await native().compile(form);
    const result = await compiled.apply(target, { wakeGate: release });
    if (!json) for (const doubt of result.doubts) io.err(`${paint(io, 'yellow', 'warning:')} ${doubt}\n`);
    if (json) printJson(io, { command: 'apply', netns: target, families, backend, reason, ...result });
    else io.out(text(io, located, result));
  });
}

function text(
  io: Io,
  { target: { path }, families, backend, reason }: PlannedTarget,
  { changed, tables, routes, timings }: ApplyResult,
): string {
  const what = `${familyNames(families)}, ${backend}: ${reason}`;
  const head = changed
    ? `${paint(io, 'green', 'done')}: ${path} (${what})`
    : `${paint(io, 'green', 'nothing to do')}: the rules are already installed in ${path} (${what})`;
  const rows = tables.map((table) => ['', tableName(table), table.how]);
  return `${head}\n${columns(rows)}${routes.map((line) => `  ip ${line}\n`).join('')}${phases(io, timings)}`;
}

/** The phases of a job: a line with their names, and a line with their times in microseconds. */
export function phases(io: Io, timings: Timings): string {
  const rows = [
    ['', 'phase', ...PHASES],
    ['', 'us', ...PHASES.map((name) => timings[name].toFixed(0))],
  ];
  return paint(
    io,
    'dim',
    columns(
      rows,
      PHASES.map((_, at) => at + 2),
    ),
  );
}
