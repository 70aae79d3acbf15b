/** A sandbox as runtimes describe it in the CRI. */

import assert from 'node:assert/strict';
import type { PodSandboxStatus } from '../../lib/runtime/cri/messages.ts';
import { sandboxOf } from '../../lib/runtime/cri/sandbox.ts';
import { suite } from '../suite.ts';

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
