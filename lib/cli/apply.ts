import { Command } from 'commander';
import { type ApplyResult, native, PHASES, type Timings } from '../native/addon.ts';
import { columns, type Io, paint, printJson } from './output.ts';
import {
  addOutputOption,
  addRedirectOptions,
  addTargetOptions,
  type Context,
  familyNames,
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
      'Installs the redirect rules in a network namespace: all of them or none. Rules that stand there already are\n' +
        "left alone, older ones of ours are replaced, and nobody else's are touched. Needs CAP_SYS_ADMIN,\n" +
        'CAP_NET_ADMIN and CAP_NET_RAW. Without flags: what Istio injects by default.',
    )
    .addHelpText(
      'after',
      `
Examples:
  ipnc apply --netns pod                               the netns /run/netns/pod, Istio's defaults
  ipnc apply --pid 1234 -b 8080 -i 10.0.0.0/8,fd00::/8 inbound port 8080, outbound to these networks
  kubectl get pod web -o yaml | ipnc apply --netns /run/netns/cni-1 --pod -

Exit codes: 0 done or nothing to do, 1 failed (nothing is left half done, unless the message says so), 2 usage or
invalid configuration (nothing was touched).`,
    );
  addOutputOption(addRedirectOptions(addTargetOptions(command)));
  command.option('--release', "wake the pod's gate once the rules stand (pod-network-gate)");
  return command.action(async () => {
    const { given, json, io } = readOptions(command, context);
    const { release = false } = command.opts<{ release?: boolean }>();
    const redirect = readRedirect(command, context);
    const located = await locateAndPlan(given, redirect);
    const { target, families, backend, reason, form } = located;
    const compiled = await native().compile(form);
    const result = await compiled.apply(target, { wakeGate: release });
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
    : `${paint(io, 'green', 'nothing to do')}: the rules stand already in ${path} (${what})`;
  const rows = tables.map((table) => ['', tableName(table), table.how]);
  return `${head}\n${columns(rows)}${routes.map((line) => `  ip ${line}\n`).join('')}${phases(io, timings)}`;
}

/** The phases of a job, in microseconds: their names and below them the times. */
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
