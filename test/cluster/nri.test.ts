/**
 * NRI on the real containerd: the rules are in a pod before RunPodSandbox returns, and nothing that becomes of the
 * controller keeps the runtime. The cases share one controller, in this order.
 */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { existsSync, renameSync, watch } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { examine } from '../../lib/observe/doctor.ts';
import { suite } from '../suite.ts';
import { patience } from '../support/patience.ts';
import { launch } from '../support/process.ts';
import { ControllerProcess } from './controller-process.ts';
import { meshPod, NAMESPACE, plainPod } from './mesh-pod.ts';
import { until } from './pods.ts';
import type { Service } from './sandbox/service.ts';
import { SandboxStarts } from './sandbox-starts.ts';

const SLOW = { timeoutMs: 600_000 };
/** More for numbers that are to be quoted. */
const RUNS = Number(process.env.IPNC_RUNTIME_RUNS ?? 5);
/** Pods that start at once while the controller is stopped. */
const CROWD = Number(process.env.IPNC_NRI_CROWD ?? 6);
/** What the runtime waits for at most, and then it drops the plugin. */
const RUNTIMES_LIMIT_MS = 2000;

const test = suite('cluster, NRI');
test.needs('cluster', 'addon', 'toolbox', 'flock');

let starts: SandboxStarts;
let controller: ControllerProcess;

test.before(async () => {
  starts = await SandboxStarts.setUp();
  controller = await byNri();
});
test.after(async () => {
  controller?.signal('SIGCONT');
  await controller?.stop();
  await starts?.[Symbol.asyncDispose]();
});

function byNri(...flags: string[]): Promise<ControllerProcess> {
  const { node, kubeconfig } = starts.mesh;
  return ControllerProcess.start(node, kubeconfig, '--runtime-events', 'nri', ...flags);
}

/** The controller has a connection to the runtime. */
async function connected(): Promise<void> {
  await until(
    'the source is NRI',
    () => controller.metric('runtime_event_source{source="nri"}'),
    (value) => value === 1,
  );
}

/** Until the controller has done its work for each pod whose name begins so. */
async function initialized(prefix: string, count: number): Promise<void> {
  await until(
    `initialized: ${count} of ${prefix}`,
    async () => [...(await controller.pods()).values()],
    (pods) =>
      pods.filter(({ name, state }) => name.startsWith(`${prefix}-`) && state === 'initialized').length === count,
  );
}

/** An install that takes as long after the controller heard of the sandbox: longer than containerd takes to return then. */
const INSTALL_MS = 100;

/** Holds the write lock of every netns that is made in `folder`, until INSTALL_MS after `heard` resolved. */
function slowInstalls(folder: string, heard: Promise<unknown>) {
  const holders: ChildProcess[] = [];
  const watcher = watch(folder, (event, name) => {
    if (event !== 'rename' || name === null || !existsSync(join(folder, name))) return;
    holders.push(launch('flock', ['--exclusive', '--close', join(folder, name), 'sleep', '10'], { stdio: 'ignore' }));
  });
  const released = heard.then(async () => {
    await sleep(INSTALL_MS);
    watcher.close();
    for (const holder of holders) holder.kill();
  });
  return { locked: () => holders.length, released };
}

test(
  'the rules are in before RunPodSandbox returns, for every pod; a pod that is not enrolled has none',
  async () => {
    assert.equal(controller.lines.find(({ msg }) => msg === 'started')?.events, 'nri');
    let ruled = 0;
    for (let run = 0; run < RUNS; run++) {
      const started = await starts.start(meshPod('web'), controller);
      if (started.ruled) ruled++;
      await starts.end(started);
    }
    assert.equal(ruled, RUNS);
    const plain = await starts.start(plainPod('plain'), controller);
    assert.equal(plain.ruled, false);
    await starts.end(plain);
  },
  SLOW,
);

test(
  'doctor registers a plugin for a moment, and does not disturb the one of the controller',
  async () => {
    const hostRoot = starts.mesh.node.path('/');
    const checks = await examine({ criSocket: undefined, hostRoot, runtimeEvents: 'nri' });
    const { status, detail } = checks.find(({ name }) => name === 'runtime events') ?? {};
    assert.equal(status, 'ok', detail);
    assert.match(detail ?? '', /^nri: containerd v?\d/);
    const after = await starts.start(meshPod('web'), controller);
    assert.equal(after.ruled, true);
    await starts.end(after);
  },
  SLOW,
);

test(
  'the runtime waits for an install that takes long',
  async () => {
    const pod = `${NAMESPACE}/${starts.next('slow')}`;
    const heard = until(
      `heard of: ${pod}`,
      async () => controller.told(pod, 'the runtime reported a sandbox').length,
      (lines) => lines > 0,
    );
    const slow = slowInstalls(starts.mesh.node.path('/run/netns'), heard);
    const started = await starts.start(meshPod('slow'), controller);
    assert.ok(slow.locked() > 0, 'no netns was locked');
    assert.equal(started.ruled, true, `RunPodSandbox took ${started.took} ms`);
    await slow.released;
    await starts.end(started);
  },
  SLOW,
);

test(
  'a pod that the API server has not shown is not waited for',
  async () => {
    const { driver } = starts;
    const began = performance.now();
    const sandbox = await driver.run(driver.pod('unknown'));
    assert.ok(performance.now() - began < 450 * patience());
    await driver.end(sandbox);
  },
  SLOW,
);

test(
  'the API server hangs: the rules of a pod that it has shown are in all the same',
  async () => {
    const apiServer = starts.mesh.controlPlane.services.get('kube-apiserver') as Service;
    let thaw = () => {};
    try {
      const started = await starts.start(meshPod('unmarked'), controller, () => {
        thaw = apiServer.freeze();
      });
      assert.equal(started.ruled, true, `RunPodSandbox took ${started.took} ms`);
      thaw();
      await initialized('unmarked', 1);
      await starts.end(started);
    } finally {
      thaw();
    }
  },
  SLOW,
);

test(
  'containerd is killed and comes back: the controller registers again',
  async () => {
    const containerd = starts.mesh.node.services.get('containerd') as Service;
    await containerd.kill();
    containerd.start();
    await connected();
    const started = await starts.start(meshPod('again'), controller);
    assert.equal(started.ruled, true);
    await starts.end(started);
  },
  SLOW,
);

test(
  'a controller that is stopped delays no sandbox longer than the runtime waits once',
  async () => {
    controller.signal('SIGSTOP');
    const crowd = Array.from({ length: CROWD }, () => starts.start(plainPod('crowd')));
    const all = await Promise.all(crowd);
    const longest = Math.max(...all.map(({ took }) => took));
    assert.ok(longest >= RUNTIMES_LIMIT_MS, `${longest} ms: the runtime did not wait`);
    assert.ok(longest < 2 * RUNTIMES_LIMIT_MS * patience(), `${longest} ms`);
    const enrolled = await starts.start(meshPod('late'));
    assert.ok(enrolled.took < RUNTIMES_LIMIT_MS * patience(), `${enrolled.took} ms: it was not dropped`);
    assert.equal(enrolled.ruled, false);
    controller.signal('SIGCONT');
    await connected();
    await initialized('late', 1);
    const after = await starts.start(meshPod('after'), controller);
    assert.equal(after.ruled, true);
    for (const each of [...all, enrolled, after]) await starts.end(each);
  },
  SLOW,
);

test(
  'a controller that is killed delays nobody; the next one waits for the socket, and finds the pods that came meanwhile',
  async () => {
    await controller.stop('SIGKILL');
    const alone = await starts.start(meshPod('alone'));
    assert.equal(alone.ruled, false);
    assert.ok(alone.took < RUNTIMES_LIMIT_MS * patience(), `${alone.took} ms`);
    const socket = starts.mesh.node.path('/run/nri/nri.sock');
    renameSync(socket, `${socket}.away`);
    controller = await byNri('--nri-fail-closed');
    assert.equal(controller.lines.find(({ msg }) => msg === 'started')?.events, 'none');
    renameSync(`${socket}.away`, socket);
    await connected();
    await initialized('alone', 1);
    await starts.end(alone);
  },
  SLOW,
);

test(
  'failing closed: the runtime refuses an enrolled pod whose rules cannot be installed, and no other',
  async () => {
    const invalid = { annotations: { 'pod-network-controller.istio.io/envoy-port': 'many' } };
    await assert.rejects(
      starts.start(meshPod('refused', invalid), controller),
      /no redirect rules for the pod: .*envoy-port.*many/,
    );
    const web = await starts.start(meshPod('web'), controller);
    assert.equal(web.ruled, true);
    const plain = await starts.start(plainPod('plain', invalid), controller);
    assert.equal(plain.ruled, false);
    for (const each of [web, plain]) await starts.end(each);
  },
  SLOW,
);
