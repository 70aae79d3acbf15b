import { Command } from 'commander';
import { native } from '../native/addon.ts';
import { identifyTarget, targetPath } from '../netns/target.ts';
import { phases } from './apply.ts';
import { columns, paint, printJson } from './output.ts';
import { addOutputOption, addTargetOptions, type Context, readOptions, tableName } from './shared.ts';

export function cleanCommand(context: Context): Command {
  const command = new Command('clean')
    .summary('remove the redirect rules and their routes')
    .description(
      "Removes Istio's chains, the jumps to them, the rules with this program's comment, this program's nftables tables,\n" +
        'and the routes, policy rules and addresses that belong to them. It does not matter which configuration made\n' +
        'them. The rules of other programs stay.',
    )
    .addHelpText(
      'after',
      `
Examples:
  ipnc clean --netns pod
  ipnc clean --pid 1234 --output json

Exit codes: 0 done or nothing to do, 1 failed, 2 invalid command line.`,
    );
  addOutputOption(addTargetOptions(command));
  return command.action(async () => {
    const { given, json, io } = readOptions(command, context);
    const { path, dev, ino, cookie } = await identifyTarget(targetPath(given));
    const target = { path, dev, ino, cookie };
    const result = await native().clean(target);
    if (json) {
      printJson(io, { command: 'clean', netns: target, ...result });
    } else if (!result.changed) {
      io.out(`${paint(io, 'green', 'nothing to do')}: no redirect rules are installed in ${path}\n`);
    } else {
      const rows = result.tables.map((table) => ['', tableName(table), table.how]);
      const routes = result.routes.map((line) => `  ip ${line}\n`);
      io.out(
        `${paint(io, 'green', 'removed')}: ${path}\n${columns(rows)}${routes.join('')}${phases(io, result.timings)}`,
      );
    }
  });
}
