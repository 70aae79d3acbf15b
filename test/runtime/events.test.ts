/** Reports of new sandboxes: which source is chosen, and what becomes of its reports. The runtimes are stand-ins. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Server, ServerCredentials, type ServerWritableStream, type sendUnaryData } from '@grpc/grpc-js';
import { runOptions } from '../../lib/config/options.ts';
import { subscribe } from '../../lib/runtime/containerd/events.ts';
import { Cri } from '../../lib/runtime/cri/client.ts';
import { getContainerEvents, listPodSandbox, type VersionResponse, version } from '../../lib/runtime/cri/messages.ts';
import { RuntimeEvents } from '../../lib/runtime/events.ts';
import { HintQueue } from '../../lib/runtime/hint-queue.ts';
import { SandboxPoller } from '../../lib/runtime/sandbox-poller.ts';
import { chooseSource } from '../../lib/runtime/source.ts';
import { SOURCES, sourcesFor } from '../../lib/runtime/sources.ts';
import { suite } from '../suite.ts';
import { isOver } from '../support/patience.ts';
import { run } from '../support/process.ts';
import { serveRaw } from '../support/raw-server.ts';
import { scratchFolder } from '../support/scratch.ts';

const UID = '0d8ee1a3-4f6b-4c5e-9d2a-6b1f0a7c88b1';
const ID = 'a'.repeat(64);

const folder = scratchFolder('events');
let made = 0;
const fresh = () => join(folder, `${made++}`);

/** By its event streams: `open` stays open, `off` ends at once, and one that is absent is not implemented. */
interface StandIn extends VersionResponse {
  items?: object[];
  containerEvents?: 'open' | 'off';
  taskCreates?: 'open';
}

/** A runtime that lists `items`. `left` resolves when a client leaves a stream. */
async function standIn({ runtimeName, runtimeVersion, items = [], containerEvents, taskCreates }: StandIn) {
  const { promise: left, resolve } = Promise.withResolvers<void>();
  const stream = (state: 'open' | 'off') => (call: ServerWritableStream<object, object>) => {
    if (state === 'off') return call.end();
    call.write({ containerId: ID });
    call.on('cancelled', resolve);
  };
  const server = new Server();
  const methods = {
    version,
    listPodSandbox,
    ...(containerEvents && { getContainerEvents }),
    ...(taskCreates && { subscribe }),
  };
  server.addService(methods, {
    version: (_: unknown, answer: sendUnaryData<object>) => answer(null, { runtimeName, runtimeVersion }),
    listPodSandbox: (_: unknown, answer: sendUnaryData<object>) => answer(null, { items }),
    ...(containerEvents && { getContainerEvents: stream(containerEvents) }),
    ...(taskCreates && { subscribe: stream(taskCreates) }),
  });
  const socket = fresh();
  await promisify(server.bindAsync.bind(server))(`unix:${socket}`, ServerCredentials.createInsecure());
  const cri = new Cri(socket);
  return {
    cri,
    left,
    [Symbol.dispose]() {
      cri.close();
      server.forceShutdown();
    },
  };
}

const item = (id: string) => ({ id, metadata: { name: 'web', uid: UID, namespace: 'shop' } });

function netnsFolder(): string {
  const folder = fresh();
  mkdirSync(folder);
  return folder;
}

const choice = suite('runtime events, choice');

const NRI = 'nri: auto does not use it, because pods outside of the mesh would wait for the controller too';
const CONTAINERD = { containerEvents: 'open', taskCreates: 'open' } as const;
const choices: { runtime: StandIn; wanted?: string; source: string; reason: string }[] = [
  {
    runtime: { runtimeName: 'containerd', runtimeVersion: 'v1.7.24', ...CONTAINERD },
    source: 'containerd',
    reason: `containerd v1.7.24; ${NRI}`,
  },
  {
    runtime: { runtimeName: 'containerd', runtimeVersion: 'v1.7.24', ...CONTAINERD },
    wanted: 'cri',
    source: 'none',
    reason:
      'containerd v1.7.24; cri: this runtime gives each event to one client only, so the kubelet would miss events',
  },
  {
    runtime: { runtimeName: 'containerd', runtimeVersion: 'v2.1.9', ...CONTAINERD },
    wanted: 'cri',
    source: 'cri',
    reason: 'containerd v2.1.9',
  },
  {
    runtime: { runtimeName: 'containerd', runtimeVersion: 'v2.1.9', containerEvents: 'open' },
    source: 'cri',
    reason: `containerd v2.1.9; ${NRI}; containerd: UNIMPLEMENTED`,
  },
  {
    runtime: { runtimeName: 'cri-o', runtimeVersion: '1.36.3', containerEvents: 'open' },
    source: 'inotify',
    reason:
      `cri-o 1.36.3; ${NRI}; containerd: the runtime is cri-o; ` +
      "cri: auto does not use it, because a stopped controller would keep CRI-O's events from the kubelet",
  },
  {
    runtime: { runtimeName: 'cri-o', runtimeVersion: '1.36.3', containerEvents: 'open' },
    wanted: 'cri',
    source: 'cri',
    reason: 'cri-o 1.36.3',
  },
  {
    runtime: { runtimeName: 'cri-o', runtimeVersion: '1.36.3', containerEvents: 'off' },
    wanted: 'cri',
    source: 'none',
    reason: 'cri-o 1.36.3; cri: its events are off',
  },
  {
    runtime: { runtimeName: 'docker', runtimeVersion: '28.0.0' },
    source: 'inotify',
    reason: `docker 28.0.0; ${NRI}; containerd: the runtime is docker; cri: this runtime gives each event to one client only, so the kubelet would miss events`,
  },
];
for (const { runtime, wanted = 'auto', source, reason } of choices) {
  const { runtimeName, runtimeVersion, containerEvents = 'not implemented' } = runtime;
  choice(`${wanted} on ${runtimeName} ${runtimeVersion}, container events ${containerEvents}: ${source}`, async () => {
    using runs = await standIn(runtime);
    const end = new AbortController();
    const sources = sourcesFor(wanted);
    const events = new RuntimeEvents({ cri: runs.cri, netnsFolder: netnsFolder(), sources, signal: end.signal });
    await events.chosen;
    assert.deepEqual([events.source, events.reason], [source, reason]);
    end.abort();
  });
}

choice('NRI needs its socket', async () => {
  using runs = await standIn({ runtimeName: 'containerd', runtimeVersion: 'v1.7.24' });
  const end = new AbortController();
  const hostRoot = netnsFolder();
  const events = new RuntimeEvents({ cri: runs.cri, hostRoot, sources: sourcesFor('nri'), signal: end.signal });
  await events.chosen;
  const reason = `containerd v1.7.24; nri: ${hostRoot}/run/nri/nri.sock does not exist`;
  assert.deepEqual([events.source, events.reason], ['none', reason]);
  end.abort();
});

choice('inotify needs the folder', async () => {
  using runs = await standIn({ runtimeName: 'docker', runtimeVersion: '28.0.0' });
  const runtime = { cri: runs.cri, version: await runs.cri.version(), criSocket: undefined, hostRoot: '' };
  const { signal } = new AbortController();
  const { chosen, reason } = await chooseSource(sourcesFor('inotify'), { ...runtime, netnsFolder: '/none' }, signal);
  assert.equal(chosen, undefined);
  assert.equal(reason, 'docker 28.0.0; inotify: /none does not exist');
});

choice('the option takes every source by its name', () => {
  const origin = { field: '--runtime-events', source: 'flag' as const };
  for (const { name } of SOURCES) {
    assert.equal(runOptions.runtimeEvents.parse(name, origin), name);
    assert.ok(runOptions.runtimeEvents.help.includes(name));
    assert.deepEqual(
      sourcesFor(name).map((source) => source.name),
      [name],
    );
  }
  assert.deepEqual(sourcesFor('off'), []);
  assert.throws(() => runOptions.runtimeEvents.parse('other', origin), /expected|auto/);
});

choice('the list of sources, which every verb reads, loads neither gRPC nor protobufjs', async () => {
  const url = new URL('../../lib/runtime/sources.ts', import.meta.url).href;
  const loaded = `await import('${url}'); console.log(Object.keys(process.getBuiltinModule('module')._cache).join())`;
  const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', loaded]);
  assert.doesNotMatch(stdout, /grpc-js|protobufjs/);
});

const queue = suite('runtime events, queue');

queue('keeps the newest of each sandbox, in order, and a bounded number', async () => {
  const queue = new HintQueue();
  for (const sandboxId of ['a', 'b', 'a']) queue.push({ sandboxId });
  queue.push({ sandboxId: 'a', podUid: 'x' });
  const end = new AbortController();
  const taken: string[] = [];
  for await (const { sandboxId, podUid = '' } of queue.take(end.signal)) {
    if (taken.push(sandboxId + podUid) === 2) end.abort();
  }
  assert.deepEqual(taken, ['ax', 'b']);
  for (let at = 0; at < 5000; at++) queue.push({ sandboxId: `${at}` });
  assert.equal(queue.dropped, 5000 - 4096);
});

queue('a hint is not completed with what is known of another pod', async () => {
  const queue = new HintQueue();
  queue.push({ sandboxId: 'a', podUid: 'x', netnsPath: '/run/netns/x', justMade: true });
  queue.push({ sandboxId: 'a', podUid: 'y' });
  for await (const hint of queue.take(new AbortController().signal)) {
    assert.deepEqual(hint, { sandboxId: 'a', podUid: 'y' });
    break;
  }
});

queue('ends with the signal while a consumer waits', async () => {
  const end = new AbortController();
  const next = new HintQueue().take(end.signal).next();
  setImmediate(() => end.abort());
  assert.equal((await next).done, true);
});

const reports = suite('runtime events, reports');

reports('CRI-O without events: new files in /run/netns, and then its list', async () => {
  const items = [item('first')];
  using runs = await standIn({ runtimeName: 'cri-o', runtimeVersion: '1.36.3', containerEvents: 'off', items });
  const folder = netnsFolder();
  const end = new AbortController();
  const events = new RuntimeEvents({ cri: runs.cri, netnsFolder: folder, signal: end.signal });
  const taken: string[] = [];
  for await (const { sandboxId, podUid } of events) {
    assert.equal(podUid, UID);
    taken.push(sandboxId);
    if (sandboxId === 'second') end.abort();
    else {
      writeFileSync(join(folder, 'cni-2'), '');
      setTimeout(() => items.push(item('second')), 90);
    }
  }
  assert.deepEqual(taken, ['first', 'second']);
});

reports('a stream that is left early is cancelled, and other calls go on', async () => {
  using runs = await standIn({ runtimeName: 'cri-o', runtimeVersion: '1.36.3', containerEvents: 'open' });
  for await (const { containerId } of runs.cri.containerEvents(new AbortController().signal)) {
    assert.equal(containerId, ID);
    break;
  }
  await runs.left;
  assert.equal((await runs.cri.version()).runtimeName, 'cri-o');
});

for (const { folders, watched } of [
  { folders: 2, watched: 2 },
  { folders: 100, watched: 8 },
]) {
  reports(`containerd names ${folders} folders of bundles in turns: it watches ${watched}, each once`, async () => {
    const hostRoot = fresh();
    for (let at = 0; at < folders; at++) mkdirSync(join(hostRoot, `${at}`), { recursive: true });
    const end = new AbortController();
    const sent = Promise.withResolvers<void>();
    const cri = {
      version: async () => ({ runtimeName: 'containerd', runtimeVersion: '2.1.0' }),
      sandboxes: async () => [],
      channel: {
        async *stream(_method: unknown, _request: unknown, signal: AbortSignal) {
          for (let at = 0; at < 5 * folders; at++) {
            yield { event: { value: taskCreate(`${at}`, `/${at % folders}/${at}`) } };
          }
          sent.resolve();
          await once(signal, 'abort');
        },
      },
    };
    const watches = () => process.getActiveResourcesInfo().filter((name) => name === 'FSEventWrap').length;
    const before = watches();
    new RuntimeEvents({ cri: cri as unknown as Cri, hostRoot, signal: end.signal });
    await sent.promise;
    assert.equal(watches() - before, watched);
    end.abort();
    for (const began = performance.now(); watches() > before; await sleep(5)) assert.ok(!isOver(began, 1000));
  });
}

reports('a list that is larger than a message of gRPC: the events are used without it', async () => {
  const items = [{ id: 'x'.repeat(17 * 1024 * 1024) }];
  using runs = await standIn({ runtimeName: 'containerd', runtimeVersion: 'v2.1.9', ...CONTAINERD, items });
  const end = new AbortController();
  const events = new RuntimeEvents({ cri: runs.cri, hostRoot: netnsFolder(), signal: end.signal });
  for (const began = performance.now(); !events.reason.includes('EXHAUSTED'); await sleep(5))
    assert.ok(!isOver(began, 3000));
  assert.match(events.reason, /^containerd v2\.1\.9; .*RESOURCE_EXHAUSTED/);
  assert.deepEqual([events.source, events.stats.losses], ['containerd', 0]);
  end.abort();
});

reports('a socket that never answers, or answers with other bytes than gRPC: each call has a limit', async () => {
  for (const behave of [() => {}, (socket: Socket) => socket.write(Buffer.alloc(1_000_000, 'x'))]) {
    const path = fresh();
    using _server = await serveRaw(path, behave);
    const cri = new Cri(path, 200);
    const began = performance.now();
    await assert.rejects(cri.version(), { code: 'ERR_RUNTIME', status: /^(DEADLINE_EXCEEDED|UNAVAILABLE)$/ });
    assert.ok(!isOver(began, 1000));
    cri.close();
  }
});

/** containerd.events.TaskCreate {container_id = 1, bundle = 2}. */
function taskCreate(id: string, bundle: string): Buffer {
  const field = (number: number, text: string) => [Buffer.from([number * 8 + 2, text.length]), Buffer.from(text)];
  return Buffer.concat([...field(1, id), ...field(2, bundle)]);
}

const poller = suite('runtime events, poller');

poller('what the source reported itself is not reported again, and what it announced is', async () => {
  const items = [{ id: 'a' }, { id: 'b' }];
  const cri = { sandboxes: async () => items, sandbox: async () => undefined } as unknown as Cri;
  const reported: string[] = [];
  const end = new AbortController();
  const polling = new SandboxPoller(cri, ({ sandboxId }) => reported.push(sandboxId), end.signal);
  polling.note('a');
  polling.expect('b');
  for (const began = performance.now(); reported.length === 0; await sleep(5)) assert.ok(!isOver(began, 1000));
  assert.deepEqual(reported, ['b']);
  end.abort();
});

poller('a list that takes long is asked for in a third of the time at most', async () => {
  const LIST_MS = 60;
  let lists = 0;
  const end = new AbortController();
  const sandboxes = async () => {
    await sleep(LIST_MS);
    if (++lists === 4) end.abort();
    return [];
  };
  const began = performance.now();
  new SandboxPoller({ sandboxes, sandbox: async () => undefined }, () => {}, end.signal).expect('never');
  await once(end.signal, 'abort');
  const took = performance.now() - began;
  assert.ok(took >= 4 * LIST_MS + 3 * 2 * LIST_MS, `4 lists in ${took} ms`);
});
