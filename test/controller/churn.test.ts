/** Hundreds of pods are created, changed, deleted and created again, while the API server fails at random. */

import assert from 'node:assert/strict';
import type { ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { INITIALIZE, NETNS, RULES, STATUS } from '../../lib/istio/names.ts';
import { INITIALIZED } from '../../lib/kube/status.ts';
import { native } from '../../lib/native/addon.ts';
import { suite } from '../suite.ts';
import { runController, until } from '../support/controller.ts';
import { BOOT_ID, Farm } from '../support/netns.ts';
import { type Pod, PodServer } from '../support/pod-server.ts';
import { randomNumbers } from '../support/random.ts';
import { status } from '../support/watch-server.ts';

const PODS = 300;
const STEPS = 1200;

const test = suite('churn');
test.needs('netns', 'uid-map', 'ipv6', 'addon', 'toolbox');

const random = randomNumbers('churn');
const chance = (share: number) => random() < share;

function refuse(response: ServerResponse): void {
  if (chance(0.3)) response.destroy();
  else if (chance(0.2)) status(response, 429, 'TooManyRequests', { 'Retry-After': '1' });
  else if (chance(0.25)) status(response, 409, 'Conflict');
  else status(response, 500, 'InternalError');
}

test(
  'in the end each living pod that asks for it is marked with its own netns, and no other',
  async () => {
    await using farm = new Farm('churn');
    const api = new PodServer();
    const faults = { refused: 0, cut: 0 };
    let unruly = true;
    // A refusal before anything was done, or an answer that goes astray after it.
    api.onPatch = (when, _, response) => {
      if (!unruly || !chance(when === 'asked' ? 0.2 : 0.05)) return false;
      faults.refused++;
      refuse(response);
      return true;
    };
    const cut = () => {
      faults.cut += api.cut();
      if (chance(0.3)) api.forget();
    };
    const config = await api.start();
    const running = await runController(config, farm);
    const { controller, idle } = running;
    /** Uids of the pods that ever asked for it. */
    const enrolled = new Set<string>();
    const asks = ({ metadata, spec }: Pod) => metadata.annotations[INITIALIZE] === 'true' && !spec.hostNetwork;
    try {
      const making: Promise<unknown>[] = [];
      for (let step = 0; step < STEPS; step++) {
        const name = `pod${Math.floor(random() * PODS)}`;
        const known = api.pods.get(name);
        if (known === undefined || chance(0.3)) {
          const old = known && farm.file(known.metadata.uid);
          const uid = api.put(name, chance(0.6) ? { [INITIALIZE]: 'true' } : {}, chance(0.1));
          // Its sandbox is ready a while after the API tells of it, or never if it has the host's.
          making.push(sleep(20 * random()).then(() => farm.add(farm.file(uid))));
          if (old !== undefined) making.push(sleep(100).then(() => farm.del(old)));
        } else if (chance(0.5)) {
          known.status.phase = 'Running';
          if (chance(0.3)) known.metadata.annotations[INITIALIZE] = chance(0.5) ? 'true' : 'false';
          api.tell('MODIFIED', known);
        } else {
          api.delete(name);
          making.push(sleep(100).then(() => farm.del(farm.file(known.metadata.uid))));
        }
        for (const pod of api.pods.values()) if (asks(pod)) enrolled.add(pod.metadata.uid);
        if (chance(0.02)) cut();
        if (chance(0.3)) await sleep(2);
      }
      await Promise.all(making);
      cut();
      unruly = false;

      const living = () => [...api.pods.values()];
      const marked = (pod: Pod) => pod.metadata.annotations[STATUS] === INITIALIZED;
      const settled = () => idle() && living().every((pod) => marked(pod) === asks(pod));
      await until('settled', settled, () => [
        living().filter((pod) => marked(pod) !== asks(pod)),
        controller.states(),
        faults,
      ]);
      const counts = { ...faults, expired: api.expired };
      assert.ok(
        Object.values(counts).every((count) => count > 0),
        JSON.stringify(counts),
      );

      for (const pod of living()) {
        const { uid, annotations } = pod.metadata;
        const { cookie, installedBackends } = await native().identify(farm.file(uid));
        assert.equal(annotations[NETNS] ?? undefined, asks(pod) ? `${BOOT_ID}:${cookie}` : undefined, uid);
        assert.equal(annotations[RULES] !== undefined, asks(pod), uid);
        assert.deepEqual(installedBackends, asks(pod) ? ['iptables-legacy'] : [], uid);
      }
      assert.deepEqual(
        [...api.patched].filter((uid) => !enrolled.has(uid)),
        [],
      );
      // Nothing has to be put right: the rules are whole.
      assert.equal(await controller.sweep(), living().filter(asks).length);
      assert.ok(idle());

      for (const { metadata } of living()) api.delete(metadata.name);
      await until(
        'forgotten',
        () => controller.views().length === 0 && idle(),
        () => controller.states(),
      );
    } finally {
      await running[Symbol.asyncDispose]();
      api.stop();
    }
  },
  { timeoutMs: 180_000 },
);
