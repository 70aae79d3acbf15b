/** From a pod to its netns, on what runtimes answer and leave behind; the runtimes themselves are in test/cluster. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Server, ServerCredentials, type ServerWritableStream, type sendUnaryData } from '@grpc/grpc-js';
import type { Identity } from '../../lib/native/addon.ts';
import { Locator, type LocatorOptions, type PodRef } from '../../lib/netns/locate.ts';
import { containerIdOf, isOfPod } from '../../lib/netns/proc.ts';
import { bundleFolders } from '../../lib/runtime/containerd/state.ts';
import { RuntimeError } from '../../lib/runtime/cri/channel.ts';
import { Cri } from '../../lib/runtime/cri/client.ts';
import { getContainerEvents, listPodSandbox, type PodSandboxStatus, version } from '../../lib/runtime/cri/messages.ts';
import { type Sandbox, sandboxOf } from '../../lib/runtime/cri/sandbox.ts';
import { RuntimeEvents } from '../../lib/runtime/events.ts';
import { HintQueue } from '../../lib/runtime/hint-queue.ts';
import { chooseKind } from '../../lib/runtime/kind.ts';
import { onNode } from '../../lib/runtime/node-paths.ts';
import { suite } from '../suite.ts';
import { scratchFolder } from '../support/scratch.ts';

const UID = '0d8ee1a3-4f6b-4c5e-9d2a-6b1f0a7c88b1';
const OTHER = '5c0c9a52-90a1-4a43-8a6c-21d8b3e2f7d4';
const HASH = '3f2b6c1d9e8a7f605142a3b4c5d6e7f8';
const ID = 'a'.repeat(64);
const TASKS = 'run/containerd/io.containerd.runtime.v2.task/k8s.io';
const NETNS = '/var/run/netns/cni-1';
const POD: PodRef = { uid: UID, namespace: 'shop', name: 'web', ips: [] };

const folder = scratchFolder('locate');
let made = 0;
const fresh = () => join(folder, `${made++}`);

const cgroups = suite('locate, cgroups');
for (const [name, line, uid = UID] of [
  ['v1, cgroupfs, burstable', `11:memory:/kubepods/burstable/pod${UID}/${ID}`],
  ['v1, cgroupfs, guaranteed', `4:cpu,cpuacct:/kubepods/pod${UID}/${ID}`],
  ['v1, below a root', `1:name=systemd:/nested/kubepods/besteffort/pod${UID}/${ID}`],
  ['v2, cgroupfs', `0::/kubepods/besteffort/pod${UID}/${ID}`],
  [
    'v2, systemd, containerd',
    `0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${UID.replaceAll('-', '_')}.slice/cri-containerd-${ID}.scope`,
  ],
  [
    'v2, systemd, guaranteed, CRI-O',
    `0::/kubepods.slice/kubepods-pod${UID.replaceAll('-', '_')}.slice/crio-${ID}.scope`,
  ],
  [
    'v2, systemd, docker',
    `0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod${UID.replaceAll('-', '_')}.slice/docker-${ID}.scope`,
  ],
  [
    'v2, systemd, from another cgroup namespace',
    `0::/../../kubepods-burstable-pod${UID.replaceAll('-', '_')}.slice/cri-containerd-${ID}.scope`,
  ],
  ['k3s, below a service', `0::/system.slice/k3s.service/kubepods/burstable/pod${UID}/${ID}`],
  ['a static pod', `0::/kubepods/burstable/pod${HASH}/${ID}`, HASH],
  [
    'a static pod, systemd',
    `0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${HASH}.slice/cri-containerd-${ID}.scope`,
    HASH,
  ],
] as const) {
  cgroups(name, () => {
    const text = `12:pids:/\n${line}\n`;
    assert.ok(isOfPod(text, uid));
    assert.equal(containerIdOf(text), ID);
    assert.ok(!isOfPod(text, OTHER));
  });
}

cgroups('what only looks like the pod', () => {
  assert.ok(!isOfPod(`0::/kubepods/pod${UID}0/${ID}`, UID));
  assert.ok(!isOfPod(`0::/kubepods/pod0${UID}/${ID}`, UID));
  assert.ok(!isOfPod(`0::/user.slice/${UID}`, UID));
  assert.ok(!isOfPod('0::/kubepods/pod/x', ''));
});

const answers = suite('locate, what the CRI answers');

const STATUS: PodSandboxStatus = {
  id: ID,
  metadata: { name: 'web', uid: UID, namespace: 'shop', attempt: 1 },
  state: 'SANDBOX_READY',
  createdAt: '1795255484392013510',
  network: { ip: '10.244.1.2', additionalIps: [{ ip: 'fd00::2' }] },
  linux: { namespaces: { options: { network: 'POD' } } },
};
const spec = (...namespaces: { type: string; path?: string }[]) => ({
  ociVersion: '1.1.0',
  linux: { namespaces: [{ type: 'pid' }, { type: 'ipc' }, ...namespaces] },
});
const told = (info: object | string, status: Partial<PodSandboxStatus> = {}) =>
  sandboxOf({
    status: { ...STATUS, ...status },
    info: { info: typeof info === 'string' ? info : JSON.stringify(info) },
  });

answers('containerd 1.6, 1.7, 2.x: pid and path', () => {
  const shapes = [
    {
      pid: 184,
      processStatus: 'running',
      netNamespaceClosed: false,
      runtimeSpec: spec({ type: 'network', path: NETNS }),
    },
    { pid: 184, netNamespaceClosed: false, sandboxMetadata: {}, runtimeSpec: spec({ type: 'network', path: NETNS }) },
  ];
  for (const shape of shapes) {
    assert.deepEqual(told(shape), {
      id: ID,
      uid: UID,
      namespace: 'shop',
      name: 'web',
      attempt: 1,
      state: 'ready',
      createdAt: 1795255484392013510n,
      ips: ['10.244.1.2', 'fd00::2'],
      netnsPath: NETNS,
      pid: 184,
      netnsClosed: false,
      hostNetwork: false,
    });
  }
});

answers('containerd, stopped: the path is still told', () => {
  const sandbox = told(
    { pid: 0, processStatus: 'deleted', netNamespaceClosed: true, runtimeSpec: spec({ type: 'network', path: NETNS }) },
    { state: 'SANDBOX_NOTREADY', network: { ip: '', additionalIps: [] } },
  );
  assert.deepEqual([sandbox?.state, sandbox?.pid, sandbox?.netnsClosed, sandbox?.ips], ['stopped', 0, true, []]);
});

answers('CRI-O: a path and no pid', () => {
  const sandbox = told({ image: 'pause', runtimeSpec: spec({ type: 'network', path: '/var/run/netns/9f7' }) });
  assert.deepEqual([sandbox?.netnsPath, sandbox?.pid, sandbox?.netnsClosed], ['/var/run/netns/9f7', undefined, false]);
});

answers('cri-dockerd: nothing more than the status', () => {
  for (const info of ['', '{}', 'none']) {
    const sandbox = told(info);
    assert.deepEqual([sandbox?.netnsPath, sandbox?.pid, sandbox?.hostNetwork], [undefined, undefined, false]);
  }
});

answers("the node's network, told either way", () => {
  assert.equal(told({ pid: 184, runtimeSpec: spec() })?.hostNetwork, true);
  assert.equal(told('', { linux: { namespaces: { options: { network: 'NODE' } } } })?.hostNetwork, true);
  assert.equal(told({ runtimeSpec: spec({ type: 'network' }) })?.hostNetwork, false);
});

const locate = suite('locate');

const SANDBOX = told({
  pid: 7,
  netNamespaceClosed: false,
  runtimeSpec: spec({ type: 'network', path: NETNS }),
}) as Sandbox;

function cri(...sandboxes: Sandbox[]): NonNullable<LocatorOptions['cri']> {
  return {
    sandboxes: async () => sandboxes,
    sandbox: async (id) => sandboxes.find((sandbox) => sandbox.id === id),
  };
}
const down = new RuntimeError('UNAVAILABLE', 'nobody answers');
const CRI_DOWN = { sandboxes: () => Promise.reject(down), sandbox: () => Promise.reject(down) };

/** A stand-in for the addon: netns by path, or the code of the error that it rejects with. */
function kernel(netns: Record<string, string[] | string>) {
  return async (path: string): Promise<Identity> => {
    const found = netns[path] ?? 'ENOENT';
    if (typeof found === 'string') throw Object.assign(new Error(found), { code: found });
    const cookie = BigInt(Object.keys(netns).indexOf(path));
    return {
      path,
      dev: 4,
      ino: 1,
      cookie,
      addresses: found,
      families: [4],
      ipv6: true,
      loUp: true,
      foreignUserns: false,
      installedBackends: [],
    };
  };
}

interface Process {
  uid: string;
  id?: string;
  comm?: string;
  parent?: number;
}

interface Task {
  uid: string;
  type?: 'sandbox' | 'container';
  netns?: string;
  pid?: number;
  /** Seconds. */
  age?: number;
}

function writeTask(folder: string, { uid, type = 'sandbox', netns, pid, age = 0 }: Task): void {
  mkdirSync(folder, { recursive: true });
  const annotations = {
    'io.kubernetes.cri.container-type': type,
    'io.kubernetes.cri.sandbox-uid': uid,
    'io.kubernetes.cri.sandbox-namespace': 'shop',
    'io.kubernetes.cri.sandbox-name': 'web',
  };
  const namespaces = netns === undefined ? [] : [{ type: 'network', path: netns }];
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ annotations, linux: { namespaces } }));
  utimesSync(join(folder, 'config.json'), 1000, 1000 - age);
  if (pid !== undefined) writeFileSync(join(folder, 'init.pid'), `${pid}`);
}

/** A node's files: sandboxes in containerd's state, and processes. */
function node(tasks?: Record<string, Task>, processes: Record<number, Process> = {}) {
  const hostRoot = fresh();
  mkdirSync(join(hostRoot, 'proc'), { recursive: true });
  for (const [id, task] of Object.entries(tasks ?? {})) writeTask(join(hostRoot, TASKS, id), task);
  for (const [pid, { uid, id = ID, comm = 'app', parent = 1 }] of Object.entries(processes)) {
    mkdirSync(join(hostRoot, 'proc', pid));
    writeFileSync(join(hostRoot, 'proc', pid, 'cgroup'), `0::/kubepods/pod${uid}/${id}\n`);
    writeFileSync(join(hostRoot, 'proc', pid, 'stat'), `${pid} (${comm}) S ${parent} 1 1 0`);
  }
  return {
    hostRoot,
    netns: (name: string) => join(hostRoot, 'run/netns', name),
    process: (pid: number) => join(hostRoot, `proc/${pid}/ns/net`),
  };
}

const reason = async (options: LocatorOptions, pod = POD) => {
  const answer = await new Locator(options).locatePod(pod);
  return answer.path === undefined ? answer.reason : answer.path;
};

locate('paths of the node', () => {
  assert.equal(onNode('', '/var/run/netns/x'), '/run/netns/x');
  assert.equal(onNode('/', '/var/run/netns/x'), '/run/netns/x');
  assert.equal(onNode('/host', '/var/run/netns/x'), '/host/run/netns/x');
  assert.equal(onNode('/host', '/var/running/x'), '/host/var/running/x');
  assert.deepEqual(
    bundleFolders('/run/k3s/containerd/containerd.sock').map((folder) => dirname(dirname(folder))),
    ['/run/k3s/containerd', '/run/k3s/containerd/containerd', '/run/containerd'],
  );
  assert.ok(
    bundleFolders('/run/k0s/containerd.sock').includes('/run/k0s/containerd/io.containerd.runtime.v2.task/k8s.io'),
  );
});

locate('by the CRI, with an address of the pod', async () => {
  const { hostRoot, netns } = node();
  const identify = kernel({ [netns('cni-1')]: ['10.244.1.2', 'fd00::2'] });
  const answer = await new Locator({ cri: cri(SANDBOX), hostRoot, identify }).locatePod({
    ...POD,
    ips: ['10.244.1.2'],
  });
  assert.deepEqual([answer.path, 'source' in answer && answer.source], [netns('cni-1'), 'cri']);
});

locate('an address may be written in another way', async () => {
  const { hostRoot, netns } = node({ [ID]: { uid: UID, netns: NETNS } });
  const identify = kernel({ [netns('cni-1')]: ['fd00::2'] });
  assert.equal(await reason({ hostRoot, identify }, { ...POD, ips: ['FD00:0:0::2'] }), netns('cni-1'));
});

locate('a netns without an address of the pod is not taken, whoever names it', async () => {
  const { hostRoot, netns, process } = node({ [ID]: { uid: UID, netns: NETNS, pid: 7 } }, { 7: { uid: UID } });
  const identify = kernel({ [netns('cni-1')]: ['10.244.1.9'], [process(7)]: ['10.244.1.9'] });
  const ips = ['10.244.1.2'];
  assert.equal(await reason({ cri: cri(SANDBOX), hostRoot, identify }, { ...POD, ips }), 'other-addresses');
  assert.equal(await reason({ hostRoot, identify }, { ...POD, ips }), 'other-addresses');
  assert.equal(
    await reason({ hostRoot: fresh(), proc: join(hostRoot, 'proc'), identify }, { ...POD, ips }),
    'other-addresses',
  );
});

locate('the runtime knows the addresses of a new sandbox before the API does', async () => {
  const { hostRoot, netns } = node();
  const identify = kernel({ [netns('cni-1')]: ['10.244.1.2'] });
  assert.equal(
    await reason({ cri: cri(SANDBOX), hostRoot, identify }, { ...POD, ips: ['10.244.1.77'] }),
    netns('cni-1'),
  );
});

locate('the newest sandbox, by attempt and then by age', async () => {
  const { hostRoot, netns } = node();
  const identify = kernel({ [netns('cni-1')]: ['10.244.1.2'], [netns('cni-2')]: ['10.244.1.2'] });
  const later = (change: Partial<Sandbox>): Sandbox => ({
    ...SANDBOX,
    id: 'b',
    netnsPath: '/run/netns/cni-2',
    ...change,
  });
  const path = (...all: Sandbox[]) => reason({ cri: cri(...all), hostRoot, identify });
  assert.equal(await path(SANDBOX, later({ attempt: 2, createdAt: 1n })), netns('cni-2'));
  const younger = later({ createdAt: SANDBOX.createdAt + 1n });
  assert.equal(await path(younger, SANDBOX), netns('cni-2'));
  assert.equal(await path(SANDBOX, younger), netns('cni-2'));
  assert.equal(await path(later({ attempt: 2, state: 'stopped' }), SANDBOX), 'stopped');
});

locate('a sandbox that ended is not taken, also where its netns is still there', async () => {
  const { hostRoot, netns } = node({ [ID]: { uid: UID, netns: NETNS } });
  const identify = kernel({ [netns('cni-1')]: ['10.244.1.2'] });
  for (const change of [{ state: 'stopped' }, { netnsClosed: true }, { pid: 0 }] as const) {
    assert.equal(
      await reason({ cri: cri({ ...SANDBOX, ...change }), hostRoot, identify }),
      'stopped',
      JSON.stringify(change),
    );
  }
});

locate("another pod's sandbox is not taken", async () => {
  const { hostRoot, netns } = node({ [ID]: { uid: OTHER, netns: NETNS } });
  const identify = kernel({ [netns('cni-1')]: ['10.244.1.2'] });
  assert.equal(await reason({ cri: cri({ ...SANDBOX, uid: OTHER }), hostRoot, identify }), 'no-sandbox');
  assert.equal(await reason({ cri: cri({ ...SANDBOX, name: 'other' }), hostRoot, identify }), 'no-sandbox');
});

locate("the node's network is final", async () => {
  const { hostRoot, netns } = node({ [ID]: { uid: UID } }, { 7: { uid: UID } });
  const identify = kernel({ [netns('cni-1')]: ['10.244.1.2'] });
  const elsewhere = node();
  const told = { cri: cri({ ...SANDBOX, hostNetwork: true }), hostRoot: elsewhere.hostRoot };
  assert.equal(
    await reason({ ...told, identify: kernel({ [elsewhere.netns('cni-1')]: ['192.0.2.1'] }) }),
    'host-network',
  );
  assert.equal(await reason({ hostRoot, identify }), 'host-network');
});

locate("the host's netns, and what is none, is refused by the kernel's word", async () => {
  const { hostRoot, netns } = node();
  for (const code of ['ERR_HOST_NETNS', 'ERR_NOT_NETNS']) {
    const answer = await new Locator({
      cri: cri(SANDBOX),
      hostRoot,
      identify: kernel({ [netns('cni-1')]: code }),
    }).locatePod(POD);
    assert.equal(answer.path, undefined);
    assert.match('detail' in answer ? answer.detail : '', new RegExp(code));
  }
});

locate("without its file, by the sandbox's process; but not by a pid that is another's", async () => {
  const sandboxes = cri(SANDBOX);
  const own = node(undefined, { 7: { uid: UID } });
  assert.equal(
    await reason({ cri: sandboxes, hostRoot: own.hostRoot, identify: kernel({ [own.process(7)]: ['10.244.1.2'] }) }),
    own.process(7),
  );
  const others = node(undefined, { 7: { uid: OTHER } });
  assert.equal(
    await reason({
      cri: sandboxes,
      hostRoot: others.hostRoot,
      identify: kernel({ [others.process(7)]: ['10.244.1.2'] }),
    }),
    'not-reached',
  );
});

locate("containerd's state: the newest, without the CRI", async () => {
  const tasks = {
    old: { uid: UID, netns: '/run/netns/cni-2', age: 10 },
    [ID]: { uid: UID, netns: NETNS },
    c: { uid: UID, type: 'container' as const, netns: '/run/netns/cni-2', age: -10 },
    x: { uid: OTHER, netns: '/run/netns/x' },
  };
  const { hostRoot, netns } = node(tasks);
  const identify = kernel({ [netns('cni-1')]: ['10.244.1.2'], [netns('cni-2')]: ['10.244.1.2'] });
  const answer = await new Locator({ cri: CRI_DOWN, hostRoot, identify }).locatePod(POD);
  assert.deepEqual([answer.path, 'source' in answer && answer.source], [netns('cni-1'), 'containerd-state']);
});

locate("containerd's state: a sandbox whose process ended, where processes can be seen", async () => {
  const tasks = { [ID]: { uid: UID, netns: NETNS, pid: 7 }, x: { uid: OTHER, netns: '/run/netns/x', pid: 8 } };
  const seeing = node(tasks, { 8: { uid: OTHER } });
  assert.equal(
    await reason({ hostRoot: seeing.hostRoot, identify: kernel({ [seeing.netns('cni-1')]: ['10.244.1.2'] }) }),
    'stopped',
  );
  const blind = node(tasks);
  assert.equal(
    await reason({ hostRoot: blind.hostRoot, identify: kernel({ [blind.netns('cni-1')]: ['10.244.1.2'] }) }),
    blind.netns('cni-1'),
  );
});

locate("containerd's state: a bundle that is read later than its folder is made", async () => {
  const { hostRoot, netns } = node({ x: { uid: OTHER } });
  const task = join(hostRoot, TASKS, ID);
  const identify = kernel({ [netns('cni-1')]: ['10.244.1.2'], [netns('cni-2')]: ['10.244.1.2'] });
  const locator = new Locator({ hostRoot, identify });
  const path = async () => (await locator.locatePod(POD)).path;
  mkdirSync(task);
  assert.equal(await path(), undefined);
  writeTask(task, { uid: UID, netns: NETNS });
  assert.equal(await path(), netns('cni-1'));
  rmSync(task, { recursive: true });
  assert.equal(await path(), undefined);
  writeTask(task, { uid: UID, netns: '/run/netns/cni-2' });
  assert.equal(await path(), netns('cni-2'), 'what is gone is forgotten');
});

locate('processes: the pause, and no netns that a process made for itself', async () => {
  const { hostRoot, process } = node(undefined, {
    7: { uid: UID, comm: 'pause', id: 'c'.repeat(64), parent: 12 },
    8: { uid: UID, comm: 'app (x) S 1' },
    9: { uid: UID, parent: 8 },
    10: { uid: UID, comm: 'conmon' },
    11: { uid: OTHER, comm: 'pause' },
    12: { uid: UID, comm: 'containerd-shim' },
  });
  const identify = kernel({
    [process(7)]: ['10.244.1.2'],
    [process(8)]: ['10.244.1.2'],
    [process(9)]: ['10.244.1.2'],
    [process(10)]: 'ERR_HOST_NETNS',
    [process(11)]: ['10.244.1.3'],
  });
  const answer = await new Locator({ hostRoot, identify }).locatePod(POD);
  assert.deepEqual(
    [answer.path, 'source' in answer && answer.source, 'sandboxId' in answer && answer.sandboxId],
    [process(7), 'proc', 'c'.repeat(64)],
  );
});

locate('processes: in several netns, only an address decides', async () => {
  const { hostRoot, process } = node(undefined, {
    8: { uid: UID },
    9: { uid: UID, comm: 'a) S 8 (b' },
    10: { uid: UID, parent: 9 },
  });
  const identify = kernel({
    [process(8)]: ['10.244.1.2'],
    [process(9)]: ['10.244.1.7'],
    [process(10)]: ['10.244.1.2'],
  });
  assert.equal(await reason({ hostRoot, identify }), 'ambiguous');
  assert.equal(await reason({ hostRoot, identify }, { ...POD, ips: ['10.244.1.2'] }), process(8));
});

locate('nobody to be asked; and nobody who knows', async () => {
  assert.equal(await reason({ cri: CRI_DOWN, hostRoot: fresh(), identify: kernel({}) }), 'unavailable');
  assert.equal(await reason({ cri: cri(), hostRoot: node().hostRoot, identify: kernel({}) }), 'no-sandbox');
});

const events = suite('locate, events');
// The file's last suite.

events('which kind, and why', () => {
  const all = ['containerd', 'cri', 'inotify'] as const;
  const of = (
    runtimeName: string,
    runtimeVersion: string,
    kinds: readonly (typeof all)[number][] = all,
    refused = {},
  ) => chooseKind({ runtimeName, runtimeVersion }, folder, kinds, new Map(Object.entries(refused)) as never);
  assert.equal(of('containerd', 'v1.7.24').kind, 'containerd');
  assert.equal(of('containerd', 'v1.7.24', ['cri', 'inotify']).kind, 'inotify', 'not from the kubelet');
  assert.equal(of('containerd', '1.6.20~ds1', ['cri', 'inotify']).kind, 'inotify');
  assert.equal(of('containerd', 'v2.1.9', ['cri', 'inotify']).kind, 'cri');
  assert.equal(of('cri-o', '1.33.0').kind, 'cri');
  assert.deepEqual(of('cri-o', '1.33.0', all, { cri: 'its events are off' }), {
    kind: 'inotify',
    reason: 'cri-o 1.33.0; containerd: another runtime; cri: its events are off',
  });
  assert.equal(of('docker', '28.0.0').kind, 'inotify');
  assert.equal(chooseKind({ runtimeName: 'docker', runtimeVersion: '28' }, fresh(), all, new Map()).kind, 'none');
});

events('the queue keeps the newest of each sandbox, in order, and no more than it may', async () => {
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

events('whoever waits for a hint is let go by the signal', async () => {
  const end = new AbortController();
  const next = new HintQueue().take(end.signal).next();
  setImmediate(() => end.abort());
  assert.equal((await next).done, true);
});

/** A stand-in for CRI-O. Without events it ends their stream at once, with them it leaves it open. */
async function standInCrio(
  items: object[],
  events: object[] = [],
  runtimeName = 'cri-o',
): Promise<{ socket: string; left: Promise<void>; stop: () => void }> {
  const { promise: left, resolve } = Promise.withResolvers<void>();
  const server = new Server();
  const methods = { version, listPodSandbox, getContainerEvents };
  server.addService(methods, {
    version: (_: unknown, answer: sendUnaryData<object>) => answer(null, { runtimeName, runtimeVersion: '1.33.0' }),
    listPodSandbox: (_: unknown, answer: sendUnaryData<object>) => answer(null, { items }),
    getContainerEvents: (call: ServerWritableStream<object, object>) => {
      for (const event of events) call.write(event);
      call.on('cancelled', resolve);
      if (events.length === 0) call.end();
    },
  });
  const socket = fresh();
  await promisify(server.bindAsync.bind(server))(`unix:${socket}`, ServerCredentials.createInsecure());
  return { socket, left, stop: () => server.forceShutdown() };
}

events('CRI-O without events: new files in /run/netns, and then its list', async () => {
  const items = [{ ...STATUS, id: 'first' }];
  const { socket, stop } = await standInCrio(items);
  const netnsFolder = fresh();
  mkdirSync(netnsFolder);
  const cri = new Cri(socket);
  const end = new AbortController();
  const events = new RuntimeEvents({ cri, netnsFolder, signal: end.signal });
  const taken: string[] = [];
  for await (const { sandboxId, podUid } of events) {
    assert.equal(podUid, UID);
    taken.push(sandboxId);
    if (sandboxId === 'second') end.abort();
    else {
      assert.equal(events.kind, 'inotify');
      assert.ok(events.reason.includes('cri: its events are off'), events.reason);
      writeFileSync(join(netnsFolder, 'cni-2'), '');
      setTimeout(() => items.push({ ...STATUS, id: 'second' }), 90);
    }
  }
  assert.deepEqual(taken, ['first', 'second']);
  cri.close();
  stop();
});

events('a stream that is left early is cancelled, and troubles nobody', async () => {
  const { socket, left, stop } = await standInCrio([], [{ containerId: ID }]);
  const cri = new Cri(socket);
  for await (const { containerId } of cri.containerEvents(new AbortController().signal)) {
    assert.equal(containerId, ID);
    break;
  }
  await left;
  assert.equal((await cri.version()).runtimeName, 'cri-o');
  cri.close();
  stop();
});

events('each folder of bundles is watched once, however often containerd tells of another', async () => {
  const hostRoot = fresh();
  for (const folder of ['a', 'b']) mkdirSync(join(hostRoot, folder), { recursive: true });
  const end = new AbortController();
  const told = Promise.withResolvers<void>();
  const cri = {
    version: async () => ({ runtimeName: 'containerd', runtimeVersion: '2.1.0' }),
    sandboxes: async () => [],
    async *taskCreates() {
      for (let at = 0; at < 10; at++) yield { containerId: `${at}`, bundle: `/${at % 2 === 0 ? 'a' : 'b'}/${at}` };
      told.resolve();
      await once(end.signal, 'abort');
    },
  };
  const watches = () => process.getActiveResourcesInfo().filter((name) => name === 'FSEventWrap').length;
  const before = watches();
  new RuntimeEvents({ cri: cri as unknown as Cri, hostRoot, signal: end.signal });
  await told.promise;
  assert.equal(watches() - before, 2);
  end.abort();
});

events('what a runtime does not implement is not asked for again', async () => {
  const { socket, stop } = await standInCrio([], [], 'containerd');
  const cri = new Cri(socket);
  const end = new AbortController();
  const netnsFolder = fresh();
  mkdirSync(netnsFolder);
  const events = new RuntimeEvents({ cri, netnsFolder, kinds: ['containerd', 'inotify'], signal: end.signal });
  await events.chosen;
  const kind = (): string => events.kind;
  assert.equal(kind(), 'containerd');
  while (kind() !== 'inotify') await sleep(10);
  assert.equal(events.reason, 'containerd 1.33.0; containerd: UNIMPLEMENTED');
  assert.equal(events.stats.losses, 1);
  end.abort();
  cri.close();
  stop();
});
