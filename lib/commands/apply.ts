import { Command } from 'commander';
import { type ApplyResult, native, type Timings } from '../native.ts';
import { explain } from '../netns/errors.ts';
import { columns, type Io, paint, printJson } from '../output.ts';
import type { Ruleset } from '../ruleset/model.ts';
import {
  addOutputOption,
  addRedirectOptions,
  addTargetOptions,
  type Context,
  familyNames,
  locateAndPlan,
  readOptions,
  readRedirect,
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

Exit codes: 0 done or nothing to do, 1 failed and nothing left half done, 2 usage or invalid configuration and
nothing touched.`,
    );
  addOutputOption(addRedirectOptions(addTargetOptions(command)));
  return command.action(async () => {
    const { given, json, io } = readOptions(command, context);
    const redirect = readRedirect(command, context);
    const { target, ruleset } = await locateAndPlan(given, redirect);
    try {
      const compiled = await native().compile(ruleset, redirect.backend);
      const result = await compiled.apply(target);
      const { families } = ruleset;
      if (json) printJson(io, { command: 'apply', netns: target, families, ...result });
      else io.out(text(io, target.path, ruleset, result));
    } catch (error) {
      throw explain(error, target.path);
    }
  });
}

function text(
  io: Io,
  path: string,
  { families }: Ruleset,
  { backend, changed, tables, routes, timings }: ApplyResult,
): string {
  const head = changed
    ? `${paint(io, 'green', 'done')}: ${path}, ${familyNames(families)}, ${backend}`
    : `${paint(io, 'green', 'nothing to do')}: the rules stand already in ${path} (${familyNames(families)}, ${backend})`;
  const rows = tables.map(({ family, table, how }) => ['', `IPv${family} ${table}`, how]);
  return `${head}\n${columns(rows)}${routes.map((line) => `  ip ${line}\n`).join('')}${phases(io, timings)}`;
}

/** The phases of a job, one line: `  us: queue 4, enter 3, ...`. */
export function phases(io: Io, timings: Timings): string {
  const { queue, enter, v4, v6, routes, verify, total } = timings;
  const names = ['queue', 'enter', 'v4', 'v6', 'routes', 'verify', 'total'];
  const values = [queue, enter, v4, v6, routes, verify, total].map((value) => value.toFixed(0));
  const rows = [
    ['', 'phase', ...names],
    ['', 'us', ...values],
  ];
  return paint(io, 'dim', columns(rows, [2, 3, 4, 5, 6, 7, 8]));
}
