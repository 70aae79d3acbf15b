/** `npm run cluster`: a cluster to play with, until Ctrl-C. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { delimiter, dirname } from 'node:path';
import { parseArgs, styleText } from 'node:util';
import { ECHO } from '../mesh/images.ts';
import { PRIVILEGED, RESTRICTED, startMesh } from '../mesh/mesh.ts';
import { prepareMesh } from '../mesh/programs.ts';
import { type ControlPlane, startControlPlane } from './control-plane.ts';
import { type ImageName, images } from './images/images.ts';
import { startNode } from './node.ts';
import { prepareCluster } from './programs.ts';
import { networkNamespaceLack } from './sandbox/sandbox.ts';

const HELP = `Runs a real Kubernetes on this machine until Ctrl-C.

  npm run cluster                          a control plane and a node
  npm run cluster -- --nodes 2             the number of nodes; 0 for a control plane without a node
  npm run cluster -- --image toolbox,istio-pod-network-controller
                                           the images on the nodes, in addition to pause (default: toolbox):
                                           ${Object.keys(images).join(', ')}
  npm run cluster -- --mesh                adds Istio: istiod, its injector and Envoy
  npm run cluster -- -- kubectl get pods   runs a command in the cluster, then stops the cluster

It needs root. The first time it installs Debian packages and builds Kubernetes in about eleven minutes, and with --mesh
Istio in about eight more.`;

const MESH = `
Pods in ${RESTRICTED} and ${PRIVILEGED} are injected, and ${RESTRICTED} enforces Pod Security "restricted". This node has Istio's echo
server and client as the image ${ECHO}:

  kubectl run -n ${PRIVILEGED} web --image=${ECHO} --image-pull-policy=Never -- --port 8080
  kubectl exec -n ${PRIVILEGED} web -c web -- /client http://$(kubectl get pod -n ${PRIVILEGED} web -o jsonpath={.status.podIP}):8080/

To give istiod other values, in a file FILE:

  helm upgrade istiod "$ISTIOD_CHART" -n istio-system --reuse-values -f FILE
`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    help: { type: 'boolean', short: 'h' },
    nodes: { type: 'string', default: '1' },
    image: { type: 'string', default: 'toolbox' },
    mesh: { type: 'boolean', default: false },
  },
});
const names = values.image.split(',').filter(Boolean);
const wrong = wrongArgument();
if (values.help) console.log(HELP);
else if (wrong !== undefined) {
  console.error(styleText('red', wrong));
  process.exitCode = 2;
} else process.exitCode = await main(names as ImageName[]);

function wrongArgument(): string | undefined {
  const unknown = names.find((name) => !Object.hasOwn(images, name));
  if (unknown !== undefined)
    return `--image: "${unknown}" is no image; expected some of ${Object.keys(images).join(', ')}`;
  if (!/^\d{1,2}$/.test(values.nodes)) return `--nodes: "${values.nodes}": expected a number from 0 to 99`;
  return undefined;
}

async function main(names: ImageName[]): Promise<number> {
  const stopped = Promise.race([once(process, 'SIGINT'), once(process, 'SIGTERM'), once(process, 'SIGHUP')]);
  const lack = networkNamespaceLack();
  if (lack !== undefined) {
    console.error(styleText('red', lack));
    return 1;
  }
  try {
    await (values.mesh ? prepareMesh() : prepareCluster());
  } catch (error) {
    console.error(styleText('red', (error as Error).message));
    return 1;
  }
  const began = performance.now();
  const { controlPlane, logs, istiodChart } = await (values.mesh ? startWithMesh(names) : start(names));
  try {
    progress('total', performance.now() - began);
    if (positionals.length > 0) return await runCommand(controlPlane, positionals);
    const chart = istiodChart === undefined ? '' : ` ISTIOD_CHART=${istiodChart}`;
    console.log(`
In another shell:

  export KUBECONFIG=${controlPlane.kubeconfig} PATH=${dirname(controlPlane.programs.path('kubectl'))}:$PATH${chart}
  kubectl get nodes,pods -A
${values.mesh ? MESH : ''}
Logs are in ${logs.join(' and ')}. Ctrl-C stops the cluster and removes all of its files.`);
    const alive = setInterval(() => {}, 60_000);
    await stopped;
    clearInterval(alive);
    return 0;
  } finally {
    const stopping = performance.now();
    await controlPlane.stop();
    progress('stopped', performance.now() - stopping);
  }
}

interface Started {
  controlPlane: ControlPlane;
  /** Folders. */
  logs: string[];
  /** A folder. */
  istiodChart?: string;
}

async function start(names: ImageName[]): Promise<Started> {
  const controlPlane = await startControlPlane({ controllers: true, progress });
  try {
    const logs = [controlPlane.sandbox.folder];
    for (let left = Number(values.nodes); left > 0; left--) {
      logs.push((await startNode(controlPlane, { images: names, progress })).sandbox.folder);
    }
    return { controlPlane, logs };
  } catch (error) {
    await controlPlane.stop();
    throw error;
  }
}

/** The mesh has a node of its own, in which istiod runs. */
async function startWithMesh(names: ImageName[]): Promise<Started> {
  const mesh = await startMesh({ images: names, progress });
  const { controlPlane, node } = mesh.cluster;
  try {
    const logs = [controlPlane.sandbox.folder, node.sandbox.folder];
    for (let left = Number(values.nodes) - 1; left > 0; left--) {
      logs.push((await mesh.addNode({ images: names, progress })).sandbox.folder);
    }
    return { controlPlane, logs, istiodChart: mesh.istiodChart };
  } catch (error) {
    await mesh.stop();
    throw error;
  }
}

function progress(part: string, ms: number): void {
  console.error(styleText('dim', `${(ms / 1000).toFixed(1).padStart(6)} s  ${part}`));
}

async function runCommand({ kubeconfig, programs }: ControlPlane, [command = '', ...rest]: string[]): Promise<number> {
  const env = {
    ...process.env,
    KUBECONFIG: kubeconfig,
    PATH: `${dirname(programs.path('kubectl'))}${delimiter}${process.env.PATH}`,
  };
  const child = spawn(command, rest, { stdio: 'inherit', env });
  const [code] = (await once(child, 'exit')) as [number | null];
  return code ?? 1;
}
