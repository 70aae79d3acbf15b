/** One pod that is deleted, or whose mark is refused, at each stage of an install. */

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { KubeConfig } from '@kubernetes/client-node';
import { INITIALIZE, NETNS, STATUS } from '../../lib/istio/names.ts';
import { INITIALIZED, READY } from '../../lib/kube/status.ts';
import { native } from '../../lib/native/addon.ts';
import { rulesSections } from '../../lib/observe/rules.ts';
import type { Cri } from '../../lib/runtime/cri/client.ts';
import { RuntimeEvents } from '../../lib/runtime/events.ts';
import { sourcesFor } from '../../lib/runtime/sources.ts';
import { suite } from '../suite.ts';
import { type RunningController, runController, until } from '../support/controller.ts';
import { WRITERS } from '../support/istio-rules.ts';
import { BOOT_ID, Farm, INSTALL_NEEDS, inside, restoreNft } from '../support/netns.ts';
import { NriRuntime } from '../support/nri-runtime.ts';
import { PodServer } from '../support/pod-server.ts';
import { run } from '../support/process.ts';
import { status } from '../support/watch-server.ts';

const ENROLLED = { [INITIALIZE]: 'true' };

const test = suite('controller');
test.needs(...INSTALL_NEEDS, 'iptables-legacy', 'nft');

/** A farm, a stand-in API server and a controller, for one pod named web. */
class Way implements AsyncDisposable {
  readonly farm = new Farm('controller');
  readonly api = new PodServer();
  /** For the next pod that is located; then it is gone. */
  onLocate: Record<'before' | 'after', (() => Promise<void>) | undefined> = { before: undefined, after: undefined };
  running!: RunningController;

  #config!: KubeConfig;

  /** Options of the controller by their environment variables. */
  options: Record<string, string> = {};
  runtime: RuntimeEvents | undefined;

  static async start(options: Record<string, string> = {}): Promise<Way> {
    const way = new Way();
    way.options = options;
    way.#config = await way.api.start();
    await way.#run();
    return way;
  }

  async #run(): Promise<void> {
    const onLocate = async (when: 'before' | 'after') => {
      const act = this.onLocate[when];
      this.onLocate[when] = undefined;
      await act?.();
    };
    this.running = await runController(this.#config, this.farm, onLocate, this.options, this.runtime);
  }

  /** `meanwhile` is done while no controller runs. */
  async restart(meanwhile = async () => {}): Promise<void> {
    await this.running[Symbol.asyncDispose]();
    await meanwhile();
    await this.#run();
  }

  /** Changes what the pod says; null takes it away. */
  annotate(annotations: Record<string, string | null>): void {
    const pod = this.api.pods.get('web');
    if (pod === undefined) return;
    for (const [name, value] of Object.entries(annotations)) {
      if (value === null) delete pod.metadata.annotations[name];
      else pod.metadata.annotations[name] = value;
    }
    this.api.tell('MODIFIED', pod);
  }

  get view() {
    return this.running.controller.views().find(({ name }) => name === 'web');
  }

  put(): string {
    return this.api.put('web', { ...ENROLLED });
  }

  /** A pod with its network namespace, which has its rules and its mark. */
  async putMarked(): Promise<{ uid: string; file: string }> {
    const uid = this.put();
    const file = this.farm.file(uid);
    await this.farm.add(file);
    await this.isMarked(uid);
    return { uid, file };
  }

  async isMarked(uid: string): Promise<void> {
    const annotations = () => this.api.pods.get('web')?.metadata.annotations ?? {};
    await until(
      'marked',
      () => annotations()[STATUS] === INITIALIZED && this.running.idle(),
      () => [annotations(), this.view],
    );
    const { cookie, installedBackends } = await native().identify(this.farm.file(uid));
    assert.equal(annotations()[NETNS], `${BOOT_ID}:${cookie}`);
    assert.deepEqual(installedBackends, ['iptables-legacy']);
    assert.equal(this.view?.uid, uid);
    assert.equal(await this.running.controller.sweep(), 1);
    assert.ok(this.running.idle(), 'there was something to be put right');
  }

  /** The Events of this reason are about this pod, and have these notes. */
  async isReported(reason: string, uid: string, notes: string[]): Promise<void> {
    const events = () => this.api.events.filter((event) => event.reason === reason);
    await until('reported', () => events().length >= notes.length, events);
    assert.deepEqual(
      events().map(({ note, regarding }) => [note, regarding.uid]),
      notes.map((note) => [note, uid]),
    );
  }

  async isForgotten(): Promise<void> {
    await until(
      'forgotten',
      () => this.view === undefined && this.running.idle(),
      () => [this.view, this.running.controller.queue()],
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.running[Symbol.asyncDispose]();
    this.api.stop();
    await this.farm[Symbol.asyncDispose]();
  }
}

/** Starts a pod on its way, and resolves when `go` has been called at that point; `patched`: a mark was to be had. */
interface Point {
  when: string;
  patched?: boolean;
  reach(way: Way, uid: string, go: () => Promise<void>): Promise<void>;
}

/** The next time a patch is at this point. */
function atPatch({ api }: Way, when: 'asked' | 'done', act: (response: ServerResponse) => Promise<boolean>) {
  return new Promise<void>((resolve) => {
    api.onPatch = async (now, _, response) => {
      if (now !== when) return false;
      api.onPatch = () => false;
      return act(response).finally(resolve);
    };
  });
}

const points: Point[] = [
  {
    when: 'it waits for its sandbox',
    reach: async (way, _, go) => {
      await until(
        'waiting',
        () => way.view?.reason === 'no-sandbox',
        () => way.view,
      );
      await go();
    },
  },
  ...(['before', 'after'] as const).map(
    (when): Point => ({
      when: `${when} its netns is found`,
      reach: async (way, uid, go) => {
        const reached = new Promise<void>((resolve) => {
          way.onLocate[when] = () => go().finally(resolve);
        });
        await way.farm.add(way.farm.file(uid));
        await reached;
      },
    }),
  ),
  ...(['asked', 'done'] as const).map(
    (when): Point => ({
      when: `its patch is ${when}`,
      patched: when === 'done',
      reach: async (way, uid, go) => {
        const reached = atPatch(way, when, () => go().then(() => false));
        await way.farm.add(way.farm.file(uid));
        await reached;
      },
    }),
  ),
  {
    when: 'its mark was refused and it waits for another attempt',
    reach: async (way, uid, go) => {
      const refused = atPatch(way, 'asked', async (response) => {
        status(response, 429, 'TooManyRequests', { 'Retry-After': '3600' });
        return true;
      });
      await way.farm.add(way.farm.file(uid));
      await refused;
      await until(
        'backing off',
        () => way.running.controller.queue().backingOff === 1,
        () => way.view,
      );
      await go();
    },
  },
];

for (const { when, patched = false, reach } of points) {
  for (const netns of ['its netns with it', 'its netns later']) {
    test(`deleted when ${when}, ${netns}: it is forgotten, and nothing is done to it any more`, async () => {
      await using way = await Way.start();
      const uid = way.put();
      const file = way.farm.file(uid);
      await reach(way, uid, async () => {
        way.api.delete('web');
        if (netns === 'its netns with it') await way.farm.del(file).catch(() => {});
      });
      await way.isForgotten();
      assert.equal(way.api.patched.has(uid), patched);
      // Nothing of it stands in the way of another.
      const other = way.put();
      await way.farm.add(way.farm.file(other));
      await way.isMarked(other);
    });
  }

  test(`made again under its name when ${when}: the other one is marked with its own netns`, async () => {
    await using way = await Way.start();
    const uid = way.put();
    let other = '';
    await reach(way, uid, async () => {
      other = way.put();
      await way.farm.add(way.farm.file(other));
    });
    await way.isMarked(other);
    assert.equal(way.api.patched.has(uid), patched);
  });
}

const refusals: Record<string, (response: ServerResponse) => void> = {
  'a conflict': (response) => status(response, 409, 'Conflict'),
  'an error of the server': (response) => status(response, 500, 'InternalError'),
  'a server that is going down': (response) => status(response, 503, 'ServiceUnavailable'),
  'a connection that breaks': (response) => response.destroy(),
};
for (const [what, refuse] of Object.entries(refusals)) {
  for (const when of ['asked', 'done'] as const) {
    test(`${what}, ${when === 'asked' ? 'and no mark' : 'though the mark is made'}: it is tried again, and ends well`, async () => {
      await using way = await Way.start();
      const uid = way.put();
      const refused = atPatch(way, when, async (response) => {
        refuse(response);
        return true;
      });
      await way.farm.add(way.farm.file(uid));
      await refused;
      await way.isMarked(uid);
    });
  }
}

test('429 with Retry-After: no other attempt before that', async () => {
  await using way = await Way.start();
  const uid = way.put();
  const asked: number[] = [];
  way.api.onPatch = (when, _, response) => {
    if (when === 'done') return false;
    asked.push(performance.now());
    if (asked.length > 1) return false;
    status(response, 429, 'TooManyRequests', { 'Retry-After': '2' });
    return true;
  };
  await way.farm.add(way.farm.file(uid));
  await until(
    'refused',
    () => asked.length === 1,
    () => way.view,
  );
  // What is told of the pod meanwhile does not bring it forward.
  const pod = way.api.pods.get('web');
  if (pod) {
    pod.status.phase = 'Running';
    way.api.tell('MODIFIED', pod);
  }
  await way.isMarked(uid);
  const [first = 0, second = 0] = asked;
  assert.ok(second - first >= 2000, `${second - first} ms`);
  assert.equal(asked.length, 2);
});

test('a pod with an invalid configuration that is opted out is cleaned by a controller that knows only its mark', async () => {
  await using way = await Way.start();
  const { file } = await way.putMarked();
  const mark = () => way.api.pods.get('web')?.metadata.annotations[STATUS];
  way.annotate({ 'traffic.sidecar.istio.io/includeInboundPorts': '80,http' });
  await until('failed', () => mark()?.startsWith('failed: ') === true && way.running.idle(), mark);
  assert.deepEqual((await native().identify(file)).installedBackends, ['iptables-legacy']);
  await way.restart();
  await until(
    'looked at',
    () => way.view?.state === 'failed' && way.running.idle(),
    () => way.view,
  );
  way.annotate({ [INITIALIZE]: 'false' });
  await until('unmarked', () => mark() === undefined && way.running.idle(), mark);
  assert.deepEqual((await native().identify(file)).installedBackends, []);
});

/** As Istio orders an ordinary sidecar's: the application's own first. */
const MIGRATION = { name: 'migrate', image: 'x', command: ['migrate', 'up'] };
const GATE = { name: 'pod-network-gate', image: 'x', args: ['istio-iptables', '-p', '15001'] };
const migration = (containerID: string, state: object) => [{ name: 'migrate', containerID, state, restartCount: 0 }];
const ENDED = { terminated: { exitCode: 0, finishedAt: '2026-08-11T09:14:02Z' } };

test('rules come only when the init containers before the gate have ended, in each sandbox', async () => {
  await using way = await Way.start();
  const uid = way.api.put('web', { ...ENROLLED }, false, { initContainers: [MIGRATION, GATE] });
  const file = way.farm.file(uid);
  await way.farm.add(file);
  const status = (phase: string, id: string, state: object) => {
    const pod = way.api.pods.get('web') ?? assert.fail();
    pod.status.phase = phase;
    pod.status.initContainerStatuses = migration(id, state);
    way.api.tell('MODIFIED', pod);
  };
  const waits = async (what: string) => {
    await until(
      what,
      () => way.view?.reason === 'init-containers' && way.running.idle(),
      () => way.view,
    );
    assert.deepEqual((await native().identify(file)).installedBackends, [], what);
  };
  await waits('not started');
  status('Pending', 'containerd://one', { running: {} });
  await waits('running');
  status('Pending', 'containerd://one', { terminated: { ...ENDED.terminated, exitCode: 1 } });
  await waits('failed');
  status('Pending', 'containerd://two', ENDED);
  await way.isMarked(uid);
  status('Running', 'containerd://two', ENDED);
  // Its init containers may be forgotten, and it keeps its rules all the same.
  status('Running', '', {});
  await way.restart();
  await until(
    'served',
    () => way.view?.state === 'initialized' && way.running.idle(),
    () => way.view,
  );
  assert.deepEqual((await native().identify(file)).installedBackends, ['iptables-legacy']);
});

test('the list of pods has durations with three significant digits', async () => {
  await using way = await Way.start();
  await way.putMarked();
  const stages = Object.entries(way.view?.stages ?? {});
  assert.ok(stages.length > 3, `${stages}`);
  for (const [stage, us] of stages) assert.equal(us, Number(us.toPrecision(3)), stage);
});

test('the rules of a pod can be compared with its plan', async () => {
  await using way = await Way.start();
  const { uid, file } = await way.putMarked();
  const { controller } = way.running;
  assert.equal(await controller.rules('another'), undefined);
  const good = (await controller.rules(uid)) ?? assert.fail();
  assert.deepEqual(
    [good.namespace, good.name, good.form.backend, good.verified.ok],
    ['default', 'web', 'iptables-legacy', true],
  );
  await inside(file, ['iptables-legacy', '-t', 'nat', '-D', 'ISTIO_OUTPUT', '1']);
  const sections = rulesSections((await controller.rules(uid)) ?? assert.fail());
  const { title, lines } = sections.find(({ diff }) => diff) ?? assert.fail(JSON.stringify(sections));
  assert.equal(title, 'Differences: IPv4 nat');
  assert.equal(lines.filter((line) => line.startsWith('-')).length, 1, lines.join('\n'));
});

test(
  "a second writer of Istio's rules is reported, and not fought for ever",
  async () => {
    await using way = await Way.start();
    const uid = way.put();
    const file = way.farm.file(uid);
    const writer =
      WRITERS.find(({ version, form }) => version.startsWith('1.20') && form === 'iptables-nft') ?? assert.fail();
    const write = () => writer.write(file, { mode: 'REDIRECT' });
    const areThere = async () => (await native().identify(file)).iptablesNft;
    way.onLocate.before = write;
    await way.farm.add(file);
    await way.isMarked(uid);
    assert.equal(await areThere(), false);
    const { controller } = way.running;
    for (let round = 0; round < 3; round++) {
      await write();
      await controller.sweep();
      await until(
        'repaired',
        () => way.running.idle(),
        () => way.view,
      );
      assert.equal(await areThere(), false, `round ${round}`);
      assert.equal(controller.preempted(), 0);
    }
    await write();
    await controller.sweep();
    assert.ok(way.running.idle(), 'there was something to be repaired');
    assert.equal(await areThere(), true);
    assert.equal(controller.preempted(), 1);
    assert.match(way.view?.reason ?? '', /^rules of other programs let traffic bypass the proxy: Istio's rules/);
  },
  { needs: ['iptables-nft-restore', 'ip6tables-nft-restore'] },
);

/**
 * A pod that is restored from a checkpoint, or copied with `kubectl get -o yaml`, has the marks of another pod, and its
 * netns is new (KEP-5823). A restored pod runs no init container, and so no gate.
 */
const RESTORED: [what: string, options: Record<string, string>, spec: Parameters<PodServer['put']>[3]][] = [
  ['all pods are marked', {}, {}],
  ['only failures are marked', { IPNC_MARKS: 'failures' }, {}],
  ['its init containers before the gate do not run', {}, { initContainers: [MIGRATION, GATE] }],
];
for (const [what, options, spec] of RESTORED) {
  for (const known of ['while the controller runs', 'while no controller runs']) {
    test(`a pod comes with the marks of another one ${known}, ${what}: they are not trusted`, async () => {
      await using way = await Way.start(options);
      const put = (annotations = {}, conditions: object[] = []) => {
        const uid = way.api.put('web', { ...ENROLLED, ...annotations }, false, structuredClone(spec));
        const pod = way.api.pods.get('web') ?? assert.fail();
        Object.assign(pod.status, { phase: 'Running', conditions });
        way.api.tell('MODIFIED', pod);
        return uid;
      };
      const gates = { readinessGates: [{ conditionType: READY }] };
      const source = way.api.put('web', { ...ENROLLED }, false, gates);
      await way.farm.add(way.farm.file(source));
      await way.isMarked(source);
      const { metadata, status } = structuredClone(way.api.pods.get('web')) ?? assert.fail();
      let uid = '';
      const restore = async () => {
        uid = put(metadata.annotations, status.conditions);
        await way.farm.add(way.farm.file(uid));
      };
      if (known === 'while no controller runs') await way.restart(restore);
      else await restore();
      const { cookie } = await native().identify(way.farm.file(uid));
      const netns = () => way.api.pods.get('web')?.metadata.annotations[NETNS];
      await until('marked with its own netns', () => netns() === `${BOOT_ID}:${cookie}`, netns);
      await way.isMarked(uid);
    });
  }
}

test('a pod gets a new netns, and nobody reports it: the next sweep installs and marks again', async () => {
  await using way = await Way.start();
  const { uid, file } = await way.putMarked();
  const before = way.api.pods.get('web')?.metadata.annotations[NETNS];
  await way.farm.del(file);
  await way.farm.add(file);
  await way.running.controller.sweep();
  await until(
    'marked again',
    () => way.api.pods.get('web')?.metadata.annotations[NETNS] !== before && way.running.idle(),
    () => way.view,
  );
  await way.isMarked(uid);
});

test('NRI that fails closed refuses no pod because its init containers come before the gate', async () => {
  await using way = await Way.start();
  const hostRoot = way.farm.file('host');
  mkdirSync(join(hostRoot, 'run/nri'), { recursive: true });
  await using runtime = await NriRuntime.start(join(hostRoot, 'run/nri/nri.sock'));
  const end = new AbortController();
  const cri = { version: async () => ({ runtimeName: 'containerd', runtimeVersion: '2.3.0' }) } as unknown as Cri;
  const sources = sourcesFor('nri');
  way.runtime = new RuntimeEvents({ cri, hostRoot, failClosed: true, sources, signal: end.signal });
  await way.restart();
  try {
    await until(
      'connected',
      () => runtime.plugins.length === 1,
      () => way.runtime?.reason,
    );
    const report = async (spec: Parameters<PodServer['put']>[3]) => {
      const uid = way.api.put('web', { ...ENROLLED }, false, spec);
      await until(
        'known',
        () => way.view?.uid === uid,
        () => way.view,
      );
      const netns = await way.farm.add();
      const linux = { namespaces: [{ type: 'network', path: netns }] };
      return runtime.run({ id: uid, name: 'web', uid, namespace: 'default', linux, ips: [] });
    };
    await report({ initContainers: [MIGRATION, GATE] });
    await assert.rejects(report({}), /no redirect rules for the pod/, 'the locator does not find its netns');
  } finally {
    end.abort();
  }
});

const FAILURES = { IPNC_MARKS: 'failures' };

/** Waits until the rules are installed and nothing is left to be done. */
async function isServed(way: Way, uid: string): Promise<void> {
  await until(
    'served',
    () => way.view?.uid === uid && way.view.state === 'initialized' && way.running.idle(),
    () => way.view,
  );
  assert.deepEqual((await native().identify(way.farm.file(uid))).installedBackends, ['iptables-legacy']);
}

const marksOf = (way: Way) => way.api.pods.get('web')?.metadata.annotations[STATUS];

test('marks=failures: a pod that goes well costs no write, and its rules are kept as of any other', async () => {
  await using way = await Way.start(FAILURES);
  const uid = way.put();
  await way.farm.add(way.farm.file(uid));
  await isServed(way, uid);
  assert.equal(await way.running.controller.sweep(), 1);
  await until(
    'idle',
    () => way.running.idle(),
    () => way.view,
  );
  assert.deepEqual([way.api.patched.size, way.api.events], [0, []]);
});

test('marks=failures: a pod that fails is marked, and so is its recovery', async () => {
  await using way = await Way.start(FAILURES);
  const uid = way.api.put('web', { ...ENROLLED, 'traffic.sidecar.istio.io/includeInboundPorts': '80,http' });
  await way.farm.add(way.farm.file(uid));
  await until(
    'failed',
    () => marksOf(way)?.startsWith('failed: ') === true && way.running.idle(),
    () => way.view,
  );
  way.annotate({ 'traffic.sidecar.istio.io/includeInboundPorts': '80' });
  await way.isMarked(uid);
});

const ORIGINAL = { name: 'istio-init', args: ['init'] };
const WAITING: Record<string, [annotations: Record<string, string>, spec: Parameters<PodServer['put']>[3]]> = {
  'a readiness gate': [{}, { readinessGates: [{ conditionType: READY }] }],
  "the original controller's init container": [{}, { initContainers: [ORIGINAL] }],
};
for (const [what, [annotations, spec]] of Object.entries(WAITING)) {
  test(`marks=failures: a pod that may wait for its mark gets it: ${what}`, async () => {
    await using way = await Way.start(FAILURES);
    const uid = way.api.put('web', { ...ENROLLED, ...annotations }, false, spec);
    await way.farm.add(way.farm.file(uid));
    await way.isMarked(uid);
  });
}

test('marks=failures: a pod with TPROXY gets its mark', async () => {
  await using way = await Way.start(FAILURES);
  const uid = way.api.put('web', { ...ENROLLED, 'sidecar.istio.io/interceptionMode': 'TPROXY' });
  await way.farm.add(way.farm.file(uid));
  await until(
    'marked',
    () => marksOf(way) === INITIALIZED,
    () => way.view,
  );
});

test('marks=failures: opted out while no controller ran, a pod without a mark is cleaned by the next one', async () => {
  await using way = await Way.start(FAILURES);
  const uid = way.put();
  const file = way.farm.file(uid);
  await way.farm.add(file);
  await isServed(way, uid);
  const pod = way.api.pods.get('web');
  if (pod) pod.status.phase = 'Running';
  way.annotate({ [INITIALIZE]: 'false' });
  await until(
    'skipped',
    () => way.view?.state === 'skipped' && way.running.idle(),
    () => way.view,
  );
  assert.deepEqual((await native().identify(file)).installedBackends, []);
  way.annotate({ [INITIALIZE]: 'true' });
  await isServed(way, uid);
  await way.restart(async () => way.annotate({ [INITIALIZE]: 'false' }));
  await until(
    'skipped',
    () => way.view?.state === 'skipped' && way.running.idle(),
    () => way.view,
  );
  assert.deepEqual((await native().identify(file)).installedBackends, []);
  assert.equal(way.api.patched.size, 0);
});

/** How a gate in the sidecar ended, as the kubelet reports it. */
function ended(restartCount: number, exitCode: number, message: string, finishedAt: Date) {
  const terminated = { exitCode, message, finishedAt: finishedAt.toISOString() };
  return [{ name: 'istio-proxy', restartCount, lastState: { terminated } }];
}

test('gates that ended without opening are counted once each, by reason', async () => {
  await using way = await Way.start();
  const counts = async () => {
    const text = await way.running.metrics.text();
    const lines = text.matchAll(/^istio_pod_network_controller_gate_failures_total\{reason="(.*)"\} (\d+)$/gm);
    return Object.fromEntries(
      [...lines].filter(([, , count]) => count !== '0').map(([, reason, count]) => [reason, count]),
    );
  };
  const report = async (statuses: object[], expected: Record<string, string>) => {
    const pod = way.api.pods.get('web');
    assert.ok(pod);
    pod.status.initContainerStatuses = statuses;
    way.api.tell('MODIFIED', pod);
    const seen = async () => JSON.stringify(await counts()) === JSON.stringify(expected);
    for (let look = 0; look < 200 && !(await seen()); look++) await sleep(20);
    assert.deepEqual(await counts(), expected);
  };
  const uid = way.put();
  const message = 'not redirected within 20.0 ms';
  const before = new Date(Date.now() - 60_000);
  const later = new Date(Date.now() + 60_000);
  await report(ended(1, 126, message, before), { 'controller-away': '1' });
  await report(ended(2, 126, message, later), { 'controller-away': '1', 'rules-late': '1' });
  await report(ended(3, 1, 'runs as uid 5', later), { 'controller-away': '1', 'rules-late': '1', refused: '1' });
  // The proxy that it became has no message.
  await report(ended(4, 1, '', later), { 'controller-away': '1', 'rules-late': '1', refused: '1' });
  await way.farm.add(way.farm.file(uid));
  await way.isMarked(uid);
  way.annotate({ [INITIALIZE]: 'false' });
  await until(
    'skipped',
    () => way.view?.state === 'skipped',
    () => way.view,
  );
  const all = { 'controller-away': '1', 'rules-late': '1', 'left-alone': '1', refused: '1' };
  await report(ended(5, 126, message, later), all);
});

test('rules put in front of ours: ours are moved three times, and then that is shown', async () => {
  await using way = await Way.start();
  const { uid, file } = await way.putMarked();
  const { controller } = way.running;
  const first = async () => (await inside(file, ['iptables-legacy', '-t', 'nat', '-S', 'OUTPUT'])).split('\n')[1];
  const ours = await first();
  for (let time = 1; time <= 4; time++) {
    await inside(file, ['iptables-legacy', '-t', 'nat', '-I', 'OUTPUT', '1', '-j', 'ACCEPT']);
    assert.equal(await first(), '-A OUTPUT -j ACCEPT');
    await controller.sweep();
    await until(
      'looked at',
      () => way.running.idle(),
      () => way.view,
    );
    assert.equal(await first(), time <= 3 ? ours : '-A OUTPUT -j ACCEPT');
    assert.equal(controller.preempted(), 1, 'until the next sweep has seen that it is mended');
    if (time <= 3) await controller.sweep();
    assert.equal(controller.preempted(), time <= 3 ? 0 : 1);
  }
  const shown = 'rules of other programs let traffic bypass the proxy: IPv4 nat: -A OUTPUT -j ACCEPT';
  assert.deepEqual([way.view?.state, way.view?.reason], ['initialized', shown]);
  await way.isReported('Preempted', uid, [shown]);
  await inside(file, ['iptables-legacy', '-t', 'nat', '-D', 'OUTPUT', '1']);
  await controller.sweep();
  assert.deepEqual([controller.preempted(), way.view?.reason], [0, undefined]);
});

test('a rule that was there before ours is not fought, but shown', async () => {
  await using way = await Way.start();
  const uid = way.put();
  const file = way.farm.file(uid);
  const made = `${file}-made`;
  await way.farm.add(made);
  await inside(made, ['iptables-legacy', '-t', 'nat', '-I', 'OUTPUT', '1', '-p', 'udp', '-j', 'RETURN']);
  await run('mount', ['--bind', made, await way.farm.add(file).then(() => file)]);
  await until(
    'marked',
    () => way.view?.state === 'initialized' && way.running.idle(),
    () => way.view,
  );
  const before = await inside(made, ['iptables-legacy', '-t', 'nat', '-S', 'OUTPUT']);
  for (let time = 0; time < 2; time++) {
    await way.running.controller.sweep();
    assert.equal(way.running.idle(), true);
  }
  assert.match(way.view?.reason ?? '', /IPv4 nat: -A OUTPUT -p udp -j RETURN$/);
  await way.isReported('Preempted', uid, [way.view?.reason ?? '']);
  assert.equal(await inside(made, ['iptables-legacy', '-t', 'nat', '-S', 'OUTPUT']), before);
  assert.equal(way.running.controller.preempted(), 1);
  way.annotate({ [INITIALIZE]: 'false' });
  await until(
    'skipped',
    () => way.view?.state === 'skipped' && way.running.idle(),
    () => way.view,
  );
  assert.equal(way.running.controller.preempted(), 0, 'a pod that is left alone has no rules of ours to pass by');
  await run('umount', [file]);
});

test('a pod that costs too much waits longer, whatever it changes, and others are set up meanwhile', async () => {
  await using way = await Way.start();
  const uid = way.put();
  const file = way.farm.file(uid);
  const sets = Array.from({ length: 300 }, (_, at) => `add set inet istio-proxy-nat s${at} { type ipv4_addr; }\n`);
  let looks = 0;
  const count = async () => {
    looks++;
    way.onLocate.before = count;
  };
  // The pod's own process is faster than the controller.
  way.onLocate.before = async () => {
    await way.farm.add(file);
    await restoreNft(file, `add table inet istio-proxy-nat\n${sets.join('')}`);
    await count();
  };
  // The first time may be bad luck.
  await until(
    'refused twice',
    () => looks === 2 && way.running.controller.queue().backingOff === 1,
    () => way.view,
  );
  assert.match(way.view?.reason ?? '', /too large, or change too fast.*\(ERR_BUDGET\)/);
  await way.isReported('BudgetExceeded', uid, [way.view?.reason ?? '']);
  const began = performance.now();
  for (let at = 0; at < 20; at++) way.annotate({ note: `${at}` });
  const other = way.api.put('other', { ...ENROLLED });
  await way.farm.add(way.farm.file(other));
  await until(
    'another one marked',
    () => way.running.controller.views().some(({ uid, state }) => uid === other && state === 'initialized'),
    () => way.running.controller.views(),
  );
  if (performance.now() - began < 500) assert.ok(looks <= 4, `${looks} looks at both pods`);
  await inside(file, ['nft', 'delete', 'table', 'inet', 'istio-proxy-nat']);
  await until(
    'set up in the end',
    () => way.view?.state === 'initialized',
    () => way.view,
  );
  assert.ok(performance.now() - began > 400, 'half of the first pause, at least');
});

test('a flood of changes of one pod makes little work, and the last change counts', async () => {
  await using way = await Way.start();
  const uid = way.put();
  await way.farm.add(way.farm.file(uid));
  await way.isMarked(uid);
  let looks = 0;
  const count = async () => {
    looks++;
    way.onLocate.before = count;
  };
  way.onLocate.before = count;
  const ports = (at: number) => ({ 'traffic.sidecar.istio.io/excludeInboundPorts': String(1000 + at) });
  for (let at = 0; at <= 300; at++) {
    way.annotate(ports(at));
    await sleep(5);
  }
  const rules = () => inside(way.farm.file(uid), ['iptables-legacy-save', '-t', 'nat']);
  for (const start = performance.now(); !(await rules()).includes('--dport 1300 '); await sleep(100)) {
    assert.ok(performance.now() - start < 30_000, await rules());
  }
  assert.ok(looks <= 16, `${looks} attempts for 301 changes`);
});
