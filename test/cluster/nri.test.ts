/**
 * NRI on the real containerd: the rules are in a pod before RunPodSandbox returns, and nothing that becomes of the
 * controller keeps the runtime. The cases share one controller, in this order.
 */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { existsSync, readFileSync, renameSync, watch } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { examine } from '../../lib/observe/doctor.ts';
import { taskCreates } from '../../lib/runtime/containerd/events.ts';
import { NriPlugin } from '../../lib/runtime/nri/plugin.ts';
import { opened } from '../../lib/runtime/opened.ts';
import { suite } from '../suite.ts';
import { GateHome } from '../support/gate.ts';
import { patience } from '../support/patience.ts';
import { launch } from '../support/process.ts';
import { ControllerProcess } from './controller-process.ts';
import { meshPod, NAMESPACE, plainPod } from './mesh-pod.ts';
import { until } from './pods.ts';
import type { Service } from './sandbox/service.ts';
import { known, SandboxStarts, type Started } from './sandbox-starts.ts';

const SLOW = { timeoutMs: 600_000 };
/** More for numbers that are to be quoted. */
const RUNS = Number(process.env.IPNC_RUNTIME_RUNS ?? 5);
/** Pods that start at once while the controller is stopped or killed. Every fifth is enrolled. */
const CROWD = 50;
const ENROLLED = CROWD / 5;
/** What the runtime waits for at most, and then it drops the plugin. */
const RUNTIMES_LIMIT_MS = 2000;

const test = suite('cluster, NRI');
test.needs('cluster', 'addon', 'toolbox', 'flock', 'gate', 'nsenter', 'setpriv');

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

const losses = () => controller.metric('runtime_event_losses_total');

/** Waits until the controller has counted more losses than `before`, and has a new connection. */
async function connectedAgain(before: number): Promise<void> {
  await until('a connection was lost', losses, (value) => value > before);
  await connected();
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

const nriSocket = () => starts.mesh.node.path('/run/nri/nri.sock');

/** Other clients of the runtime: one reads the CRI's events, as the kubelet does, one containerd's, and one is a plugin of NRI. */
class Bystanders implements Disposable {
  readonly #end = new AbortController();
  readonly #heard = { cri: new Set<string>(), containerd: new Set<string>(), nri: new Set<string>() };

  static async start(): Promise<Bystanders> {
    const others = new Bystanders();
    const { signal } = others.#end;
    const { cri } = starts;
    const read = async <T extends { containerId: string }>(stream: AsyncGenerator<T, void>, heard: Set<string>) => {
      const events = await opened(stream, 100);
      void (async () => {
        for await (const { containerId } of events) heard.add(containerId);
      })().catch(() => {});
    };
    await read(cri.containerEvents(signal), others.#heard.cri);
    await read(taskCreates(cri.channel, signal), others.#heard.containerd);
    const plugin = await NriPlugin.connect(nriSocket(), signal);
    const listed = Promise.withResolvers<void>();
    plugin.handle({
      onList: () => listed.resolve(),
      onRun: async ({ id }) => void others.#heard.nri.add(id),
    });
    await listed.promise;
    return others;
  }

  /** Waits until each has heard of all sandboxes. */
  async haveHeardOf(sandboxes: readonly Started[]): Promise<void> {
    for (const [name, heard] of Object.entries(this.#heard)) {
      await until(
        `heard of by the client of ${name}`,
        async () => sandboxes.filter(({ sandbox }) => !heard.has(sandbox)).length,
        (missed) => missed === 0,
        10_000,
      );
    }
  }

  [Symbol.dispose](): void {
    this.#end.abort();
  }
}

/** How often containerd has waited for a plugin as long as its limit is; it then drops the plugin. */
function waitsInVain(): number {
  const { log } = starts.mesh.node.services.get('containerd') as Service;
  return readFileSync(log, 'utf8')
    .split('\n')
    .filter((line) => /closing plugin .* deadline exceeded/.test(line)).length;
}

/**
 * Starts CROWD pods at once, and calls `fail` when the controller has heard of the first. Every other client of the
 * runtime hears of all. An enrolled pod that has no rules waits at its gate until `recover` has brought the controller
 * back. Resolves with how often the runtime waited in vain.
 */
async function failWhileCrowdStarts(prefix: string, fail: () => void, recover: () => Promise<void>): Promise<number> {
  const bodies = Array.from({ length: CROWD }, (_, at) => (at % 5 === 0 ? meshPod(prefix) : plainPod(prefix)));
  const pods = await Promise.all(bodies.map((body) => starts.create(body)));
  await known(controller, pods);
  const before = waitsInVain();
  using others = await Bystanders.start();
  using home = new GateHome();
  const { lines } = controller;
  const seen = lines.length;
  const running = Promise.all(pods.map((pod) => starts.run(pod)));
  while (!lines.some(({ msg }, at) => at >= seen && msg === 'the runtime reported a sandbox')) await sleep(1);
  fail();
  const all = await running;
  await others.haveHeardOf(all);
  const waits = waitsInVain() - before;

  const enrolled = all.filter((_, at) => at % 5 === 0);
  const late = enrolled.find(({ ruled }) => !ruled);
  assert.ok(late !== undefined, 'the controller failed after it had served all pods');
  const gate = await home.start(late.netns).waiting();
  await recover();
  await initialized(prefix, ENROLLED);
  assert.equal((await gate.ended).code, 0);
  assert.deepEqual(
    all.filter(({ ruled }, at) => ruled && at % 5 !== 0),
    [],
  );
  await Promise.all(all.map((started) => starts.end(started)));
  await starts.deletePods();
  return waits;
}

test(
  'the rules are in before RunPodSandbox returns, for every pod; a pod that is not enrolled has none',
  async () => {
    assert.equal(controller.lines.find(({ msg }) => msg === 'started')?.events, 'nri');
    const waits = () => controller.metric('runtime_wait_seconds_count');
    const before = await waits();
    let ruled = 0;
    for (let run = 0; run < RUNS; run++) {
      const started = await starts.start(meshPod('web'), controller);
      if (started.ruled) ruled++;
      await starts.end(started);
    }
    assert.equal(ruled, RUNS);
    const plain = await starts.start(plainPod('plain'), controller);
    assert.equal(plain.ruled, false);
    assert.equal((await waits()) - before, RUNS + 1);
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
    const waited = () => controller.metric('runtime_wait_seconds_sum');
    const before = await waited();
    let thaw = () => {};
    try {
      const started = await starts.start(meshPod('unmarked'), controller, () => {
        thaw = apiServer.freeze();
      });
      assert.equal(started.ruled, true, `RunPodSandbox took ${started.took} ms`);
      thaw();
      await initialized('unmarked', 1);
      // A longer wait would be needless: the mark needs the API server, and the answer does not.
      assert.ok((await waited()) - before < 0.5, `the runtime waited for ${(await waited()) - before} s`);
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
    const before = await losses();
    await containerd.kill();
    containerd.start();
    await connectedAgain(before);
    const started = await starts.start(meshPod('again'), controller);
    assert.equal(started.ruled, true);
    await starts.end(started);
  },
  SLOW,
);

test(
  `stopped while ${CROWD} pods start, the controller delays them once by the runtime's limit, and enrolled ones wait for it`,
  async () => {
    const before = await losses();
    const waits = await failWhileCrowdStarts(
      'stopped',
      () => controller.signal('SIGSTOP'),
      async () => {
        // The runtime has dropped it, and does not wait for it any more.
        const alone = await starts.start(plainPod('alone'));
        assert.ok(alone.took < RUNTIMES_LIMIT_MS * patience(), `${alone.took} ms: it was not dropped`);
        await starts.end(alone);
        controller.signal('SIGCONT');
        await connectedAgain(before);
      },
    );
    assert.equal(waits, 1);
    const after = await starts.start(meshPod('after'), controller);
    assert.equal(after.ruled, true);
    await starts.end(after);
  },
  SLOW,
);

test(
  `killed while ${CROWD} pods start, the controller delays none; the next one waits for the socket, and finds them`,
  async () => {
    const waits = await failWhileCrowdStarts(
      'killed',
      () => controller.signal('SIGKILL'),
      async () => {
        renameSync(nriSocket(), `${nriSocket()}.away`);
        controller = await byNri('--nri-fail-closed');
        assert.equal(controller.lines.find(({ msg }) => msg === 'started')?.events, 'none');
        renameSync(`${nriSocket()}.away`, nriSocket());
        await connected();
      },
    );
    assert.equal(waits, 0);
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

test(
  `with containerd's events, stopped while ${CROWD} pods start, the controller delays none`,
  async () => {
    assert.equal(await controller.stop(), 0);
    const { node, kubeconfig } = starts.mesh;
    controller = await ControllerProcess.start(node, kubeconfig, '--runtime-events', 'containerd');
    const waits = await failWhileCrowdStarts(
      'silent',
      () => controller.signal('SIGSTOP'),
      async () => controller.signal('SIGCONT'),
    );
    assert.equal(waits, 0);
  },
  SLOW,
);
