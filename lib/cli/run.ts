import { Command } from 'commander';
import { addRunOptions, readConfig, runFlags } from '../config/read.ts';
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
