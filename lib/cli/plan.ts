import { Command, Option } from 'commander';
import { plan } from '../istio/plan.ts';
import { choice } from '../options/values.ts';
import { type Backend, formOf } from '../ruleset/form.ts';
import { formTexts } from '../ruleset/form-text.ts';
import { printJson } from './output.ts';
import { addOutputOption, addRedirectOptions, type Context, OTHER, readOptions, readRedirect } from './shared.ts';

export function planCommand(context: Context): Command {
  const command = new Command('plan')
    .summary('print the rules, change nothing')
    .description(
      'Prints the rules that "apply" would install. It changes nothing and needs no privilege. It reads no network\n' +
        'namespace, so --ip-families auto means both families.',
    )
    .addOption(
      new Option(
        '--format <form>',
        'iptables, nftables or json; --output json means json (default: nftables with --backend nftables, otherwise iptables)',
      ).helpGroup(OTHER),
    )
    .addHelpText(
      'after',
      `
Examples:
  ipnc plan                                            Istio's default rules
  ipnc plan -m TPROXY -b 8080,9000-9100 --redirect-dns --capture-all-dns
  kubectl get pod web -o yaml | ipnc plan --pod -      the rules for this pod
  ipnc plan --ip-families 4 | iptables-legacy-restore --noflush --test
  ipnc plan --format nftables | nft --check -f -

Exit codes: 0 printed, 2 invalid command line or configuration.`,
    );
  addOutputOption(addRedirectOptions(command));
  return command.action((options: { format?: string }) => {
    const { json } = readOptions(command, context);
    const { spec, families, backend, counters } = readRedirect(command, context);
    const usual = backend === 'nftables' ? 'nftables' : 'iptables';
    const format = choice(
      'iptables',
      'nftables',
      'json',
    )(options.format ?? usual, { field: '--format', source: 'flag' });
    const asJson = json || format === 'json';
    const shown: Backend = (asJson ? usual : format) === 'nftables' ? 'nftables' : 'iptables-legacy';
    const form = formOf(plan(spec, families === 'auto' ? [4, 6] : families), shown, { counters });
    if (asJson) printJson(context.io, { command: 'plan', spec, ...form });
    else context.io.out(formTexts(form).join('\n'));
  });
}
