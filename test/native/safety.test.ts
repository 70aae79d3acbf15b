/** Which netns an install may touch, and what it leaves there. */

import assert from 'node:assert/strict';
import { mkdirSync, renameSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { dial } from '../../lib/demo/toolbox.ts';
import { type Compiled, type Netns, native, type Timings } from '../../lib/native/addon.ts';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { holdLock } from '../support/contention.ts';
import { assertAllAtHome, BACKENDS, codeOf, compile, Farm, identify, inside, state } from '../support/netns.ts';
import { isOver } from '../support/patience.ts';
import { run } from '../support/process.ts';

const test = suite('safety');
test.needs('netns', 'uid-map', 'ipv6', 'addon', 'toolbox', 'ip', 'nsenter', 'iptables-legacy-save');
test.after.each(assertAllAtHome);

const OWN = '/proc/self/ns/net';

/** What `path` is, as far as stat() knows; the cookie is made up. */
function forged(path: string): Netns {
  let { dev, ino } = { dev: 1, ino: 1 };
  try {
    ({ dev, ino } = statSync(path));
  } catch {
    // There is nothing to be seen.
  }
  return { path, dev, ino, cookie: 1n };
}

/** The code with which everything that can be done to a netns is refused. */
async function refusal(path: string): Promise<string> {
  const compiled = await compile();
  const began = performance.now();
  const codes = [
    await codeOf(native().identify(path)),
    await codeOf(compiled.apply(forged(path))),
    await codeOf(compiled.apply(forged(path), { fresh: true })),
    await codeOf(compiled.verify(forged(path))),
    await codeOf(native().clean(forged(path))),
  ];
  assert.ok(!isOver(began, 2000), `${path} took ${performance.now() - began} ms`);
  return [...new Set(codes)].join(' ');
}

async function assertStale(compiled: Compiled, target: Netns): Promise<void> {
  for (const fresh of [true, false]) assert.equal(await codeOf(compiled.apply(target, { fresh })), 'ESTALE');
  assert.equal(await codeOf(compiled.verify(target)), 'ESTALE');
  assert.equal(await codeOf(native().clean(target)), 'ESTALE');
}

const ownNames: Record<string, (farm: Farm) => string | Promise<string>> = {
  'of this process': () => OWN,
  'of this thread': () => '/proc/thread-self/ns/net',
  'of this pid': () => `/proc/${process.pid}/ns/net`,
  'by a detour': () => '/proc/self/task/../ns/./net',
  'by a symlink to a symlink': (farm) => {
    symlinkSync(OWN, farm.file('one'));
    symlinkSync(farm.file('one'), farm.file('two'));
    return farm.file('two');
  },
  'bound to a file, as `ip netns attach` does': (farm) => bind(OWN, farm.file('bound')),
};
for (const [name, make] of Object.entries(ownNames)) {
  test(`its own netns is refused: ${name}`, async () => {
    await using farm = new Farm('safety');
    const before = await state(OWN);
    const path = await make(farm);
    try {
      assert.equal(await refusal(path), 'ERR_HOST_NETNS');
      const { code, stderr } = await ipnc(['apply', '--netns', path, '--ip-families', '4,6']);
      assert.equal(code, 1);
      assert.ok(stderr.includes('ERR_HOST_NETNS'), stderr);
    } finally {
      if (path.endsWith('/bound')) await run('umount', [path]);
    }
    assert.equal(await state(OWN), before);
  });
}

test('its own netns is refused by pid', async () => {
  const { code, stderr } = await ipnc(['apply', '--pid', String(process.pid)]);
  assert.equal(code, 1);
  assert.ok(stderr.includes('ERR_HOST_NETNS'), stderr);
});

test("the netns of process 1 is refused: it is the host's, even to who lives in another", async () => {
  assert.match(await refusal('/proc/1/ns/net'), /^(ERR_HOST_NETNS|EACCES|EPERM)$/);
});

const notNetns: Record<string, { make: (farm: Farm) => string | Promise<string>; code?: RegExp }> = {
  'a file': { make: (farm) => touch(farm.file()) },
  'a folder': { make: (farm) => farm.folder },
  'a pipe': {
    make: async (farm) => {
      await run('mkfifo', [farm.file('pipe')]);
      return farm.file('pipe');
    },
  },
  'a device': { make: () => '/dev/null' },
  'a mount namespace': { make: () => '/proc/self/ns/mnt' },
  'a pid namespace': { make: () => '/proc/self/ns/pid' },
  'a user namespace': { make: () => '/proc/self/ns/user' },
  'a uts namespace': { make: () => '/proc/self/ns/uts' },
  'a file of proc': { make: () => '/proc/self/status' },
  'a file under a file': { make: (farm) => `${touch(farm.file())}/net`, code: /^ENOTDIR$/ },
  'a symlink to itself': {
    make: (farm) => {
      symlinkSync(farm.file('loop'), farm.file('loop'));
      return farm.file('loop');
    },
    code: /^ELOOP$/,
  },
  nothing: { make: (farm) => farm.file(), code: /^ENOENT$/ },
  'a name that is too long': { make: (farm) => farm.file('x'.repeat(300)), code: /^ENAMETOOLONG$/ },
};
for (const [name, { make, code = /^ERR_NOT_NETNS$/ }] of Object.entries(notNetns)) {
  test(`a path that is not a netns is refused: ${name}`, async () => {
    await using farm = new Farm('safety');
    assert.match(await refusal(await make(farm)), code);
  });
}

test('a path that changes without a pause leads to the netns that was identified, or nowhere', async () => {
  await using farm = new Farm('safety');
  const [pods = '', others = ''] = await farm.addAll(2);
  await run('mkfifo', [farm.file('pipe')]);
  const [target, compiled, before] = [await identify(pods), await compile(), await state(others)];
  const [moving, next] = [farm.file('moving'), farm.file('next')];
  let over = false;
  const move = async () => {
    for (let at = 0; !over; at++) {
      symlinkSync([pods, others, OWN, '/dev/null', farm.file('pipe')][at % 5] ?? '', next);
      renameSync(next, moving);
      if (at % 3 === 0) await setImmediate();
    }
  };
  const moves = move();
  const outcomes = new Set<string>();
  try {
    for (let times = 0; times < 200; times++) {
      const at = { ...target, path: moving };
      const jobs = [compiled.apply(at), compiled.verify(at), native().clean(at), native().identify(moving)];
      for (const code of await Promise.all(jobs.map(codeOf))) outcomes.add(code ?? 'done');
    }
  } finally {
    over = true;
    await moves;
  }
  for (const outcome of outcomes) assert.match(outcome, /^(done|ESTALE|ERR_NOT_NETNS|ERR_HOST_NETNS)$/);
  assert.ok(outcomes.size === 4, [...outcomes].join());
  assert.equal(await state(others), before);
});

for (const [backend, { needs, look }] of Object.entries(BACKENDS)) {
  const compileFor = (...flags: string[]) => compile('--backend', backend, ...flags);

  test(
    `another netns at the path that was identified is ESTALE, and is not touched: ${backend}`,
    async () => {
      await using farm = new Farm('safety');
      const compiled = await compileFor('-m', 'TPROXY');
      const path = await farm.add();
      const target = await identify(path);
      await farm.del(path);
      await farm.add(path, 'down');
      const before = await look(path);
      // The same file, the cookie of another: known only once the thread is inside.
      for (const stale of [target, { ...(await identify(path)), cookie: target.cookie }]) {
        await assertStale(compiled, stale);
      }
      assert.equal(await look(path), before);
      assert.equal((await compiled.apply(await identify(path))).changed, true);
    },
    { needs },
  );

  test(
    `a lock that a process of the pod keeps delays an install by 20 ms, and no check at all: ${backend}`,
    async () => {
      await using farm = new Farm('safety');
      const compiled = await compileFor('-m', 'TPROXY');
      const path = await farm.add();
      const target = await identify(path);
      const before = await look(path);
      await using _lock = await holdLock(path);
      for (const fresh of [true, false]) {
        const began = performance.now();
        assert.equal((await compiled.apply(target, { fresh })).changed, true);
        const took = performance.now() - began;
        assert.ok(took > 15 && took < 200, `waited for its turn for ${took} ms`);
        const { cookie } = await identify(path);
        assert.equal(cookie, target.cookie);
        assert.equal((await compiled.verify(target)).ok, true);
        await native().clean(target);
      }
      assert.equal(await look(path), before);
    },
    { needs },
  );

  test(
    `the lock is given up as soon as an install is over: ${backend}`,
    async () => {
      await using farm = new Farm('safety');
      const compiled = [await compileFor(), await compileFor('-o', '22')];
      const path = await farm.add();
      const target = await identify(path);
      for (let i = 0; i < 20; i++) {
        assert.equal((await compiled[(i >> 1) % 2]?.apply(target))?.changed, i % 2 === 0);
        await run('flock', ['-x', '-w', '5', path, 'true']);
      }
    },
    { needs },
  );
}

test('the cookie distinguishes two netns with the same inode number', async () => {
  await using farm = new Farm('safety');
  const compiled = await compile('-m', 'TPROXY');
  // The kernel gives out the lowest free number, not to namespaces alone, and takes its time to free one.
  const old = new Map<number, Netns>();
  const began = performance.now();
  let path: string;
  let reused: Netns | undefined;
  for (;;) {
    path = await farm.add(undefined, 'down');
    const netns = await identify(path);
    reused = old.get(netns.ino);
    if (reused !== undefined) break;
    assert.ok(!isOver(began, 10_000), 'no inode number came back');
    old.set(netns.ino, netns);
    await farm.del(path);
  }
  const target = { ...reused, path };
  const before = await state(path);
  const { dev, ino, cookie } = await identify(path);
  assert.deepEqual({ dev, ino }, { dev: target.dev, ino: target.ino });
  assert.notEqual(cookie, target.cookie);
  await assertStale(compiled, target);
  assert.equal(await state(path), before);
});

test('a netns that was removed after it was identified is an error', async () => {
  await using farm = new Farm('safety');
  const compiled = await compile();
  const path = await farm.add();
  const target = await identify(path);
  await farm.del(path);
  assert.equal(await codeOf(compiled.apply(target)), 'ENOENT');
  touch(path);
  assert.equal(await codeOf(compiled.apply(target)), 'ERR_NOT_NETNS');
});

test('the identified netns is accepted under another path', async () => {
  await using farm = new Farm('safety');
  const path = await farm.add();
  const other = farm.file('other');
  await bind(path, other);
  try {
    const compiled = await compile();
    await compiled.apply({ ...(await identify(path)), path: other });
    assert.equal((await compiled.verify(await identify(path))).ok, true);
  } finally {
    await run('umount', [other]);
  }
});

for (const fresh of [false, true]) {
  test(`apply brings lo up and adds address, rules and routes once, ${fresh ? 'fresh' : 'not fresh'}`, async () => {
    await using farm = new Farm('safety');
    const compiled = await compile('-m', 'TPROXY');
    const path = await farm.add(undefined, 'down');
    const target = await identify(path);
    const added = [
      'link set lo up',
      '-6 address add ::6/128 dev lo',
      '-4 route add local default dev lo table 133',
      '-4 rule add fwmark 0x539 lookup 133',
      '-6 route add local default dev lo table 133',
      '-6 rule add fwmark 0x539 lookup 133',
    ];
    assert.deepEqual((await compiled.apply(target, { fresh })).routes, added);
    const once = await state(path);
    assert.match(once, /<LOOPBACK,UP,LOWER_UP>/);
    assert.ok(once.includes('inet6 ::6/128'), once);
    for (let again = 0; again < 2; again++) {
      const { changed, routes, tables } = await compiled.apply(target, { fresh });
      assert.deepEqual({ changed, routes }, { changed: false, routes: [] });
      assert.ok(tables.every(({ how }) => how === 'unchanged'));
    }
    assert.equal(await state(path), once);
    for (const family of ['-4', '-6']) {
      assert.equal((await inside(path, ['ip', family, 'rule', 'show', 'fwmark', '1337'])).match(/lookup/g)?.length, 1);
      assert.equal((await inside(path, ['ip', family, 'route', 'show', 'table', '133'])).match(/default/g)?.length, 1);
    }
  });
}

test('a change is reported as one, fresh or not', async () => {
  await using farm = new Farm('safety');
  const compiled = [await compile('-o', '22'), await compile('-o', '23')];
  const target = await identify(await farm.add());
  await compiled[0]?.apply(target);
  for (const fresh of [true, false]) {
    for (const each of compiled.toReversed()) {
      const { changed, tables } = await each.apply(target, { fresh });
      assert.equal(changed, true);
      assert.deepEqual(tables, [
        { family: 4, table: 'nat', how: 'merged' },
        { family: 6, table: 'nat', how: 'merged' },
      ]);
    }
  }
});

for (const [backend, tables] of Object.entries({ 'iptables-legacy': ['v4', 'v6'], nftables: ['nftables'] })) {
  test(`each phase is timed under its own name: ${backend}`, async () => {
    await using farm = new Farm('safety');
    const compiled = await compile('--backend', backend);
    const [target, other] = [await identify(await farm.add()), await identify(await farm.add())];
    const taken = ({ timings }: { timings: Timings }) => {
      const { queue, total, ...parts } = timings;
      const sum = Object.values(parts).reduce((all, part) => all + part, 0);
      assert.ok(queue > 0 && sum <= total, JSON.stringify(timings));
      return Object.keys(parts).filter((phase) => parts[phase as keyof typeof parts] > 0);
    };
    const installed = ['enter', ...tables, 'routes', 'verify'];
    assert.deepEqual(taken(await compiled.apply(target, { fresh: true })), installed);
    assert.deepEqual(taken(await compiled.apply(other, { fresh: true, wakeGate: true })), [...installed, 'release']);
    assert.deepEqual(taken(await compiled.verify(target)), ['enter', 'v4', 'v6', 'nftables', 'routes']);
  });
}

test('a second apply leaves the counters of rules as they are', async () => {
  await using farm = new Farm('safety');
  const compiled = await compile('-o', '5432');
  const path = await farm.add();
  const target = await identify(path);
  await compiled.apply(target);
  for (const address of ['127.0.0.1', '::1']) {
    await dial({ netns: path, uid: 1000, gid: 1000 }, { protocol: 'tcp', address, port: 5432 });
  }
  const before = await state(path);
  assert.equal(before.match(/^\[1:\d\d\] -A ISTIO_OUTPUT -p tcp -m tcp --dport 5432 -j RETURN$/gm)?.length, 2, before);
  assert.equal((await compiled.apply(target)).changed, false);
  assert.equal(await state(path), before);
  // The fast path must not take it for a table nobody has written to.
  assert.equal((await compiled.apply(target, { fresh: true })).changed, false);
  assert.equal(await state(path), before);
});

test('where IPv6 is off, IPv4 alone is installed', async () => {
  await using farm = new Farm('safety');
  const path = await farm.add();
  await disableIpv6(path);
  for (const verb of ['apply', 'verify']) {
    const { code, stdout, stderr } = await ipnc([verb, '--netns', path, '--output', 'json']);
    assert.equal(code, 0, stderr);
    assert.deepEqual(JSON.parse(stdout).families, [4]);
  }
  assert.match(await state(path), /-A ISTIO_REDIRECT(.*\n)*# IPv6\n\d+:/);
  assert.equal((await ipnc(['clean', '--netns', path])).code, 0);
});

test('where IPv6 is off and asked for, the error says so and nothing is touched', async () => {
  await using farm = new Farm('safety');
  const path = await farm.add(undefined, 'down');
  await disableIpv6(path);
  const before = await state(path);
  const { code, stderr } = await ipnc(['apply', '--netns', path, '--ip-families', '4,6']);
  assert.equal(code, 1);
  assert.ok(stderr.includes('IPv6 is disabled'), stderr);
  assert.equal(await state(path), before);
});

test('IPv6 turned off after an install is drift, cannot be installed again, and can be cleaned', async () => {
  await using farm = new Farm('safety');
  const compiled = await compile('-m', 'TPROXY');
  const path = await farm.add();
  const target = await identify(path);
  const bare = await state(path);
  await compiled.apply(target);
  await disableIpv6(path);
  const before = await state(path);
  const { ok, routes } = await compiled.verify(target);
  assert.equal(ok, false);
  assert.ok(routes.missing.includes('-6 address add ::6/128 dev lo'), routes.missing.join('\n'));
  assert.match((await codeOf(compiled.apply(target))) ?? '', /^(EACCES|EADDRNOTAVAIL)$/);
  assert.equal(await state(path), before);
  assert.equal((await native().clean(target)).changed, true);
  await inside(path, ['sh', '-c', 'echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6']);
  assert.equal(await state(path), bare);
});

async function disableIpv6(path: string): Promise<void> {
  await inside(path, ['sh', '-c', 'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6']);
}

async function bind(path: string, file: string): Promise<string> {
  await run('mount', ['--bind', path, touch(file)]);
  return file;
}

function touch(file: string): string {
  mkdirSync(file.slice(0, file.lastIndexOf('/')), { recursive: true });
  writeFileSync(file, '');
  return file;
}
