/**
 * Which backend a netns gets, with kernels that lack one of them: system calls are denied as such a kernel would answer
 * them (`toolbox deny`), in a process of its own.
 */

import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { native } from '../../lib/native/addon.ts';
import { suite } from '../suite.ts';
import { ipnc, type Outcome } from '../support/command-line.ts';
import { Farm, INSTALL_NEEDS, nftRules, restore, restoreNft, state, TOOLBOX, wholeState } from '../support/netns.ts';
import { nodeEnvironment } from '../support/node.ts';
import { run } from '../support/process.ts';

const MAIN = fileURLToPath(new URL('../../lib/main.ts', import.meta.url));
/** SPECs of `toolbox deny`: SO_GET_INFO of ip_tables and ip6_tables; and NETLINK_NETFILTER. */
const WITHOUT = {
  legacy: ['getsockopt:0:64=ENOPROTOOPT', 'getsockopt:41:64=ENOPROTOOPT'],
  'legacy IPv6': ['getsockopt:41:64=ENOPROTOOPT'],
  nf_tables: ['socket:16:*:12=EPROTONOSUPPORT'],
} as const;
const BOTH = ['--ip-families', '4,6'];
const TPROXY = ['-m', 'TPROXY'];

const lacking = suite('a kernel that lacks a backend');
lacking.needs(...INSTALL_NEEDS, 'nft');

lacking('without legacy tables: auto is nftables, and says why', async () => {
  await using farm = new Farm('auto');
  const path = await farm.add();
  const reason = 'this kernel has no legacy IPv4 nat table (ENOPROTOOPT)';
  const applied = await ipncWithout('legacy', 'apply', '--netns', path);
  assert.equal(applied.code, 0, applied.stderr);
  assert.ok(applied.stdout.includes(`done: ${path} (IPv4 and IPv6, nftables: ${reason})`), applied.stdout);
  assert.deepEqual((await native().identify(path)).installedBackends, ['nftables']);
  const again = await json(ipncWithout('legacy', 'apply', '--netns', path, '--output', 'json'));
  assert.deepEqual([again.backend, again.reason, again.changed], ['nftables', reason, false]);
  const verified = await json(ipncWithout('legacy', 'verify', '--netns', path, '--output', 'json'));
  assert.deepEqual([verified.backend, verified.reason, verified.ok], ['nftables', reason, true]);

  await restoreNft(path, 'insert rule inet istio-proxy-nat output accept');
  const drifted = await ipncWithout('legacy', 'verify', '--netns', path);
  assert.equal(drifted.code, 3);
  assert.ok(drifted.stdout.includes(`nftables: ${reason}`), drifted.stdout);
  const cleaned = await ipncWithout('legacy', 'clean', '--netns', path);
  assert.equal(cleaned.code, 0, cleaned.stderr);
  assert.equal(await nftRules(path), '');
});

lacking('without legacy tables: doctor says so, and all is well', async () => {
  const { code, stdout } = await ipncWithout('legacy', 'doctor');
  assert.equal(code, 0, stdout);
  for (const family of [4, 6]) {
    for (const table of ['nat', 'mangle', 'raw']) {
      assert.match(stdout, new RegExp(`^warn +legacy IPv${family} ${table} +ENOPROTOOPT;`, 'm'));
    }
  }
  assert.match(stdout, /^ok +nf_tables /m);
  assert.match(stdout, /^ok +backend +nftables: this kernel has no legacy IPv4 nat table \(ENOPROTOOPT\)/m);
});

lacking('without nf_tables: doctor says so, and all is well', async () => {
  const { code, stdout } = await ipncWithout('nf_tables', 'doctor');
  assert.equal(code, 0, stdout);
  assert.match(stdout, /^warn +nf_tables +EPROTONOSUPPORT$/m);
  assert.match(stdout, /^ok +backend +iptables-legacy: the faster backend/m);
});

/** What cannot be had fails, says what is lacking, and leaves the netns as it was. */
const refusals: [without: keyof typeof WITHOUT, words: string[], message: RegExp][] = [
  [
    'legacy',
    ['apply', '--backend', 'iptables-legacy'],
    /^error: this kernel has no legacy iptables \(ENOPROTOOPT.*IPv4 nat/,
  ],
  ['legacy', ['apply', '--backend', 'iptables-legacy', ...TPROXY], /^error: this kernel has no legacy iptables /],
  ['legacy', ['verify', '--backend', 'iptables-legacy'], /^error: this kernel has no legacy iptables /],
  [
    'legacy IPv6',
    ['apply', '--backend', 'iptables-legacy', ...TPROXY],
    /^error: this kernel has no legacy iptables .*IPv6/,
  ],
  ['nf_tables', ['apply', '--backend', 'nftables'], /^error: this kernel has no nf_tables \(EPROTONOSUPPORT: /],
  [
    'nf_tables',
    ['apply', '--backend', 'nftables', ...TPROXY],
    /^error: this kernel has no nf_tables \(EPROTONOSUPPORT: /,
  ],
  ['nf_tables', ['verify', '--backend', 'nftables'], /^error: this kernel has no nf_tables \(EPROTONOSUPPORT: /],
];

for (const [without, words, message] of refusals) {
  lacking(`without ${without}: ${words.join(' ')} fails, and nothing is touched`, async () => {
    await using farm = new Farm('auto');
    const path = await farm.add(farm.file(), 'down');
    const was = await wholeState(path);
    const { code, stdout, stderr } = await ipncWithout(without, ...words, '--netns', path, ...BOTH);
    assert.equal(code, 1, stdout);
    assert.match(stderr, message);
    assert.match(stderr, /^ {2}try: .*modprobe/m);
    assert.equal(await wholeState(path), was);
  });
}

lacking('without legacy IPv6: nftables where it is wanted, legacy for IPv4 alone', async () => {
  await using farm = new Farm('auto');
  const path = await farm.add();
  const both = await json(ipncWithout('legacy IPv6', 'apply', '--netns', path, ...BOTH, '--output', 'json'));
  assert.deepEqual([both.backend, both.reason], ['nftables', 'this kernel has no legacy IPv6 nat table (ENOPROTOOPT)']);
  const other = await farm.add();
  const alone = await json(
    ipncWithout('legacy IPv6', 'apply', '--netns', other, '--ip-families', '4', '--output', 'json'),
  );
  assert.deepEqual([alone.backend, alone.reason], ['iptables-legacy', 'the faster backend']);
});

lacking('without nf_tables: legacy as ever, from apply to clean', async () => {
  await using farm = new Farm('auto');
  const [path, twin] = [await farm.add(), await farm.add()];
  const was = await wholeState(path);
  await done('apply', '--netns', twin, ...TPROXY);
  const applied = await json(ipncWithout('nf_tables', 'apply', '--netns', path, ...TPROXY, '--output', 'json'));
  assert.deepEqual([applied.backend, applied.changed], ['iptables-legacy', true]);
  assert.equal(await wholeState(path), await wholeState(twin));
  const again = await json(ipncWithout('nf_tables', 'apply', '--netns', path, ...TPROXY, '--output', 'json'));
  assert.equal(again.changed, false);
  assert.equal((await ipncWithout('nf_tables', 'verify', '--netns', path, ...TPROXY)).code, 0);
  assert.equal((await ipncWithout('nf_tables', 'clean', '--netns', path)).code, 0);
  assert.equal(await wholeState(path), was);
});

const auto = suite('auto');
auto.needs(...INSTALL_NEEDS, 'nft');

/** One apply after the other; what it says of itself, and what stands after each. */
const series: Record<string, [flags: string[], backend: string, reason: RegExp][]> = {
  'a new netns, and what stands there is kept': [
    [[], 'iptables-legacy', /faster/],
    [[], 'iptables-legacy', /the installed rules use it/],
    [['-o', '22', ...TPROXY], 'iptables-legacy', /the installed rules use it/],
  ],
  'nftables stays where it stands': [
    [['--backend', 'nftables'], 'nftables', /chosen by name/],
    [[], 'nftables', /the installed rules use it/],
    [['-o', '22', ...TPROXY], 'nftables', /the installed rules use it/],
    [['--counters=false'], 'nftables', /the installed rules use it/],
    [['--redirect-dns', '--capture-all-dns'], 'nftables', /the installed rules use it/],
  ],
  'by name it is moved, there and back': [
    [[], 'iptables-legacy', /faster/],
    [['--backend', 'nftables', ...TPROXY], 'nftables', /chosen by name/],
    [TPROXY, 'nftables', /the installed rules use it/],
    [['--backend', 'iptables-legacy'], 'iptables-legacy', /chosen by name/],
    [[], 'iptables-legacy', /the installed rules use it/],
  ],
};

for (const [name, steps] of Object.entries(series)) {
  auto(name, async () => {
    await using farm = new Farm('auto');
    const path = await farm.add();
    for (const [flags, backend, reason] of steps) {
      const result = await json(ipnc(['apply', '--netns', path, ...flags, '--output', 'json']));
      assert.equal(result.backend, backend);
      assert.match(result.reason as string, reason);
      await onlyOne(path, backend);
      const automatic = flags.filter((flag) => !['--backend', 'nftables', 'iptables-legacy'].includes(flag));
      const verified = await json(ipnc(['verify', '--netns', path, ...automatic, '--output', 'json']));
      assert.deepEqual([verified.ok, verified.backend], [true, backend]);
    }
    await done('clean', '--netns', path);
    assert.deepEqual((await native().identify(path)).installedBackends, []);
  });
}

/** Both forms, as the plans' texts make them, in whatever configurations. */
const doubles: Record<string, { legacy: string[]; nftables: string[]; apply: string[]; left: string; reason: RegExp }> =
  {
    'auto keeps legacy': { legacy: [], nftables: [], apply: [], left: 'iptables-legacy', reason: /faster/ },
    'nftables by name': {
      legacy: [],
      nftables: [],
      apply: ['--backend', 'nftables'],
      left: 'nftables',
      reason: /chosen by name/,
    },
    'legacy by name, older configurations': {
      legacy: ['-o', '1'],
      nftables: [...TPROXY, '--redirect-dns', '--capture-all-dns'],
      apply: ['--backend', 'iptables-legacy'],
      left: 'iptables-legacy',
      reason: /chosen by name/,
    },
    'nftables by name, older configurations': {
      legacy: [...TPROXY, '--redirect-dns', '--capture-all-dns'],
      nftables: ['-o', '1', '--drop-invalid'],
      apply: ['--backend', 'nftables'],
      left: 'nftables',
      reason: /chosen by name/,
    },
  };

for (const [name, { legacy, nftables, apply, left, reason }] of Object.entries(doubles)) {
  auto(`of two installed backends one is left: ${name}`, async () => {
    await using farm = new Farm('auto');
    const [path, twin] = [await farm.add(), await farm.add()];
    for (const family of [4, 6] as const) {
      await restore(path, family, await done('plan', ...legacy, '--ip-families', String(family)));
    }
    await restoreNft(path, await done('plan', '--format', 'nftables', ...nftables));
    assert.deepEqual((await native().identify(path)).installedBackends.sort(), ['iptables-legacy', 'nftables']);
    const verified = await ipnc(['verify', '--netns', path, ...apply]);
    assert.equal(verified.code, 3);
    const surplus = left === 'nftables' ? /^# IPv[46] nat\n\+/m : /^# table inet istio-proxy-nat\n\+/m;
    assert.match(verified.stdout, surplus);
    const result = await json(ipnc(['apply', '--netns', path, ...apply, '--output', 'json']));
    assert.equal(result.backend, left);
    assert.match(result.reason as string, reason);
    await onlyOne(path, left);
    await done('verify', '--netns', path, ...apply);
    await done('apply', '--netns', twin, '--backend', left);
    assert.equal(await wholeState(path), await wholeState(twin));
  });
}

/** As the operators' tools see it. */
async function onlyOne(path: string, backend: string): Promise<void> {
  assert.deepEqual((await native().identify(path)).installedBackends, [backend]);
  assert.equal((await state(path)).includes('ISTIO'), backend === 'iptables-legacy');
  assert.equal((await nftRules(path)) !== '', backend === 'nftables');
}

async function done(...words: string[]): Promise<string> {
  const { code, stdout, stderr } = await ipnc(words);
  assert.equal(code, 0, `${words.join(' ')}: ${stdout}${stderr}`);
  return stdout;
}

async function json(outcome: Promise<Outcome>): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await outcome;
  assert.equal(code, 0, stdout + stderr);
  return JSON.parse(stdout);
}

async function ipncWithout(what: keyof typeof WITHOUT, ...words: string[]): Promise<Outcome> {
  const command = ['deny', ...WITHOUT[what], '--', process.execPath, MAIN, ...words];
  const ended = (code: number) => (output: { stdout: string; stderr: string }) => ({ code, ...output });
  return run(TOOLBOX, command, { env: nodeEnvironment() }).then(ended(0), (error) => ended(Number(error.code))(error));
}
