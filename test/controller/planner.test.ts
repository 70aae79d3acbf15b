/** What the planner keeps of the configurations that pods choose. */

import assert from 'node:assert/strict';
import { readConfig } from '../../lib/config/read.ts';
import { Planner } from '../../lib/controller/planner.ts';
import { INITIALIZE } from '../../lib/istio/names.ts';
import { toPodRecord } from '../../lib/kube/pods.ts';
import { native } from '../../lib/native/addon.ts';
import { suite } from '../suite.ts';
import { Farm, INSTALL_NEEDS } from '../support/netns.ts';
import { NODE } from '../support/pod-server.ts';

const test = suite('planner');
test.needs(...INSTALL_NEEDS);

const PORTS = 900;

/** A pod that excludes ports; the number makes its configuration another one. */
function podWithPorts(number: number) {
  const ports = Array.from({ length: PORTS }, (_, at) => 1000 + number + 2 * at).join();
  const annotations = {
    [INITIALIZE]: 'true',
    'traffic.sidecar.istio.io/excludeInboundPorts': ports,
    'traffic.sidecar.istio.io/excludeOutboundPorts': ports,
  };
  return toPodRecord({ metadata: { name: `pod-${number}`, uid: `uid-${number}`, annotations }, status: {} });
}

test('rules are kept up to a bound in sum, and of those the newest', async () => {
  await using farm = new Farm('planner');
  const netns = await native().identify(await farm.add());
  const config = readConfig({ flags: new Map(), environment: { NODE_NAME: NODE } });
  const planner = new Planner(config, await native().probe());
  const make = async (number: number) => {
    const pod = podWithPorts(number);
    const planned = planner.plan(pod);
    const { compiled } = await planner.compile(pod, planned, netns);
    return { planned, compiled };
  };
  const first = await make(0);
  const same = await make(0);
  assert.ok(same.planned === first.planned && same.compiled === first.compiled, 'kept while there is room');
  assert.ok(first.planned.size > 2 * PORTS, `${first.planned.size} rules`);

  const last = Math.ceil(32_768 / first.planned.size);
  for (let number = 1; number < last; number++) await make(number);
  const newest = await make(last);
  assert.equal((await make(last)).planned, newest.planned, 'the newest is kept');
  assert.notEqual((await make(0)).planned, first.planned, 'the oldest has made room');
});
