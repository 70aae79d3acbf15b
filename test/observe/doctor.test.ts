/** What doctor says of a node, where it takes a version and no kernel. */
import assert from 'node:assert/strict';
import { gatePlace } from '../../lib/observe/doctor.ts';
import { suite } from '../suite.ts';

const test = suite('doctor');

const CASES: [runtimeName: string, runtimeVersion: string, able: boolean][] = [
  ['containerd', 'v2.1.0', true],
  ['containerd', '2.3.7', true],
  ['containerd', 'v3.0.0-rc.1', true],
  ['containerd', 'v2.0.9', false],
  ['containerd', 'v1.7.27', false],
  ['cri-o', '1.31.0', true],
  ['cri-o', '1.30.14', false],
  ['docker', '28.0.0', false],
  ['containerd', 'unknown', false],
];
for (const [runtimeName, runtimeVersion, able] of CASES) {
  test(`the gate in the sidecar ${able ? 'starts' : 'cannot start'} with ${runtimeName} ${runtimeVersion}`, () => {
    const version = { runtimeName, runtimeVersion };
    const [check, ...more] = gatePlace('sidecar: because', version);
    assert.deepEqual(more, []);
    assert.equal(check?.status, able ? 'ok' : 'warn');
    assert.match(check?.detail ?? '', /^pods wait in: sidecar: because; /);
    assert.equal(/injection\.wait=init/.test(check?.remedy ?? ''), !able);
    assert.equal(gatePlace('init: because', version)[0]?.status, 'ok');
  });
}

test('without a choice, as on the command line, or without a runtime, there is no check of the gate', () => {
  assert.deepEqual(gatePlace(undefined, { runtimeName: 'containerd', runtimeVersion: '2.1.0' }), []);
  assert.deepEqual(gatePlace('sidecar: because', undefined), []);
});
