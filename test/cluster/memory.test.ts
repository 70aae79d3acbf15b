/** A controller stays within its memory limit while users fill its node with the largest possible pods. */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { type RequestOptions, request } from 'node:https';
import type { AddressInfo } from 'node:net';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type CoreV1Api, KubeConfig } from '@kubernetes/client-node';
import { FLAG, imageLayers, MAIN } from '../../chart/image/files.ts';
import { layOut } from '../../chart/image/lay-out.ts';
import type { ApiClient } from '../../lib/kube/client.ts';
import type { PodView } from '../../lib/observe/page.ts';
import { ROOT } from '../../lib/root.ts';
import { suite } from '../suite.ts';
import { configOf, kubeOf } from '../support/kubeconfig.ts';
import { launch } from '../support/process.ts';
import { scratchFolder } from '../support/scratch.ts';
import { type ControlPlane, coreApi, startControlPlane } from './control-plane.ts';
import { until } from './pods.ts';
import { createCgroup, limitMemory, removeCgroup } from './sandbox/cgroup.ts';

/** No kubelet of this name: pods stay as they are made. */
const NODE = 'nowhere';
const PODS = '/api/v1/namespaces/default/pods';
const MIB = 1 << 20;
/** The limit of the chart's DaemonSet. */
const LIMIT = 256 * MIB;
const SLOW = { timeoutMs: 240_000 };
/** A megabyte takes the API server its time. */
const PATIENT = { timeoutMs: 60_000 };
const FOLDER = scratchFolder('memory');
const CGROUP = `ipnc-memory-${process.pid}`;

const test = suite("the controller's memory");
test.needs('cluster', 'addon');

let controlPlane: ControlPlane;
let kube: ApiClient;
let core: CoreV1Api;
let main: string;
const children: ChildProcess[] = [];
const relays: Server[] = [];

test.before(async () => {
  createCgroup(CGROUP);
  limitMemory(CGROUP, LIMIT);
  controlPlane = await startControlPlane();
  kube = kubeOf(controlPlane.kubeconfig);
  core = coreApi(controlPlane.kubeconfig);
  await kube.post('/api/v1/namespaces/default/serviceaccounts', { metadata: { name: 'default' } });
  const [, own] = await imageLayers(ROOT, join(ROOT, 'build/Release'));
  layOut(FOLDER, own);
  main = join(FOLDER, MAIN);
});
test.after(async () => {
  for (const child of children) child.kill('SIGKILL');
  for (const relay of relays) {
    relay.closeAllConnections();
    relay.close();
  }
  kube?.close();
  await controlPlane?.stop();
  removeCgroup(CGROUP);
});

interface Running {
  pods(): Promise<PodView[]>;
  signal(signal: NodeJS.Signals): void;
  /** The largest resident set so far, bytes. */
  peak(): number;
  stop(): Promise<void>;
}

/** The image's program, as the chart starts it, for a node without a runtime. */
async function startLimited(kubeconfig: string): Promise<Running> {
  const port = 19_400;
  const flags = ['--node-name', NODE, '--kubeconfig', kubeconfig, '--host-root', FOLDER];
  const rest = ['--runtime-events', 'off', '--metrics-address', `127.0.0.1:${port}`, '--health-address', 'off'];
  const command = [process.execPath, FLAG, main, 'run', ...flags, ...rest];
  const joined = `echo $$ > "$0"/cgroup.procs && exec "$@"`;
  const child = launch('sh', ['-c', joined, limitMemory(CGROUP, LIMIT), ...command], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, MALLOC_ARENA_MAX: '1', MALLOC_TRIM_THRESHOLD_: '131072' },
  });
  children.push(child);
  const ended = once(child, 'exit');
  const isOver = ended.then(([code, signal]) => Promise.reject(new Error(`the controller ended: ${signal ?? code}`)));
  isOver.catch(() => {});
  const lines = createInterface(child.stdout);
  await Promise.race([
    new Promise<void>((resolve) => lines.on('line', (line) => line.includes('"msg":"started"') && resolve())),
    isOver,
  ]);
  return {
    pods: async () => {
      const asked = fetch(`http://127.0.0.1:${port}/pods`, { headers: { accept: 'application/json' } });
      const response = await Promise.race([asked, isOver]);
      return ((await response.json()) as { pods: PodView[] }).pods;
    },
    peak: () => Number(/VmHWM:\s*(\d+) kB/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1]) * 1024,
    signal: (signal) => child.kill(signal),
    stop: async () => {
      child.kill('SIGTERM');
      await ended;
    },
  };
}

/** Resolves when none is left. */
async function empty(): Promise<void> {
  await core.deleteCollectionNamespacedPod({ namespace: 'default', gracePeriodSeconds: 0 });
}

/** A way to the API server on which nobody may ask for protobuf; resolves with a kubeconfig's file. */
async function jsonOnly(): Promise<string> {
  const credentials: RequestOptions = {};
  await configOf(controlPlane.kubeconfig).applyToHTTPSOptions(credentials);
  const { hostname, port } = new URL(controlPlane.server);
  const relay = createServer((asked, answer) => {
    const headers = { ...asked.headers, accept: 'application/json' };
    const { method, url: path } = asked;
    const onward = request({ ...credentials, hostname, port, method, path, headers }, (response) => {
      answer.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(answer);
    });
    for (const end of [answer, onward]) end.on('close', () => onward.destroy()).on('error', () => answer.destroy());
    asked.pipe(onward);
  });
  relays.push(relay);
  await new Promise<void>((resolve) => relay.listen(0, '127.0.0.1', resolve));
  const config = new KubeConfig();
  const { port: here } = relay.address() as AddressInfo;
  config.loadFromClusterAndUser(
    { name: 'relay', server: `http://127.0.0.1:${here}`, skipTLSVerify: true },
    { name: 'nobody' },
  );
  const file = join(FOLDER, 'kubeconfig');
  writeFileSync(file, config.exportConfig());
  return file;
}

const LAST = {
  metadata: { name: 'last' },
  spec: { nodeName: NODE, containers: [{ name: 'app', image: 'none' }] },
};

const init = (args: string[]) => ({
  initContainers: [{ name: 'istio-init', image: 'none', args }],
  containers: [{ name: 'app', image: 'none' }],
});
const ports = Array.from({ length: 60_000 }, (_, at) => ({ containerPort: at + 1 }));

/** The API server takes seconds to change a pod of a hundred thousand parts. */
const SHAPES: [what: string, count: number, changes: number, spec: object][] = [
  ['45 pods with 1.2 MB of long arguments', 45, 100, init(Array(120).fill('x'.repeat(10_000)))],
  ['45 pods with 1.2 MB of short arguments', 45, 8, init(Array(240_000).fill('xxx'))],
  ['30 pods with 1 MB of ports', 30, 8, { containers: [{ name: 'app', image: 'none', ports }] }],
];

for (const [what, count, changes, spec] of SHAPES) {
  test(
    `${what}: listed, and watched while they change, in protobuf and in JSON`,
    async () => {
      const body = { metadata: { generateName: 'p' }, spec: { nodeName: NODE, ...spec } };
      const names = await lanes(count, async () => {
        const { metadata } = (await kube.post(PODS, body, PATIENT)) as { metadata: { name: string } };
        return metadata.name;
      });
      for (const kubeconfig of [controlPlane.kubeconfig, await jsonOnly()]) {
        const controller = await startLimited(kubeconfig);
        await until('listed', controller.pods, (pods) => pods.length === count);
        // Events that wait come as fast as they can be read.
        controller.signal('SIGSTOP');
        await lanes(changes, async (at) => {
          const metadata = { labels: { round: String(at) } };
          await kube.patch(`${PODS}/${names[at % count]}`, 'merge', { metadata }, PATIENT);
        });
        controller.signal('SIGCONT');
        // Events come in order.
        await kube.post(PODS, LAST, PATIENT);
        await until('watched', controller.pods, (pods) => pods.some(({ name }) => name === 'last'));
        if (process.env.IPNC_TEST_VERBOSE) console.log(`${what}: ${controller.peak() / MIB} MiB`);
        assert.ok(controller.peak() < LIMIT, `${controller.peak() / MIB} MiB`);
        await controller.stop();
        await core.deleteNamespacedPod({ namespace: 'default', name: 'last', gracePeriodSeconds: 0 });
      }
      await empty();
    },
    SLOW,
  );
}

/**
 * Results of `work` for each of `count`, at most eight at a time and no more than there are CPUs, because the API server
 * ends a request after a minute.
 */
async function lanes<T>(count: number, work: (at: number) => Promise<T>): Promise<T[]> {
  const results: T[] = [];
  let next = 0;
  const lane = async () => {
    for (let at = next++; at < count; at = next++) results[at] = await work(at);
  };
  await Promise.all(Array.from({ length: Math.min(8, availableParallelism()) }, lane));
  return results;
}
