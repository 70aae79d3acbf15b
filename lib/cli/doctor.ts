import { Command, Option } from 'commander';
import manifest from '../../package.json' with { type: 'json' };
import { readConfig } from '../config/read.ts';
import { collect } from '../observe/bundle.ts';
import { type Check, examine } from '../observe/doctor.ts';
import { type Io, paint, printJson } from './output.ts';
import { addOutputOption, type Context, EXIT, OTHER, readOptions } from './shared.ts';

export function doctorCommand(context: Context): Command {
  const command = new Command('doctor')
    .summary('check the kernel, the capabilities and the sockets of this machine')
    .description(
      'Checks what the kernel and this process support, and names a remedy for each thing that is missing. Changes\n' +
        'nothing.',
    )
    .addHelpText(
      'after',
      `
Examples:
  ipnc doctor
  kubectl -n istio-system exec ds/istio-pod-network-controller -- ipnc doctor --bundle > report.json

Exit codes: 0 nothing essential is missing, 1 something essential is missing, 2 invalid command line.`,
    );
  const bundle =
    'print what a bug report needs, as JSON: versions, checks, pods and metrics of the controller; without secrets, and without names of pods and namespaces';
  addOutputOption(command).addOption(new Option('--bundle', bundle).helpGroup(OTHER));
  return command.action(async () => {
    const { json, io } = readOptions(command, context);
    // In the controller's container the environment has the controller's options. The checks do not use the node's name.
    const config = readConfig({ flags: new Map(), environment: { NODE_NAME: 'node', ...io.environment } });
    const checks = await examine(config, io.environment);
    const ok = checks.every(({ status }) => status !== 'missing');
    if (command.opts<{ bundle?: true }>().bundle) {
      printJson(io, { command: 'bundle', ok, ...(await collect(checks, config, manifest.version)) });
    } else if (json) printJson(io, { command: 'doctor', ok, checks });
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
