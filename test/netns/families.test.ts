/** Which families a netns gets rules for, by the option, by the pod's addresses in the API, by what is in the netns. */

import assert from 'node:assert/strict';
import { familiesOf } from '../../lib/netns/families.ts';
import type { Family } from '../../lib/ruleset/model.ts';
import { suite } from '../suite.ts';

const test = suite('families of a netns');

const cases: { named?: Family[]; api?: string[]; netns?: Family[]; ipv6?: boolean; expected: Family[] }[] = [
  { expected: [4, 6] },
  { ipv6: false, expected: [4] },
  { netns: [4], expected: [4] },
  { netns: [6], expected: [6] },
  { api: ['10.244.1.5'], expected: [4] },
  { api: ['fd00::5', '10.244.1.5'], expected: [4, 6] },
  { api: ['10.244.1.5'], netns: [6], expected: [4, 6] },
  { api: ['fd00::5', '10.244.1.5'], ipv6: false, expected: [4] },
  { named: [4], api: ['fd00::5'], netns: [6], expected: [4] },
  { named: [4, 6], netns: [4], expected: [4, 6] },
  { named: [4], ipv6: false, expected: [4] },
];
for (const { named, api = [], netns = [], ipv6 = true, expected } of cases) {
  const option = named?.join() ?? 'auto';
  test(`${option}, API [${api}], netns [${netns}]${ipv6 ? '' : ', IPv6 off'}: ${expected}`, () => {
    assert.deepEqual(familiesOf({ path: '', families: netns, ipv6 }, named ?? 'auto', api), expected);
  });
}

test('IPv6 named where it is off is an error', () => {
  assert.throws(() => familiesOf({ path: '/run/netns/pod', families: [4], ipv6: false }, [4, 6]), {
    code: 'EAFNOSUPPORT',
    message: 'IPv6 is disabled in /run/netns/pod',
  });
});
