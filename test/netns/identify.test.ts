/** Real netns: a pod's is accepted, and the node's own is refused by every way that leads to it. */

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { identifyPodNetns } from '../../lib/netns/identify.ts';
import { Locator } from '../../lib/netns/locate.ts';
import type { Sandbox } from '../../lib/runtime/cri/sandbox.ts';
import { suite } from '../suite.ts';
import { codeOf, Farm, inside } from '../support/netns.ts';
import { scratchFolder } from '../support/scratch.ts';

const ADDRESS = 'fd00::2';
const POD = { uid: '0d8ee1a3-4f6b-4c5e-9d2a-6b1f0a7c88b1', namespace: 'shop', name: 'web', ips: [] };

const test = suite('identify');
test.needs('netns', 'addon', 'toolbox', 'ip', 'nsenter', 'ipv6');

let farm: Farm;
let node: string;
let pod: string;
/** A folder with the files of a node that is a container: process 1 is in the netns `node`. */
let hostRoot: string;

test.before(async () => {
  farm = new Farm('identify');
  [node = '', pod = ''] = await farm.addAll(2);
  await inside(pod, ['ip', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth1']);
  await inside(pod, ['ip', 'address', 'add', `${ADDRESS}/64`, 'dev', 'eth0', 'nodad']);
  hostRoot = mkdtempSync(join(scratchFolder('node'), 'root-'));
  mkdirSync(join(hostRoot, 'proc/1/ns'), { recursive: true });
  symlinkSync(node, join(hostRoot, 'proc/1/ns/net'));
  mkdirSync(join(hostRoot, 'run/netns'), { recursive: true });
  symlinkSync(node, join(hostRoot, 'run/netns/node'));
  symlinkSync(pod, join(hostRoot, 'run/netns/pod'));
});
test.after(async () => {
  await farm?.[Symbol.asyncDispose]();
});

test("the node's netns is refused, and a pod's is not", async () => {
  const proc = join(hostRoot, 'proc');
  assert.equal(await codeOf(identifyPodNetns(node, { proc })), 'ERR_HOST_NETNS');
  assert.equal(await codeOf(identifyPodNetns('/proc/self/ns/net', { proc })), 'ERR_HOST_NETNS');
  assert.equal(await codeOf(identifyPodNetns('/proc/self/ns/uts', { proc })), 'ERR_NOT_NETNS');
  assert.deepEqual((await identifyPodNetns(pod, { proc })).addresses, [ADDRESS]);
});

test('a hint passes the same checks as a search', async () => {
  const locator = new Locator({ hostRoot });
  const answer = async (name: string, ips: string[]) => {
    const found = await locator.locate({ ...POD, ips }, { path: `/var/run/netns/${name}`, fresh: true });
    return found.path === undefined ? found.reason : found.source;
  };
  assert.equal(await answer('pod', []), 'hint');
  assert.equal(await answer('pod', ['FD00:0::2']), 'hint', 'an address in another form');
  assert.equal(await answer('pod', ['fd00::3']), 'unavailable', 'an address of another pod');
  assert.equal(await answer('node', []), 'unavailable', "the node's own");
});

test("a runtime that names the node's netns for a pod's sandbox is not believed", async () => {
  const sandbox: Sandbox = {
    ...POD,
    id: 'a',
    attempt: 0,
    state: 'ready',
    createdAt: 1n,
    netnsPath: '/var/run/netns/node',
    pid: undefined,
    netnsClosed: false,
    hostNetwork: false,
  };
  const cri = { sandboxes: async () => [sandbox], sandbox: async () => sandbox };
  const found = await new Locator({ cri, hostRoot }).locate(POD);
  assert.ok(found.path === undefined);
  assert.equal(found.reason, 'not-reached');
  assert.match(found.detail, /ERR_HOST_NETNS/);
});
