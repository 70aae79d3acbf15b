/** A sandbox as runtimes describe it in the CRI. */

import assert from 'node:assert/strict';
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readBundle } from '../../lib/runtime/containerd/bundle.ts';
import { listPodSandbox, type PodSandboxStatus } from '../../lib/runtime/cri/messages.ts';
import { sandboxOf } from '../../lib/runtime/cri/sandbox.ts';
import { suite } from '../suite.ts';
import { run } from '../support/process.ts';
import { scratchFolder } from '../support/scratch.ts';

const UID = '0d8ee1a3-4f6b-4c5e-9d2a-6b1f0a7c88b1';
const ID = 'a'.repeat(64);
const NETNS = '/var/run/netns/cni-1';

const answers = suite('runtime, sandboxes of the CRI');

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
const answered = (info: object | string, status: Partial<PodSandboxStatus> = {}) =>
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
    assert.deepEqual(answered(shape), {
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

answers('containerd, stopped: the path is still named', () => {
  const sandbox = answered(
    { pid: 0, processStatus: 'deleted', netNamespaceClosed: true, runtimeSpec: spec({ type: 'network', path: NETNS }) },
    { state: 'SANDBOX_NOTREADY', network: { ip: '', additionalIps: [] } },
  );
  assert.deepEqual([sandbox?.state, sandbox?.pid, sandbox?.netnsClosed, sandbox?.ips], ['stopped', 0, true, []]);
});

answers('CRI-O: a path and no pid', () => {
  const sandbox = answered({ image: 'pause', runtimeSpec: spec({ type: 'network', path: '/var/run/netns/9f7' }) });
  assert.deepEqual([sandbox?.netnsPath, sandbox?.pid, sandbox?.netnsClosed], ['/var/run/netns/9f7', undefined, false]);
});

answers('cri-dockerd: nothing more than the status', () => {
  for (const info of ['', '{}', 'none']) {
    const sandbox = answered(info);
    assert.deepEqual([sandbox?.netnsPath, sandbox?.pid, sandbox?.hostNetwork], [undefined, undefined, false]);
  }
});

answers("the node's network, named either way", () => {
  assert.equal(answered({ pid: 184, runtimeSpec: spec() })?.hostNetwork, true);
  assert.equal(answered('', { linux: { namespaces: { options: { network: 'NODE' } } } })?.hostNetwork, true);
  assert.equal(answered({ runtimeSpec: spec({ type: 'network' }) })?.hostNetwork, false);
});

/** docs/security.md has a row for each of these. */
const hostile = suite('runtime, hostile answers');

const MESSAGES: Record<string, { bytes: Buffer; error: RegExp }> = {
  'a million sandboxes without content': {
    bytes: Buffer.alloc(2_000_000, Buffer.from([0x0a, 0x00])),
    error: /^expected at most 65536 fields in a message$/,
  },
  'a million sandboxes in an unknown field': { bytes: Buffer.alloc(2_000_000, Buffer.from([0x12, 0x00])), error: /^$/ },
  'a million groups in one another': { bytes: Buffer.alloc(1_000_000, 0x0b), error: /./ },
  'a length past the end': { bytes: Buffer.from([0x0a, 0xff, 0xff, 0xff, 0xff, 0x07]), error: /index out of range/ },
  'a length past the end of the message around it': {
    bytes: Buffer.from([0x0a, 0x04, 0x12, 0x7f, 0x0a, 0x00, 0x0a, 0x00]),
    error: /index out of range/,
  },
};
for (const [name, { bytes, error }] of Object.entries(MESSAGES)) {
  hostile(`a list with ${name}`, () => {
    let message = '';
    try {
      assert.equal(listPodSandbox.responseDeserialize(bytes).items.length, 0);
    } catch (error) {
      message = (error as Error).message;
    }
    assert.match(message, error);
  });
}

hostile('JSON with parts of other types than expected has no path, no pid and no network of the node', () => {
  for (const json of [
    ...[
      'null',
      '[]',
      '7',
      '"x"',
      '{',
      '{"runtimeSpec":7}',
      '{"runtimeSpec":{"linux":[]}}',
      '{"pid":"7"}',
      '{"pid":1e400}',
    ],
    '{"runtimeSpec":{"linux":{"namespaces":{"type":"network","path":"/x"}}}}',
    '{"runtimeSpec":{"linux":{"namespaces":[null,7,{"type":"network","path":7}]}}}',
    '{"netNamespaceClosed":"yes","runtimeSpec":null}',
    `{"runtimeSpec":${'['.repeat(100_000)}`,
  ]) {
    const { netnsPath, pid, netnsClosed, hostNetwork } = answered(json) ?? assert.fail();
    assert.deepEqual(
      [netnsPath, pid, netnsClosed, hostNetwork],
      [undefined, undefined, false, false],
      json.slice(0, 80),
    );
  }
});

hostile('a bundle that is a FIFO, a device, a folder, too large, or no JSON is refused at once', async () => {
  const folder = scratchFolder('bundles');
  const bundle = async (name: string, make: (path: string) => unknown) => {
    mkdirSync(join(folder, name));
    await make(join(folder, name, 'config.json'));
    return readBundle(join(folder, name)).then(
      ({ sandbox }) => `sandbox: ${sandbox}`,
      (error: Error) => error.message.replace(/.*config.json/, 'config.json'),
    );
  };
  const refused = 'config.json: expected a file of at most 16777216 bytes';
  assert.equal(await bundle('fifo', (path) => run('mkfifo', [path])), refused);
  assert.equal(await bundle('device', (path) => run('ln', ['-s', '/dev/zero', path])), refused);
  assert.equal(await bundle('folder', (path) => mkdirSync(path)), refused);
  const large = (path: string) => {
    writeFileSync(path, '{}');
    truncateSync(path, 2 ** 40);
  };
  assert.equal(await bundle('large', large), refused);
  assert.match(await bundle('text', (path) => writeFileSync(path, 'text')), /not valid JSON/);
  assert.equal(await bundle('list', (path) => writeFileSync(path, '[{"annotations":7}]')), 'sandbox: false');
});
