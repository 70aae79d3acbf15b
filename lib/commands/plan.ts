import { Command, Option } from 'commander';
import { printJson } from '../output.ts';
import { choice } from '../redirect/values.ts';
import { iptablesText, routeLines } from '../ruleset/iptables.ts';
import type { Ruleset } from '../ruleset/model.ts';
import { plan } from '../ruleset/plan.ts';
import { addOutputOption, addRedirectOptions, type Context, OTHER, readOptions, readRedirect } from './shared.ts';

const RESTORE = { 4: 'iptables-legacy-restore --noflush', 6: 'ip6tables-legacy-restore --noflush' } as const;

export function planCommand(context: Context): Command {
  const command = new Command('plan')
    .summary('print the rules, touch nothing')
    .description(
      'Prints the rules that "apply" would install, and touches nothing: no privilege is needed.\n' +
        'There is no netns to look at, so --ip-families auto means both families.',
    )
    .addOption(
      new Option(
        '--format <form>',
        'iptables or json; --output json is the same as json (default: iptables)',
      ).helpGroup(OTHER),
    )
    .addHelpText(
      'after',
      `
Examples:
  ipnc plan                                            what Istio injects by default
  ipnc plan -m TPROXY -b 8080,9000-9100 --redirect-dns --capture-all-dns
  kubectl get pod web -o yaml | ipnc plan --pod -      what this pod would get
  ipnc plan --ip-families 4 | iptables-legacy-restore --noflush --test

Exit codes: 0 printed, 2 usage or invalid configuration.`,
    );
  addOutputOption(addRedirectOptions(command));
  return command.action((options: { format?: string }) => {
    const { json } = readOptions(command, context);
    const form = choice('iptables', 'json')(options.format ?? 'iptables', { field: '--format', source: 'flag' });
    const { spec, families } = readRedirect(command, context);
    const ruleset = plan(spec, families === 'auto' ? [4, 6] : families);
    if (json || form === 'json') printJson(context.io, { command: 'plan', spec, ruleset });
    else context.io.out(text(ruleset));
  });
}

/** Comments are what iptables-restore passes over, so that each family's part can be fed to it as it is. */
function text(ruleset: Ruleset): string {
  const parts = ruleset.families.map((family) => {
    const rules = iptablesText(ruleset, family);
    return rules === '' ? `# IPv${family}: no rules\n` : `# IPv${family}: ${RESTORE[family]}\n${rules}`;
  });
  const routes = routeLines(ruleset).map((line) => `# ip ${line}\n`);
  return [...parts, ...(routes.length === 0 ? [] : [['# routes\n', ...routes].join('')])].join('\n');
}
