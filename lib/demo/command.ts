import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { Command, Option } from 'commander';
import { type Context, readBackend } from '../cli/shared.ts';
import { Failure } from '../errors.ts';
import { demo } from './demo.ts';
import { runInSandbox } from './userns.ts';

/** Beside the tests, whose cluster they show. As URLs they are no imports that a bundle would follow. */
const CLUSTER_DEMO = new URL('../../test/cluster/demo.ts', import.meta.url);
const MESH_DEMO = new URL('../../test/mesh/demo.ts', import.meta.url);

interface Given {
  backend?: string;
  cluster?: boolean;
  mesh?: boolean;
}

export function demoCommand({ io, exit }: Context): Command {
  return new Command('demo')
    .summary('show how it works on this machine; needs no cluster')
    .description(
      'Creates a pod (a network namespace with an app and a stand-in for its sidecar) and a client outside of the pod.\n' +
        'Shows which program answers each connection, installs the rules with the code of "apply", and shows the\n' +
        'connections again. Exit code 1 if a connection has an unexpected result.\n\n' +
        'It runs in its own namespaces, which are removed at its end, even after Ctrl-C. An ordinary user gets a user\n' +
        'namespace.',
    )
    .addOption(new Option('--backend <name>', 'auto, iptables-legacy or nftables (default: auto)'))
    .option('--cluster', 'show a real pod on a real node; only in the project folder, as root')
    .option('--mesh', 'show pods of a real Istio on that node; only in the project folder, as root')
    .action(async ({ backend, cluster = false, mesh = false }: Given) => {
      const wanted = readBackend(backend);
      if ((cluster || mesh) && !existsSync(CLUSTER_DEMO)) {
        throw new Failure('ERR_CLUSTER', { detail: "the tests' cluster is not part of this installation" });
      }
      const sandbox = await runInSandbox();
      if (sandbox.ran) {
        exit(sandbox.exitCode);
        return;
      }
      if (sandbox.lack !== undefined) throw new Failure('ERR_UNSHARE', { remedy: sandbox.lack });
      // The demo's namespaces are removed when the process exits, so a signal must end it with process.exit().
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
        process.on(signal, () => process.exit(128 + constants.signals[signal]));
      }
      if (mesh) {
        const { meshDemo } = (await import(MESH_DEMO.href)) as { meshDemo: typeof demo };
        await meshDemo(io, wanted);
      } else if (cluster) {
        const { clusterDemo } = (await import(CLUSTER_DEMO.href)) as { clusterDemo: typeof demo };
        await clusterDemo(io, wanted);
      } else {
        await demo(io, wanted);
      }
    });
}
