import { accessSync, constants, existsSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { Failure } from '../errors.ts';
import { ROOT } from '../root.ts';
import type { Context } from './shared.ts';

const GATE = join(ROOT, 'build/Release/gate');

export function initCommand({ io }: Context): Command {
  return new Command('init')
    .summary('run the gate')
    .description(
      'Runs the gate (pod-network-gate), which waits in a pod until its redirect rules are active. The verb exists\n' +
        'because the older project of the same name had it. The gate gets all arguments unchanged; docs/gate.md lists\n' +
        'them. In a new pod, run pod-network-gate itself, which needs no Node.js.',
    )
    .argument('[words...]', 'flags of the gate; after the word "istio-iptables", flags of istio-iptables')
    .allowUnknownOption()
    .addHelpText(
      'after',
      `
Example:
  ipnc init --timeout 5m istio-iptables -p 15001 -z 15006 -u 1337

Exit codes: 0 the rules are active, 126 they are not active in time, 1 invalid configuration or a failed install,
2 invalid command line, 128 + n ended by signal n.`,
    )
    .action((words: string[]) => {
      if (!existsSync(GATE)) throw new Failure('ERR_NOT_BUILT', { subject: 'the gate' });
      // If process.execve failed, it would end this process with a core dump.
      accessSync(GATE, constants.X_OK);
      process.execve?.(GATE, ['pod-network-gate', ...words], { ...io.environment });
    });
}
