import { Command, Option } from 'commander';
import { runOptionList } from '../config/options.ts';
import { CONFIG_FILE, readConfig } from '../config/read.ts';
import { optionList } from '../istio/options.ts';
import { defaultOf, flagsOf, type RedirectOption } from '../options/option.ts';
import type { Context } from './shared.ts';

export function runCommand({ io, exit }: Context): Command {
  const command = new Command('run')
    .summary("the node's controller")
    .description(
      'Watches the pods of its node, and for each that belongs to the mesh installs the redirect rules in its network\n' +
        'namespace as soon as its sandbox is there, reads them back, marks the pod, and keeps it so. Runs until SIGTERM.\n' +
        'Meant for a DaemonSet; needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW, and no other.',
    )
    .addHelpText(
      'after',
      `
Example:
  NODE_NAME=worker-1 ipnc run --kubeconfig admin.conf --enroll istio --resync 1m

Exit codes: 0 ended by SIGTERM or SIGINT, 1 this node cannot do it, 2 usage or invalid configuration.`,
    );
  return addRunOptions(command).action(async () => {
    const config = readConfig({ flags: runFlags(command), environment: io.environment });
    // Only here: an API client, gRPC and metrics take longer to load than any other verb to run.
    const { runNode } = await import('../controller/run.ts');
    exit(await runNode(config));
  });
}

/** The flags of "ipnc run", from the tables of options. */
export function addRunOptions(command: Command): Command {
  const group = 'Configuration (flags go before the environment, and that before the file):';
  const config = `YAML, its keys these flags without dashes (env: ${CONFIG_FILE.env})`;
  command.addOption(new Option(`--${CONFIG_FILE.flag} <file>`, config).helpGroup(group));
  const add = (option: RedirectOption, group: string) => {
    const initial = `default: ${defaultOf(option) ?? option.initial}`;
    const rest = option.env === undefined ? initial : `${initial}, env: ${option.env[0]}`;
    command.addOption(new Option(flagsOf(option), `${option.help} (${rest})`).helpGroup(group));
  };
  for (const [, option] of runOptionList) add(option, option.group);
  for (const [, option] of optionList) add(option, `For pods that say nothing of it. ${option.group}`);
  return command;
}

/** What stood on the command line, for `readConfig`. */
export function runFlags(command: Command): Map<string, string | true> {
  const values = command.opts<Record<string, string | true | undefined>>();
  const flags = new Map<string, string | true>();
  for (const option of command.options) {
    const value = values[option.attributeName()];
    if (value !== undefined) flags.set(option.name(), value);
  }
  return flags;
}
