/** What the benchmark's workload `cold` stands on: a node that reboots, and a registry from which it pulls. */
import assert from 'node:assert/strict';
import { ColdNode } from '../../bench/cold/node.ts';
import { Pulls } from '../../bench/cold/pull.ts';
import { suite } from '../suite.ts';
import { images } from './images/images.ts';
import { Registry } from './images/registry.ts';
import { programs } from './programs.ts';

const SLOW = { timeoutMs: 120_000 };
const PODS = 2;

const test = suite('cluster, cold node');
test.needs('cluster', 'addon', 'gate', 'toolbox', 'ldd');

let node: ColdNode;
test.before(async () => {
  node = await ColdNode.start();
});
test.after(async () => {
  await node?.[Symbol.asyncDispose]();
});

for (const kind of ['init', 'sidecar'] as const) {
  test(
    `after a reboot the gates of all pods open again: ${kind}`,
    async () => {
      const { pods, controller = Number.NaN, gateRestarts, repairs } = await node.reboot(kind, PODS);
      assert.equal(pods.length, PODS);
      assert.ok(controller > 0, `the controller started after ${controller} ms`);
      for (const { sandbox, rules = Number.NaN, open = Number.NaN, app } of pods) {
        assert.ok(0 < sandbox && sandbox < open && open <= app, JSON.stringify(pods));
        assert.ok(controller < rules && rules < app, JSON.stringify(pods));
      }
      assert.equal(repairs, 0);
      // An init container waits longer than a controller takes to start; the gate of a sidecar ends after 20 ms.
      assert.ok(Number.isInteger(gateRestarts) && gateRestarts >= 0, `${gateRestarts} restarts`);
      if (kind === 'init') assert.equal(gateRestarts, 0);
    },
    SLOW,
  );
}

test(
  'a node without power has only its disk: no process, mount, network namespace, bridge or rule',
  async () => {
    const { node: machine } = node.mesh;
    await node.startController();
    const images = [(await programs(['ctr'])).path('ctr'), '--namespace', 'k8s.io', 'images', 'list', '--quiet'];
    const before = await machine.exec(images);
    assert.notEqual(before, '');
    await machine.powerOff();
    for (const service of machine.services.values()) assert.ok(service.ended(), service.name);
    const kept = ['(', '-path', '/run/proc', '-o', '-path', '/run/parameters', ')', '-prune', '-o', '-print'];
    const left = await machine.exec(['find', '/run', '-mindepth', '1', ...kept]);
    assert.deepEqual(left.trim().split('\n').sort(), ['/run/lock', '/run/netns']);
    assert.equal(await machine.exec(['nft', 'list', 'ruleset']), '');
    assert.doesNotMatch(
      await machine.exec(['cat', '/proc/self/mountinfo']),
      / \/(run\/(?!(proc|netns) )|var\/lib\/)\S/,
    );
    await assert.rejects(machine.exec(['ip', 'link', 'show', 'cni0']), /does not exist/);
    const processes = (await machine.exec(['sh', '-c', 'cat /proc/[0-9]*/comm'])).trim().split('\n');
    assert.deepEqual(
      processes.filter((name) => !['init', 'sleep', 'sh', 'cat'].includes(name)),
      [],
    );
    await machine.boot();
    assert.equal(await machine.exec(images), before);
    await node.stopController();
  },
  SLOW,
);

test(
  'the image of a gate is pulled once, and a pull without a layer is noticed',
  async () => {
    const { mesh } = node;
    await node.startController();
    {
      await using pulls = await Pulls.start(node);
      await assert.rejects(pulls.present(), /no image was pulled before/);
      const { app, pull } = await pulls.pulled();
      assert.ok(0 < pull && pull < app, `${pull} of ${app} ms`);
      assert.ok((await pulls.present()) > 0);
      assert.ok(pulls.compressed > 100_000, `${pulls.compressed} bytes`);
    }
    await node.stopController();
    await using registry = await Registry.start(mesh.controlPlane, mesh.node);
    const gate = await images['pod-network-gate']();
    const other = { ...gate, layers: [[{ path: 'other', content: Buffer.from('the node has no such layer') }]] };
    const ctr = [(await programs(['ctr'])).path('ctr'), '--namespace', 'k8s.io', 'images', 'pull'];
    const pull = (reference: string) => mesh.node.exec([...ctr, '--hosts-dir', mesh.node.registries, reference]);
    const first = registry.push('gate:first', other);
    assert.ok(!first.fetched());
    await pull(first.reference);
    assert.ok(first.fetched());
    const same = registry.push('gate:same', other);
    await pull(same.reference);
    assert.ok(!same.fetched());
    await assert.rejects(pull(same.reference.replace('same', 'other')), /not found/);
  },
  SLOW,
);
