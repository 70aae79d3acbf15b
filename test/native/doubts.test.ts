/** Rules that are all installed and capture nothing are told of, by apply and by verify. */
import assert from 'node:assert/strict';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { compile, Farm, INSTALL_NEEDS, identify, inside } from '../support/netns.ts';

const test = suite('doubts');
test.needs(...INSTALL_NEEDS);

const CASES: Record<string, { flags: string[]; steps: string[]; doubts: RegExp[] }> = {
  'marks in the source check, TPROXY': {
    flags: ['-m', 'TPROXY'],
    steps: ['echo 1 >/proc/sys/net/ipv4/conf/all/src_valid_mark'],
    doubts: [/^net\.ipv4\.conf\.\*\.src_valid_mark is 1/],
  },
  'marks in the source check of eth0, TPROXY': {
    flags: ['-m', 'TPROXY'],
    steps: ['ip link add eth0 type veth peer name peer0', 'echo 1 >/proc/sys/net/ipv4/conf/eth0/src_valid_mark'],
    doubts: [/^net\.ipv4\.conf\.\*\.src_valid_mark is 1/],
  },
  'marks in the source check, REDIRECT': {
    flags: [],
    steps: ['echo 1 >/proc/sys/net/ipv4/conf/all/src_valid_mark'],
    doubts: [],
  },
  'a virtual machine': {
    flags: [],
    steps: ['ip link add tap0_kata type veth peer name peer0'],
    doubts: [/^the pod is a virtual machine/],
  },
};

for (const [name, { flags, steps, doubts }] of Object.entries(CASES)) {
  test(name, async () => {
    await using farm = new Farm('doubts');
    const path = await farm.add();
    await inside(path, ['sh', '-ec', steps.join('\n')]);
    const target = await identify(path);
    const compiled = await compile(...flags);
    for (const { doubts: found } of [await compiled.apply(target), await compiled.verify(target)]) {
      assert.equal(found.length, doubts.length, found.join());
      for (const [at, doubt] of doubts.entries()) assert.match(found[at] ?? '', doubt);
    }
    const { code, stdout } = await ipnc(['verify', '--netns', path, '--ip-families', '4,6', ...flags]);
    assert.equal(code, doubts.length > 0 ? 3 : 0);
    assert.equal(/^# why the rules do not work in this pod$/m.test(stdout), doubts.length > 0, stdout);
  });
}
