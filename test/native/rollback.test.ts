/**
 * All or nothing: whatever step of an install fails, the netns is as it was before. The failures are the kernel's own
 * (rules that others left, with which it will not take ours) or system calls denied by seccomp.
 */
import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { native } from '../../lib/native/addon.ts';
import type { Order } from '../fixtures/install.ts';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { installForeign } from '../support/foreign.ts';
import {
  assertAllAtHome,
  compile,
  Farm,
  formFor,
  INSTALL_NEEDS,
  identify,
  inside,
  restore,
  state,
  TOOLBOX,
} from '../support/netns.ts';
import { nodeEnvironment } from '../support/node.ts';
import { run } from '../support/process.ts';
import { denied, type Obstacle, routeObstacles, testObstacle } from '../support/rollback.ts';

const DNS = ['--redirect-dns', '--capture-all-dns'];
const TPROXY = ['-m', 'TPROXY'];
const MAIN = fileURLToPath(new URL('../../lib/main.ts', import.meta.url));
/**
 * Bytes with which IPT_SO_SET_REPLACE writes an IPv4 nat table without rules: ipt_replace (96), four policies (152 each)
 * and the end of the table (176).
 */
const PRISTINE_NAT = 96 + 4 * 152 + 176;

const test = suite('rollback');
test.needs(...INSTALL_NEEDS);
test.after.each(assertAllAtHome);

/** What stands in the netns before the install that fails. */
const befores: Record<string, (path: string) => Promise<unknown>> = {
  nothing: async () => {},
  'rules of others': installForeign,
  'an older configuration of ours': async (path) => (await compile('-o', '5432')).apply(await identify(path)),
  'an older configuration of ours, rules of others on both sides': async (path) => {
    await installForeign(path);
    await (await compile('-c', 'net1', '-k', 'vm0')).apply(await identify(path));
    for (const family of [4, 6] as const) {
      const last = '[1:1] -A PREROUTING -p sctp -j ACCEPT\n[2:2] -A OUTPUT -p sctp -j RETURN\n';
      await restore(path, family, `*nat\n${last}COMMIT\n*mangle\n${last}COMMIT\n`);
    }
  },
  'TPROXY with another mark and table': async (path) =>
    (await compile('-m', 'TPROXY', '-t', '7', '-r', '7')).apply(await identify(path)),
};

/** Each lets IPv4 through and fails in IPv6. */
const obstacles: Record<string, Obstacle> = {
  // A chain with REDIRECT in it cannot be reached from POSTROUTING.
  'the kernel refuses nat': {
    flags: DNS,
    code: /^ERR_LEGACY_REFUSED$/,
    lay: (path) => misuse(path, 'nat', 'ISTIO_OUTPUT_DNS'),
  },
  'the kernel refuses nat, after raw and mangle and the routes': {
    flags: [...TPROXY, ...DNS],
    code: /^ERR_LEGACY_REFUSED$/,
    lay: (path) => misuse(path, 'nat', 'ISTIO_OUTPUT_DNS'),
  },
  // TPROXY is for PREROUTING alone. Where TPROXY stands already this obstacle cannot be laid.
  'the kernel refuses mangle, after raw and the routes': {
    flags: [...TPROXY, ...DNS],
    code: /^ERR_LEGACY_REFUSED$/,
    lay: (path) => misuse(path, 'mangle', 'ISTIO_TPROXY'),
  },
  ...routeObstacles(TPROXY),
};

for (const [name, obstacle] of Object.entries(obstacles)) {
  for (const [before, prepare] of Object.entries(befores)) {
    if (name.startsWith('the kernel refuses mangle') && before.startsWith('TPROXY')) continue;
    testObstacle(test, `${name}; before: ${before}`, obstacle, prepare, state);
  }
}

test('on the command line a failed install is exit 1, says what failed, and leaves nothing', async () => {
  await using farm = new Farm('rollback');
  const path = await farm.add();
  await misuse(path, 'nat', 'ISTIO_OUTPUT_DNS');
  const was = await state(path);
  const { code, stderr } = await ipnc(['apply', '--netns', path, '--ip-families', '4,6', ...DNS]);
  assert.equal(code, 1);
  assert.match(stderr, /EINVAL.*IPv6 nat/);
  assert.equal(await state(path), was);
});

/** SPECs of `toolbox deny` and the code that comes of them. They hold for the whole life of the installing process. */
const denials: [specs: string, code: string][] = [
  ['setns=EPERM', 'EPERM'],
  ['unshare=EPERM', 'EPERM'],
  ['sendto=EPERM sendmsg=EPERM', 'EPERM'],
  ['sendto=ENOBUFS sendmsg=ENOBUFS', 'ENOBUFS'],
  ['recvfrom=ENOBUFS recvmsg=ENOBUFS', 'ENOBUFS'],
  ['socket:16=EMFILE', 'EMFILE'],
  ['socket:16=EPERM', 'EPERM'],
  ['socket:10=EMFILE', 'EMFILE'],
  ['getsockopt:1:71=ENOPROTOOPT', 'ENOPROTOOPT'],
  ['getsockopt:41:65=ENOMEM', 'ENOMEM'],
  ['getsockopt:41:64=EPERM', 'EPERM'],
  ['setsockopt:41:64=ENOMEM', 'ENOMEM'],
  ['setsockopt:0:64=EPERM', 'EPERM'],
];

for (const [specs, code] of denials) {
  test(`denied ${specs}: all or nothing`, async () => {
    await using farm = new Farm('rollback');
    const older = await compile('-o', '5432');
    const installOlder = async (path: string) => older.apply(await identify(path));
    const form = formFor(TPROXY);
    const orders: Order[] = [];
    const was: string[] = [];
    for (const [verb, fresh, prepare] of [
      ['apply', true, async () => {}],
      ['apply', false, installForeign],
      ['apply', false, installOlder],
      ['clean', false, installOlder],
    ] as const) {
      const path = await farm.add();
      await prepare(path);
      const target = await identify(path);
      orders.push({ verb, fresh, form, target });
      was.push(await state(path));
    }
    const outcomes = await denied(specs.split(' '), orders);
    for (const [at, { verb, target }] of orders.entries()) {
      // What makes no scratch netns and compiles nothing may well succeed.
      const outcome = outcomes[at];
      if (verb === 'clean' && outcome !== undefined && 'changed' in outcome) {
        assert.ok(!(await state(target.path)).includes('ISTIO'), await state(target.path));
      } else {
        assert.deepEqual(outcome, { code });
        assert.equal(await state(target.path), was[at], verb);
      }
    }
  });
}

for (const undo of ['done', 'denied'] as const) {
  test(`the message says whether all was undone: ${undo}`, async () => {
    await using farm = new Farm('rollback');
    const path = await farm.add();
    // IPv4 is installed, then the kernel refuses IPv6.
    await misuse(path, 'nat', 'ISTIO_OUTPUT_DNS');
    const was = await state(path);
    const words = ['apply', '--netns', path, '--ip-families', '4,6', ...DNS];
    const specs = undo === 'denied' ? [`setsockopt:0:64:*:${PRISTINE_NAT}=EPERM`] : ['mount=EPERM'];
    const failed = await run(TOOLBOX, ['deny', ...specs, '--', process.execPath, MAIN, ...words], {
      env: nodeEnvironment(),
    }).catch((error: { code: number; stderr: string }) => error);
    assert.equal('code' in failed && failed.code, 1);
    if (undo === 'done') {
      assert.equal(await state(path), was);
      assert.doesNotMatch(failed.stderr, /ERR_ROLLBACK/);
      return;
    }
    assert.match(failed.stderr, /table IPv4 nat could not be restored \(EPERM, /);
    assert.match(failed.stderr, /EINVAL/);
    assert.match(failed.stderr, /\(ERR_ROLLBACK\)/);
    assert.doesNotMatch(failed.stderr, /were undone|rolled back/);
    assert.match(await state(path), /-A ISTIO_REDIRECT(.*\n)*# IPv6/);
    await native().clean(await identify(path));
    assert.doesNotMatch(await state(path), /ISTIO_/);
  });
}

/** Makes `chain` reachable from POSTROUTING, in IPv6, through a chain of others. */
async function misuse(path: string, table: string, chain: string): Promise<void> {
  const chains = (await inside(path, ['ip6tables-legacy', '-t', table, '-S'])).includes(`-N ${chain}\n`)
    ? ':TRAP - [0:0]\n'
    : `:${chain} - [0:0]\n:TRAP - [0:0]\n`;
  await restore(path, 6, `*${table}\n${chains}-A TRAP -j ${chain}\n-A POSTROUTING -j TRAP\nCOMMIT\n`);
}
