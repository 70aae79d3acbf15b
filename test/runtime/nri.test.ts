/** NRI as a source of events, against a stand-in for the runtime's side; the real one is in test/cluster. */

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Cri } from '../../lib/runtime/cri/client.ts';
import { RuntimeEvents } from '../../lib/runtime/events.ts';
import type { SandboxHint } from '../../lib/runtime/hint-queue.ts';
import { ByteQueue } from '../../lib/runtime/nri/bytes.ts';
import { request, runPodSandboxRequest, synchronizeRequest } from '../../lib/runtime/nri/messages.ts';
import { NriPlugin } from '../../lib/runtime/nri/plugin.ts';
import { sourcesFor } from '../../lib/runtime/sources.ts';
import { suite } from '../suite.ts';
import { frame, NriRuntime, type Pod } from '../support/nri-runtime.ts';
import { isOver, patience } from '../support/patience.ts';
import { serveRaw } from '../support/raw-server.ts';
import { scratchFolder } from '../support/scratch.ts';

const folder = scratchFolder('nri');
let made = 0;

/** Takes each hint to `onHint`. */
async function connected(
  onHint: (hint: SandboxHint) => void,
  use: (runtime: NriRuntime, events: RuntimeEvents) => Promise<void>,
  prepare: (runtime: NriRuntime) => void = () => {},
  failClosed = false,
): Promise<void> {
  const hostRoot = join(folder, `${made++}`);
  mkdirSync(join(hostRoot, 'run/nri'), { recursive: true });
  await using runtime = await NriRuntime.start(join(hostRoot, 'run/nri/nri.sock'));
  prepare(runtime);
  const cri = { version: async () => ({ runtimeName: 'cri-o', runtimeVersion: '1.36.3' }) } as unknown as Cri;
  const end = new AbortController();
  const events = new RuntimeEvents({ cri, hostRoot, failClosed, sources: sourcesFor('nri'), signal: end.signal });
  const taking = (async () => {
    for await (const hint of events) onHint(hint);
  })();
  try {
    await until(() => runtime.plugins.length === 1);
    await use(runtime, events);
  } finally {
    end.abort();
    await taking;
  }
}

async function until(isSo: () => boolean): Promise<void> {
  for (const began = performance.now(); !isSo(); await sleep(2)) assert.ok(!isOver(began, 2000));
}

const pod = (name: string, netns = `/var/run/netns/${name}`): Pod => ({
  id: `id-${name}`,
  name,
  uid: `uid-${name}`,
  namespace: 'shop',
  ...(netns !== '' && {
    linux: {
      namespaces: [
        { type: 'ipc', path: '/x' },
        { type: 'network', path: netns },
      ],
    },
  }),
  ips: ['10.244.1.2'],
});

const test = suite('NRI');

test('registers for RunPodSandbox alone, and takes the list in parts', async () => {
  const hints: SandboxHint[] = [];
  await connected(
    (hint) => hints.push(hint),
    async (runtime, events) => {
      const [plugin] = runtime.plugins;
      assert.deepEqual([plugin?.name, plugin?.index, plugin?.events], ['istio-pod-network-controller', '50', 1]);
      assert.deepEqual(plugin?.echoes, [true, true]);
      await until(() => hints.length === 2);
      // The second is on the node's network.
      assert.deepEqual(
        hints.map(({ sandboxId }) => sandboxId),
        ['id-a', 'id-c'],
      );
      assert.equal(hints[0]?.proceed, undefined);
      assert.equal(hints[0]?.justMade, undefined, 'rules may be in there already');
      assert.deepEqual([events.source, events.reason], ['nri', 'cri-o 1.36.3']);
    },
    (runtime) => {
      runtime.lists = () => [[pod('a'), pod('b', '')], [pod('c')]];
    },
  );
});

for (const old of [false, true]) {
  test(`the runtime continues when the plugin answers${old ? ', up to NRI 0.11 too' : ''}`, async () => {
    let answered = 0;
    await connected(
      (hint) => {
        assert.deepEqual(
          { ...hint, enrolled: undefined, proceed: undefined },
          {
            sandboxId: 'id-web',
            podUid: 'uid-web',
            netnsPath: '/var/run/netns/web',
            ips: ['10.244.1.2'],
            justMade: true,
            enrolled: undefined,
            proceed: undefined,
          },
        );
        setTimeout(() => {
          answered = performance.now();
          hint.proceed?.();
        }, 100);
      },
      async (runtime) => {
        runtime.old = old;
        await runtime.run(pod('web'));
        assert.ok(answered > 0, 'the runtime did not wait');
      },
    );
  });
}

test("a pod on the node's network is answered at once, and not reported", async () => {
  await connected(
    () => assert.fail('reported'),
    async (runtime) => {
      assert.ok((await runtime.run(pod('host', ''))) < 100 * patience());
    },
  );
});

test('without an answer the runtime waits less than its limit, and then only briefly until an answer is in time', async () => {
  let answers = false;
  await connected(
    ({ proceed }) => {
      if (answers) proceed?.();
    },
    async (runtime) => {
      const took = async (name: string) => Math.round(await runtime.run(pod(name)));
      const first = await took('a');
      assert.ok(first >= 490 && first < 1500, `${first} ms`);
      const second = await took('b');
      assert.ok(second >= 45 && second < 400, `${second} ms`);
      answers = true;
      assert.ok((await took('c')) < second);
      answers = false;
      const patient = await took('d');
      assert.ok(patient >= 490, `${patient} ms`);
    },
  );
});

for (const failClosed of [false, true]) {
  test(`a pod whose rules are not installed, fail-closed ${failClosed}`, async () => {
    let behaves: (hint: SandboxHint) => void = () => {};
    await connected(
      (hint) => behaves(hint),
      async (runtime) => {
        const outcome = async (name: string, as: typeof behaves) => {
          behaves = as;
          return runtime.run(pod(name)).then(
            () => 'runs',
            (error: Error) => error.message,
          );
        };
        const problem = 'ERR_CONFIG: no such port';
        const refusal = (why: string) => `RunPodSandbox: no redirect rules for the pod: ${why} (code 2)`;
        const enrolled = await outcome('enrolled', (hint) => {
          hint.enrolled?.();
          hint.proceed?.(problem);
        });
        assert.equal(enrolled, failClosed ? refusal(problem) : 'runs');
        const other = await outcome('other', (hint) => hint.proceed?.(problem));
        assert.equal(other, 'runs');
        for (const name of ['late', 'late again']) {
          const began = performance.now();
          const late = await outcome(name, (hint) => hint.enrolled?.());
          assert.equal(late, failClosed ? refusal('nothing was installed within 500 ms') : 'runs');
          const took = performance.now() - began;
          // An enrolled pod has the whole time, also after one that was late.
          if (failClosed) assert.ok(took >= 490 && took < 1500, `${took} ms`);
        }
        const began = performance.now();
        assert.equal(await outcome('unknown', () => {}), 'runs');
        assert.ok(performance.now() - began < 400, 'a pod that may not be ours waits for the pods before it');
      },
      () => {},
      failClosed,
    );
  });
}

test('a runtime with a short limit is answered in a quarter of it', async () => {
  await connected(
    () => {},
    async (runtime, events) => {
      const waits: number[] = [];
      events.onWait((ms) => waits.push(ms));
      const took = await runtime.run(pod('a'));
      assert.ok(took >= 95 && took < 380, `${took} ms`);
      const [wait = 0, ...others] = waits;
      assert.deepEqual(others, []);
      assert.ok(wait >= 95 && wait <= took, `the controller says ${wait} ms of ${took} ms`);
    },
    (runtime) => {
      runtime.requestMs = 400;
    },
  );
});

test('the runtime is killed and comes back: registered anew, with the list', async () => {
  const hints: string[] = [];
  await connected(
    ({ sandboxId }) => hints.push(sandboxId),
    async (runtime, events) => {
      await runtime.kill();
      await until(() => events.source === 'none');
      assert.equal(events.reason, 'the runtime closed the connection');
      runtime.lists = () => [[pod('survivor')]];
      await runtime.listen();
      await until(() => runtime.plugins.length === 2 && hints.length === 1);
      assert.deepEqual(hints, ['id-survivor']);
      assert.equal(events.stats.losses, 1);
    },
  );
});

test('large messages are sent in frames that the peer takes, and received whole', async () => {
  const hints: SandboxHint[] = [];
  await connected(
    (hint) => hints.push(hint),
    async () => until(() => hints.length === 500),
    (runtime) => {
      const labels = { text: 'x'.repeat(3000) };
      runtime.lists = () => [Array.from({ length: 500 }, (_, at) => ({ ...pod(`${at}`), labels }))];
    },
  );
});

test('a frame or a message beyond the limit ends the connection', async () => {
  for (const bytes of [
    [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff],
    [0, 0, 0, 1, 0, 0, 0, 10, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0],
  ]) {
    await connected(
      () => {},
      async (runtime, events) => {
        runtime.plugins[0]?.socket.write(Buffer.from(bytes));
        await until(() => events.source === 'none');
        assert.match(events.reason, /^a (frame|message) of 4294967295 bytes, expected \d+ at most$/);
      },
    );
  }
});

test('bytes are taken in any lengths, however they arrive', () => {
  const all = Buffer.from(Array.from({ length: 256 }, (_, at) => at));
  for (const piece of [1, 3, 7, 100, 256]) {
    const queue = new ByteQueue();
    const taken: Buffer[] = [];
    for (let at = 0; at < all.length; at += piece) {
      queue.push(all.subarray(at, at + piece));
      for (let part = queue.take(5); part !== undefined; part = queue.take(5)) taken.push(Buffer.from(part));
    }
    taken.push(queue.take(1) ?? Buffer.alloc(0));
    assert.equal(queue.peek(1), undefined);
    assert.deepEqual(Buffer.concat(taken), all, `pieces of ${piece}`);
  }
});

/** docs/security.md has a row for each of these. */
const hostile = suite('NRI, a hostile runtime');

/** Connections and types of ttrpc. */
const [PLUGIN, RUNTIME, REQUEST, RESPONSE] = [1, 2, 1, 2];
const GARBAGE = Buffer.alloc(100, 0xff);

const run = (name: string) =>
  request.encode({
    service: 's',
    method: 'RunPodSandbox',
    payload: runPodSandboxRequest.encode({ pod: nriPod(name) }),
  });
const nriPod = (name: string) => ({
  ...{ id: `id-${name}`, name, uid: `uid-${name}`, namespace: 'shop', ips: ['10.244.1.2'] },
  linux: { namespaces: [{ type: 'network', path: `/var/run/netns/${name}` }] },
});

hostile('it does not answer the registration, or with anything else', async () => {
  const behaviours: ((socket: Socket) => void)[] = [
    () => {},
    // Frames without a byte, on a connection that does not exist.
    (socket) => socket.on('drain', () => socket.write(Buffer.alloc(65_536))).write(Buffer.alloc(65_536)),
    (socket) => socket.write(frame(RUNTIME, 99, RESPONSE, Buffer.alloc(0))),
    // The plugin answers once it is registered.
    (socket) => socket.write(frame(PLUGIN, 1, REQUEST, run('early'))),
    (socket) => socket.write(GARBAGE),
    (socket) => socket.write(frame(RUNTIME, 1, RESPONSE, GARBAGE)),
  ];
  const outcomes = await Promise.all(
    behaviours.map(async (behave, at) => {
      const path = join(folder, `hostile-${at}.sock`);
      using _server = await serveRaw(path, behave);
      const outcome = await NriPlugin.connect(path, new AbortController().signal).catch(
        ({ message }: Error) => message,
      );
      return outcome;
    }),
  );
  const late = 'the runtime did not register the plugin within 1000 ms';
  const [, , , , ...broken] = outcomes;
  assert.deepEqual(outcomes, [late, late, late, late, ...broken]);
  assert.match(String(broken[0]), /^a frame of 4294967295 bytes, expected \d+ at most$/);
  assert.match(String(broken[1]), /^index out of range|^invalid wire type/);
});

hostile('connections, calls and answers that do not exist are ignored, and the next pod is served', async () => {
  const hints: string[] = [];
  await connected(
    ({ sandboxId, proceed }) => {
      hints.push(sandboxId);
      proceed?.();
    },
    async (runtime, events) => {
      const [plugin] = runtime.plugins;
      const call = (method: string, payload: Buffer) =>
        frame(PLUGIN, 1001, REQUEST, request.encode({ service: 's', method, payload }));
      for (const bytes of [
        frame(77, 1, REQUEST, run('nobody')),
        frame(RUNTIME, 99, RESPONSE, GARBAGE),
        frame(PLUGIN, 1, RESPONSE, GARBAGE),
        frame(RUNTIME, 1, REQUEST, run('nobody')),
        frame(PLUGIN, 1001, REQUEST, GARBAGE),
        call('RunPodSandbox', GARBAGE),
        call('StateChange', Buffer.alloc(0)),
        call('RunPodSandbox', Buffer.alloc(0)),
        call('x'.repeat(1_000_000), Buffer.alloc(0)),
      ])
        plugin?.socket.write(bytes);
      await runtime.run(pod('web'));
      assert.deepEqual([events.source, hints], ['nri', ['id-web']]);
      assert.equal(events.stats.losses, 0);
    },
  );
});

hostile('more calls at the same time than 256 end the connection', async () => {
  await connected(
    () => {},
    async (runtime, events) => {
      const calls = Array.from({ length: 300 }, (_, at) => frame(PLUGIN, 2 * at + 1001, REQUEST, run(`${at}`)));
      runtime.plugins[0]?.socket.write(Buffer.concat(calls));
      await until(() => events.source === 'none');
      assert.equal(events.reason, 'more than 256 calls at the same time');
    },
  );
});

hostile('answers that it does not read end the connection', async () => {
  await connected(
    () => {},
    async (runtime, events) => {
      const socket = runtime.plugins[0]?.socket;
      socket?.pause();
      const call = request.encode({ service: 's', method: 'x'.repeat(1000), payload: Buffer.alloc(0) });
      for (let times = 0; times < 5000; times++) socket?.write(frame(PLUGIN, 1001, REQUEST, call));
      await until(() => events.source === 'none');
      assert.match(events.reason, /^the peer did not read 1\d{6} bytes$/);
    },
  );
});

hostile('a list of thousands of sandboxes: the newest 4,096 count, and a longer one is refused', async () => {
  await connected(
    () => {},
    async (runtime, events) => {
      const { client } = runtime.plugins[0] ?? assert.fail();
      const list = (length: number) =>
        synchronizeRequest.encode({ pods: Array.from({ length }, (_, at) => nriPod(`${at}`)), more: false });
      await client.call('Synchronize', list(4500));
      assert.equal(events.stats.dropped, 4500 - 4096);
      const refusal = 'Synchronize: expected at most 65536 fields in a message (code 2)';
      await assert.rejects(client.call('Synchronize', list(8000)), { message: refusal });
      assert.equal(events.source, 'nri');
    },
  );
});

hostile('whatever limit it names, and however late the answer is, it waits for 500 ms at most', async () => {
  for (const namedMs of [-5, 2 ** 62]) {
    let answered: Promise<void> | undefined;
    await connected(
      ({ proceed }) => {
        answered ??= sleep(700).then(() => proceed?.());
      },
      async (runtime, events) => {
        const took = await runtime.run(pod('late'));
        assert.ok(took >= 490 && took < 1500 * patience(), `${took} ms`);
        await answered;
        await runtime.run(pod('next'));
        assert.equal(events.source, 'nri');
      },
      (runtime) => {
        runtime.namedMs = namedMs;
      },
    );
  }
});

hostile('bytes that come one by one take no more memory than in one piece', () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const queue = new ByteQueue();
  collect();
  const before = process.memoryUsage().heapUsed;
  const length = 300_000;
  for (let at = 0; at < length; at++) queue.push(Buffer.from([at % 251]));
  collect();
  const used = process.memoryUsage().heapUsed - before;
  assert.ok(used < 3_000_000, `${used} bytes`);
  assert.equal(queue.take(length)?.at(-1), (length - 1) % 251);
});
