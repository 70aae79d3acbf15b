/** From a pod to its netns, on what runtimes answer and leave behind; the runtimes themselves are in test/cluster. */

import assert from 'node:assert/strict';
import { mkdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Code, Failure } from '../../lib/errors.ts';
import type { Identity } from '../../lib/native/addon.ts';
import { Locator, type LocatorOptions, type RuntimePod } from '../../lib/netns/locate.ts';
import { containerIdOf, isOfPod } from '../../lib/netns/proc.ts';
import { RuntimeError } from '../../lib/runtime/channel.ts';
import { bundleFolders } from '../../lib/runtime/containerd/state.ts';
import type { Sandbox } from '../../lib/runtime/cri/sandbox.ts';
import { onNode } from '../../lib/runtime/node-paths.ts';
import { suite } from '../suite.ts';
import { scratchFolder } from '../support/scratch.ts';

const UID = '0d8ee1a3-4f6b-4c5e-9d2a-6b1f0a7c88b1';
const OTHER = '5c0c9a52-90a1-4a43-8a6c-21d8b3e2f7d4';
const HASH = '3f2b6c1d9e8a7f605142a3b4c5d6e7f8';
const ID = 'a'.repeat(64);
const TASKS = 'run/containerd/io.containerd.runtime.v2.task/k8s.io';
const NETNS = '/var/run/netns/cni-1';
const POD: RuntimePod = { uid: UID, namespace: 'shop', name: 'web', ips: [] };

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

const locate = suite('locate');

const SANDBOX: Sandbox = {
  id: ID,
  uid: UID,
  namespace: 'shop',
  name: 'web',
  attempt: 1,
  state: 'ready',
  createdAt: 1795255484392013510n,
  ips: ['10.244.1.2', 'fd00::2'],
  netnsPath: NETNS,
  pid: 7,
  netnsClosed: false,
  hostNetwork: false,
};

function cri(...sandboxes: Sandbox[]): NonNullable<LocatorOptions['cri']> {
  return {
    sandboxes: async () => sandboxes,
    sandbox: async (id) => sandboxes.find((sandbox) => sandbox.id === id),
  };
}
const down = new RuntimeError('UNAVAILABLE', 'nobody answers');
const CRI_DOWN = { sandboxes: () => Promise.reject(down), sandbox: () => Promise.reject(down) };

/** A stand-in for the addon: netns by path, or the code of the error that it rejects with. */
function kernel(netns: Record<string, string[] | Code>) {
  return async (path: string): Promise<Identity> => {
    const found = netns[path] ?? 'ENOENT';
    if (typeof found === 'string') throw new Failure(found, { subject: path });
    const cookie = BigInt(Object.keys(netns).indexOf(path));
    return {
      path,
      dev: 4,
      ino: 1,
      cookie,
      addresses: found,
      ipv6: true,
      loUp: true,
      foreignUserns: false,
      installedBackends: [],
      iptablesNft: false,
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
  const answer = await new Locator(options).locate(pod);
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
  const answer = await new Locator({ cri: cri(SANDBOX), hostRoot, identify }).locate({
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

locate("the locator asks the runtime for the node's netns only if it does not see the node's /proc", async () => {
  const asked: unknown[] = [];
  const spied: LocatorOptions['cri'] = {
    ...cri(SANDBOX),
    sandboxes: async (which) => {
      asked.push(which);
      return [SANDBOX];
    },
  };
  const { hostRoot, netns, process } = node();
  const located = async () => {
    const identify = kernel({ [netns('cni-1')]: ['10.244.1.2'] });
    const locator = new Locator({ cri: spied, hostRoot, identify });
    return (await locator.locate(POD, { path: NETNS, fresh: true })).path;
  };
  assert.equal(await located(), netns('cni-1'));
  assert.deepEqual(asked, ['ready']);
  mkdirSync(dirname(process(1)), { recursive: true });
  writeFileSync(process(1), '');
  assert.equal(await located(), netns('cni-1'));
  assert.deepEqual(asked, ['ready']);
});

locate("the host's netns, and what is none, is refused by the kernel's word", async () => {
  const { hostRoot, netns } = node();
  for (const code of ['ERR_HOST_NETNS', 'ERR_NOT_NETNS'] as const) {
    const answer = await new Locator({
      cri: cri(SANDBOX),
      hostRoot,
      identify: kernel({ [netns('cni-1')]: code }),
    }).locate(POD);
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
  const answer = await new Locator({ cri: CRI_DOWN, hostRoot, identify }).locate(POD);
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
  const path = async () => (await locator.locate(POD)).path;
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
  const answer = await new Locator({ hostRoot, identify }).locate(POD);
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

locate('without a source, and without an answer of any source', async () => {
  assert.equal(await reason({ cri: CRI_DOWN, hostRoot: fresh(), identify: kernel({}) }), 'unavailable');
  assert.equal(await reason({ cri: cri(), hostRoot: node().hostRoot, identify: kernel({}) }), 'no-sandbox');
});
