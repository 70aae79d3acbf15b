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
    .summary('the whole path on this machine, no cluster needed')
    .description(
      'Makes a pod (a network namespace with an app and a stand-in for its sidecar) and a client outside of it, shows\n' +
        'who answers whom, installs the rules as "apply" does, and shows it again. Exit code 1 if any connection goes\n' +
        'another way than it should.\n\n' +
        'All of it happens in namespaces of its own, which go with it, even on Ctrl-C. An ordinary user gets a user\n' +
        'namespace.',
    )
    .addOption(new Option('--backend <name>', 'auto, iptables-legacy or nftables (default: auto)'))
    .option('--cluster', 'a real pod on a real node instead; in the project folder only, as root')
    .option('--mesh', 'a real Istio on that node instead; in the project folder only, as root')
    .action(async ({ backend, cluster = false, mesh = false }: Given) => {
      const wanted = readBackend(backend);
      if ((cluster || mesh) && !existsSync(CLUSTER_DEMO)) {
        throw new Failure('ERR_CLUSTER', { detail: "the tests' cluster is not part of what is installed here" });
      }
      const sandbox = await runInSandbox();
      if (sandbox.ran) {
        exit(sandbox.exitCode);
        return;
      }
      if (sandbox.lack !== undefined) throw new Failure('ERR_UNSHARE', { remedy: sandbox.lack });
      // What the demo made goes when the process ends, in whatever way; a signal must only end it in an orderly one.
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
