import { Command, Option } from 'commander';
import { runOptionList } from '../config/options.ts';
import { CONFIG_FILE, readConfig } from '../config/read.ts';
import { optionList } from '../istio/options.ts';
import { defaultOf, flagsOf, type RedirectOption } from '../options/option.ts';
import type { Context } from './shared.ts';

export function runCommand({ io, exit }: Context): Command {
  const command = new Command('run')
    .summary('run the controller of a node')
    .description(
      'Watches the pods of its node. For each pod of the mesh it installs the redirect rules as soon as the sandbox of\n' +
        'the pod exists, reads them back, and marks the pod. Later it repairs rules that drift. Runs until SIGTERM. It is\n' +
        'meant for a DaemonSet, and needs only CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW.',
    )
    .addHelpText(
      'after',
      `
Example:
  NODE_NAME=worker-1 ipnc run --kubeconfig admin.conf --enroll istio --resync 1m

Exit codes: 0 ended by SIGTERM or SIGINT, 1 the node lacks something essential, 2 invalid command line or
configuration.`,
    );
  return addRunOptions(command).action(async () => {
    const config = readConfig({ flags: runFlags(command), environment: io.environment });
    // The import is here because loading the API client, gRPC and metrics takes longer than other verbs run.
    const { runNode } = await import('../controller/run.ts');
    exit(await runNode(config));
  });
}

/** Adds the flags of "ipnc run" from the tables of options. */
export function addRunOptions(command: Command): Command {
  const group = 'Configuration (a flag takes precedence over the environment, and the environment over the file):';
  const config = `a YAML file; its keys are these flags without dashes (env: ${CONFIG_FILE.env})`;
  command.addOption(new Option(`--${CONFIG_FILE.flag} <file>`, config).helpGroup(group));
  const add = (option: RedirectOption, group: string) => {
    const initial = `default: ${defaultOf(option) ?? option.initial}`;
    const rest = option.env === undefined ? initial : `${initial}, env: ${option.env[0]}`;
    command.addOption(new Option(flagsOf(option), `${option.help} (${rest})`).helpGroup(group));
  };
  for (const [, option] of runOptionList) add(option, option.group);
  for (const [, option] of optionList) add(option, `Defaults for pods without such a setting. ${option.group}`);
  return command;
}

/** The flags that the command line has, for `readConfig`. */
export function runFlags(command: Command): Map<string, string | true> {
  const values = command.opts<Record<string, string | true | undefined>>();
  const flags = new Map<string, string | true>();
  for (const option of command.options) {
    const value = values[option.attributeName()];
    if (value !== undefined) flags.set(option.name(), value);
  }
  return flags;
}
