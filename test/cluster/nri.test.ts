/**
 * NRI on the real containerd: the rules are in a pod before RunPodSandbox returns, and nothing that becomes of the
 * controller keeps the runtime. The cases share one controller, in this order.
 */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { existsSync, watch } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { examine } from '../../lib/observe/doctor.ts';
import { suite } from '../suite.ts';
import { patience } from '../support/patience.ts';
import { launch } from '../support/process.ts';
import { ControllerProcess } from './controller-process.ts';
import { meshPod, NAMESPACE, plainPod } from './mesh-pod.ts';
import { until } from './pods.ts';
import { SandboxStarts } from './sandbox-starts.ts';

const SLOW = { timeoutMs: 600_000 };
/** More for numbers that are to be quoted. */
const RUNS = Number(process.env.IPNC_RUNTIME_RUNS ?? 5);
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

function byNri(): Promise<ControllerProcess> {
  const { node, kubeconfig } = starts.mesh;
  return ControllerProcess.start(node, kubeconfig, '--runtime-events', 'nri');
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
      async () => controller.told(pod, 'told of a sandbox').length,
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
  'a controller that is stopped delays one sandbox by the limit of the runtime, and no other',
  async () => {
    controller.signal('SIGSTOP');
    const first = await starts.start(plainPod('first'));
    const second = await starts.start(plainPod('second'));
    assert.ok(first.took >= RUNTIMES_LIMIT_MS, `${first.took} ms: the runtime did not wait for it`);
    assert.ok(first.took < 2 * RUNTIMES_LIMIT_MS * patience(), `${first.took} ms`);
    assert.ok(second.took < first.took / 2, `${second.took} ms`);
    controller.signal('SIGCONT');
    // It registers again.
    await until(
      'the source is NRI again',
      () => controller.metric('runtime_event_source{source="nri"}'),
      (value) => value === 1,
    );
    const after = await starts.start(meshPod('after'), controller);
    assert.equal(after.ruled, true);
    for (const each of [first, second, after]) await starts.end(each);
  },
  SLOW,
);

test(
  'a controller that is killed delays nobody, and the next one finds the pods that came meanwhile',
  async () => {
    await controller.stop('SIGKILL');
    const alone = await starts.start(meshPod('alone'));
    assert.equal(alone.ruled, false);
    assert.ok(alone.took < RUNTIMES_LIMIT_MS * patience(), `${alone.took} ms`);
    controller = await byNri();
    await until(
      'initialized: the pod of meanwhile',
      () => controller.pods(),
      (pods) => [...pods.values()].some(({ name, state }) => name.startsWith('alone-') && state === 'initialized'),
    );
    await starts.end(alone);
  },
  SLOW,
);
