/** `ipnc doctor --bundle`: what a bug report needs, without secrets and names. */
import assert from 'node:assert/strict';
import { healthRoutes, observedRoutes, startHttp } from '../../lib/observe/http.ts';
import type { PodView } from '../../lib/observe/page.ts';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { checkDocument } from '../support/schemas.ts';

const test = suite('bundle');
test.needs('addon');

const PODS: PodView[] = [
  {
    namespace: 'payroll',
    name: 'secret-merger',
    uid: 'u-1',
    state: 'failed',
    reason: 'payroll/secret-merger: "token":"abc"',
  },
  { namespace: 'payroll', name: 'web', uid: 'u-2', state: 'initialized', backend: 'nftables' },
];
const METRICS = 'process_cpu_seconds_total 1\nistio_pod_network_controller_pods{state="failed"} 1\n';

interface Printed {
  command: string;
  versions: Record<string, string>;
  checks: { name: string }[];
  controller: { pods?: PodView[]; metrics?: string[]; error?: string };
}

const bundle = async (address: string): Promise<Printed> => {
  const { stdout } = await ipnc(['doctor', '--bundle'], { environment: { IPNC_METRICS_ADDRESS: address } });
  checkDocument(JSON.parse(stdout));
  return JSON.parse(stdout) as Printed;
};

test('it has versions, checks, pods and metrics, and neither names nor secrets', async () => {
  const routes = new Map([
    ...healthRoutes({ livez: () => [], readyz: () => [] }),
    ...observedRoutes({ metrics: { contentType: 'text/plain', text: async () => METRICS }, pods: () => PODS }),
  ]);
  await using server = await startHttp({ listen: { host: '127.0.0.1', port: 0 }, routes, onError: () => {} });
  const printed = await bundle(server.address);
  assert.deepEqual(Object.keys(printed.versions), ['ipnc', 'node', 'kernel', 'arch']);
  assert.ok(printed.checks.length > 5);
  assert.deepEqual(printed.controller.pods, [
    {
      namespace: 'namespace-1',
      name: 'pod-1',
      uid: 'u-1',
      state: 'failed',
      reason: 'namespace-1/pod-1: "token":"[redacted]',
    },
    { namespace: 'namespace-1', name: 'pod-2', uid: 'u-2', state: 'initialized', backend: 'nftables' },
  ]);
  assert.deepEqual(printed.controller.metrics, ['istio_pod_network_controller_pods{state="failed"} 1']);
  assert.ok(!/payroll|merger|abc/.test(JSON.stringify(printed)));
});

test('without a controller it says so, and has all the rest', async () => {
  const gone = await bundle('127.0.0.1:1');
  assert.match(gone.controller.error ?? '', /^no answer on port 1: /);
  assert.ok(gone.checks.length > 5);
  assert.match((await bundle('off')).controller.error ?? '', /--metrics-address is off/);
});
