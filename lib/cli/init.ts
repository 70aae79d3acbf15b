import { accessSync, constants, existsSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { Failure } from '../errors.ts';
import { ROOT } from '../root.ts';
import type { Context } from './shared.ts';

const GATE = join(ROOT, 'build/Release/gate');

export function initCommand({ io }: Context): Command {
  return new Command('init')
    .summary('runs the gate')
    .description(
      "The original controller's verb: becomes the gate (pod-network-gate), which waits in a pod until its redirect rules\n" +
        'are real. All words are handed to it as they are; docs/gate.md has them. A pod does better to run the gate\n' +
        'itself, which needs no Node.',
    )
    .argument('[words...]', "the gate's flags, and istio-iptables' own after that word")
    .allowUnknownOption()
    .addHelpText(
      'after',
      `
Example:
  ipnc init --timeout 5m istio-iptables -p 15001 -z 15006 -u 1337

Exit codes: 0 open, 126 not redirected in time, 1 configuration or refused, 2 usage, 128 + n ended by signal n.`,
    )
    .action((words: string[]) => {
      if (!existsSync(GATE)) throw new Failure('ERR_NOT_BUILT', { subject: 'the gate' });
      // A process.execve that fails ends this process with a core dump.
      accessSync(GATE, constants.X_OK);
      process.execve?.(GATE, ['pod-network-gate', ...words], { ...io.environment });
    });
}
