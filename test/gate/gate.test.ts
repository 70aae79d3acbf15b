/** The gate in real netns with the rules of each backend, and processes that try to open it too early. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chmodSync, mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { serve } from '../../lib/demo/toolbox.ts';
import { foreignFlags } from '../../lib/istio/foreign.ts';
import { NETNS, STATUS } from '../../lib/istio/names.ts';
import { optionList } from '../../lib/istio/options.ts';
import { native } from '../../lib/native/addon.ts';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { type Ended, GateHome, GateProcess, hint } from '../support/gate.ts';
import { BOOT_ID, Farm, INSTALL_NEEDS, inside, TOOLBOX } from '../support/netns.ts';
import { launch, run } from '../support/process.ts';

const NEEDS = [...INSTALL_NEEDS, 'gate', 'setpriv', 'nft'];
const BACKENDS = ['iptables-legacy', 'nftables'] as const;
/** Longer than two of its periodic checks. */
const A_WHILE_MS = 1_200;
/** The limit of tests that start many processes. */
const SLOW = { timeoutMs: 120_000 };

let farm: Farm;
let home: GateHome;
const open = async () => {
  farm = new Farm('gate');
  home = new GateHome();
};
const close = async () => {
  home?.[Symbol.dispose]();
  await farm?.[Symbol.asyncDispose]();
};

async function apply(netns: string, ...flags: string[]): Promise<void> {
  const { code, stderr } = await ipnc(['apply', '--netns', netns, ...flags]);
  assert.equal(code, 0, stderr);
  // The kernel makes the local route of ::6 a moment after the address.
  const late = 'ip address show dev lo | grep -q " ::6/" && ! ip -6 route show table local | grep -q "^local ::6 "';
  await inside(netns, ['sh', '-c', `while ${late}; do sleep 0.01; done`]);
}

async function clean(netns: string): Promise<void> {
  assert.equal((await ipnc(['clean', '--netns', netns])).code, 0);
}

/** Sends hints to the gate, which checks the rules and stays shut. */
async function staysShut(gate: GateProcess, netns: string): Promise<void> {
  for (let times = 0; times < 3; times++) {
    await hint(netns);
    await sleep(A_WHILE_MS / 3);
  }
  assert.ok(gate.shut, gate.said);
}

/** One that is started for it, and ended. */
async function neverOpens(netns: string, words: string[] = []): Promise<void> {
  const gate = await home.start(netns, words).waiting();
  await staysShut(gate, netns);
  gate.kill('SIGTERM');
  await gate.ended;
}

/** At the first look, or at the next one where a busy kernel answered the first too late. */
const SOON = /1 probe|found by the periodic check \(3 probes\)/;

const opened = (ended: Ended, how: RegExp, families = 'IPv4 and IPv6 are redirected') => {
  assert.equal(ended.code, 0, `${ended.stdout}${ended.stderr}`);
  assert.match(ended.line, new RegExp(`^open after \\d+\\.\\d (ms|s): ${families} to 15006`));
  assert.match(ended.line, how);
};

const stampOf = async (netns: string) => `${BOOT_ID}:${(await native().identify(netns)).cookie}`;

/** A folder as the kubelet makes it for a downward API volume, whose content is replaced by the rename of a link. */
class Volume {
  readonly file: string;
  readonly #folder: string;
  #versions = 0;

  constructor(name: string, annotations: Record<string, string> = {}) {
    this.#folder = home.folderOf(name);
    this.file = join(this.#folder, 'pod_annotations');
    this.write(annotations);
    symlinkSync('..data/pod_annotations', this.file);
  }

  write(annotations: Record<string, string>): void {
    this.writeText(
      Object.entries({ 'example.com/other': 'a "quoted"\nvalue', ...annotations })
        .map(([key, value]) => `${key}=${JSON.stringify(value)}\n`)
        .join(''),
    );
  }

  writeText(text: string): void {
    const version = `..version-${this.#versions++}`;
    mkdirSync(join(this.#folder, version));
    chmodSync(join(this.#folder, version), 0o755);
    writeFileSync(join(this.#folder, version, 'pod_annotations'), text);
    symlinkSync(version, join(this.#folder, '..data_tmp'));
    renameSync(join(this.#folder, '..data_tmp'), join(this.#folder, '..data'));
  }
}

for (const backend of BACKENDS) {
  const test = suite(`gate, ${backend}`);
  test.needs(...NEEDS);
  test.before(open);
  test.after(close);
  const install = (netns: string, ...flags: string[]) => apply(netns, '--backend', backend, ...flags);

  test('rules first: it opens at the first look', async () => {
    const netns = await farm.add();
    await install(netns);
    const first = () => home.start(netns).ended;
    // A busy kernel may answer a look too late; the second or third try is then in time.
    const tries = [await first(), await first(), await first()];
    for (const each of tries) opened(each, SOON);
    assert.ok(tries.some(({ line }) => line.endsWith('; the rules were already active (1 probe)')));
  });

  test('gate first: the datagram wakes it', async () => {
    const netns = await farm.add();
    const gate = await home.start(netns).waiting();
    await install(netns);
    const { sent } = await hint(netns);
    assert.equal(sent, 1);
    opened(await gate.ended, /; woken by a datagram \(\d+ probes\)$/);
    assert.equal((await hint(netns)).unheard, 1, 'nobody listens any more');
  });

  test('gate first, and no word ever comes: it finds out by itself, and looks twice', async () => {
    const netns = await farm.add();
    const gate = await home.start(netns).waiting();
    await install(netns);
    const ended = await gate.ended;
    opened(ended, /; found by the periodic check \(\d+ probes\)$/);
    assert.ok(Number(/(\d+) probes/.exec(ended.line)?.[1]) >= 3, ended.line);
  });

  test('rules that were taken away do not open it; put back, they do', async () => {
    const netns = await farm.add();
    await install(netns);
    await clean(netns);
    const gate = await home.start(netns).waiting();
    await staysShut(gate, netns);
    // The datagram comes from the install itself: a hint by another process may come after a look of the gate's own.
    await install(netns, '--release');
    opened(await gate.ended, /woken by a datagram/);
    await clean(netns);
    await neverOpens(netns);
  });

  for (const [one, other] of [
    [4, 6],
    [6, 4],
  ]) {
    test(`rules of IPv${one} alone do not open it`, async () => {
      const netns = await farm.add();
      await install(netns, '--ip-families', String(one));
      const gate = home.start(netns, ['--timeout', '1500ms']);
      await staysShut(await gate.waiting(), netns);
      const { code, line } = await gate.ended;
      assert.equal(code, 126);
      const address = { 4: '127.0.0.6', 6: '[::6]' }[other as 4 | 6];
      assert.ok(line.includes(`IPv${one}: the connection to`) && line.includes('was captured'), line);
      assert.match(
        line.slice(line.indexOf(`IPv${other}: the connection to ${address}:15002 was `)),
        /was (refused|impossible)/,
      );
      opened(await home.start(netns, ['--families', String(one)]).ended, SOON, `IPv${one} is redirected`);
    });
  }

  test('rules that redirect to another port do not open it, even with a listener there', async () => {
    const netns = await farm.add();
    await install(netns, '-z', '16006');
    const gate = await home.start(netns, ['istio-iptables', '-z', '15006', '--timeout', '2s']).waiting();
    await staysShut(gate, netns);
    const server = await serve({ netns, uid: 1337 }, { name: 'other', tcp: [16006] });
    await hint(netns);
    const { code, line } = await gate.ended;
    await server.stop();
    assert.equal(code, 126);
    assert.match(line, /IPv4: the connection to 127\.0\.0\.6:15002 was answered by another process/);
    opened(await home.start(netns, ['-z', '16006']).ended.then(atPort(16006)), SOON);
  });

  test('rules for another uid do not open it', async () => {
    const netns = await farm.add();
    await install(netns, '-u', '2102', '-g', '2102');
    await neverOpens(netns);
    opened(await home.start(netns, ['-u', '2102'], { uid: 2102, gid: 1 }).ended, SOON);
  });

  test('each range of loopback, and each port of its own for the probe', async () => {
    const netns = await withAddresses('192.0.2.7/24', '2001:db8::7/64');
    for (const [range, opens] of [
      ['127.0.0.0/8', /redirected to 15006/],
      ['127.0.0.0/29', /redirected to 15006/],
    ] as const) {
      await install(netns, '--loopback-cidr', range);
      const environment = { ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR: range };
      opened(await home.start(netns, ['--dual-stack'], { environment }).ended, opens);
      // With the default it would dial what these rules leave alone.
      await neverOpens(netns, ['--dual-stack']);
    }
    await install(netns);
    opened(await home.start(netns, ['--dual-stack', '--iptables-probe-port', '4711']).ended, SOON);
  });

  test('DNS capture, owner groups, drop-invalid and no inbound capture are no hindrance', async () => {
    for (const flags of [
      ['--redirect-dns', '--capture-all-dns'],
      ['--owner-groups', '1000', '--drop-invalid'],
      ['-b', ''],
      ['-i', '10.0.0.0/8,127.0.0.0/8,::1/128'],
    ]) {
      const netns = await farm.add();
      await install(netns, ...flags);
      opened(await home.start(netns, ['istio-iptables', ...flags]).ended, SOON);
    }
  });

  test(
    'whom it refuses as not captured is whom the rules do not capture',
    async () => {
      const ids = [1337, 1338, 1000];
      for (const flags of [
        ['-u', '1337,1338'],
        ['-u', '1337', '-g', '1338'],
        ['-u', '1337,1338', '-i', '127.0.0.0/8'],
        ['-u', '1337', '-g', '1338', '-i', '127.0.0.0/8'],
      ]) {
        const netns = await withAddresses('192.0.2.7/24');
        await install(netns, ...flags);
        for (const uid of ids) {
          for (const gid of ids) {
            // It is refused only by its own judgement, and opens only if the kernel does so.
            const given = home.start(netns, [...flags, '--timeout', '3s'], { uid, gid });
            const judged = (await given.ended).code;
            const server = await serve({ netns, uid: 1, gid: 1 }, { name: 'proxy', tcp: [15006] });
            const reached = await inside(netns, [
              ...['setpriv', '--reuid', String(uid), '--regid', String(gid), '--clear-groups', process.execPath, '-e'],
              `require('node:net').connect({ host: '127.0.0.6', port: 15002, localAddress: '127.0.0.1' })
              .on('connect', function () { console.log('captured'); this.destroy(); })
              .on('error', () => console.log('refused'))`,
            ]);
            await server.stop();
            const what = `${flags.join(' ')}: uid ${uid}, gid ${gid}`;
            assert.equal(judged, reached.trim() === 'captured' ? 0 : 1, what);
          }
        }
      }
    },
    { timeoutMs: 120_000 },
  );

  test(
    'TPROXY: the rules of nat and the routes open it, each alone does not',
    async () => {
      const netns = await farm.add();
      const flags = ['-m', 'TPROXY'];
      await install(netns, '-m', 'REDIRECT');
      const gate = home.start(netns, [...flags, '--timeout', '3s']);
      await staysShut(await gate.waiting(), netns);
      const { code, line } = await gate.ended;
      assert.equal(code, 126);
      assert.match(
        line,
        /was captured, and "ip -4 rule" has no fwmark 1337 lookup 133, or this table has no local default route/,
      );
      await install(netns, ...flags);
      opened(
        await home.start(netns, flags).ended,
        /TPROXY routes are installed, .*no annotations are mounted.*(1 probe|by the periodic check)/,
      );
      for (const [family, what] of [
        ['-4', 'rule delete fwmark 1337 lookup 133'],
        ['-6', 'route delete local default dev lo table 133'],
      ] as const) {
        await inside(netns, ['ip', family, ...what.split(' ')]);
        await neverOpens(netns, flags);
        await install(netns, ...flags);
        opened(await home.start(netns, flags).ended, SOON);
      }
      await neverOpens(netns, [...flags, '-t', '1400']);
      await neverOpens(netns, [...flags, '-r', '140']);
      await install(netns, ...flags, '-t', '1400', '-r', '140');
      opened(await home.start(netns, [...flags, '-t', '0x578', '-r', '140']).ended, SOON);
      await install(netns, ...flags, '-b', '');
      opened(await home.start(netns, [...flags, '-b', '']).ended, /redirected to 15006, .* no annotations/);
    },
    { timeoutMs: 60_000 },
  );

  test('TPROXY with the annotations mounted: their mark for this netns is asked for too', async () => {
    const netns = await farm.add();
    await install(netns, '-m', 'TPROXY');
    const volume = new Volume(`tproxy-${backend}`, { [STATUS]: 'initialized', [NETNS]: `${BOOT_ID}:1` });
    const gate = home.start(netns, ['--expect', 'tproxy', '--annotations', volume.file]);
    await staysShut(await gate.waiting(), netns);
    volume.write({ [STATUS]: 'initialized', [NETNS]: await stampOf(netns) });
    opened(
      await gate.ended,
      /TPROXY routes are installed, the controller has marked the pod; woken by a change of the ann/,
    );
    volume.writeText('');
    await neverOpens(netns, ['-m', 'TPROXY', '--annotations', volume.file]);
  });
}

const atPort = (port: number) => (ended: Ended) => ({ ...ended, line: ended.line.replace(` ${port}`, ' 15006') });

const ipv6Off = (link: string) => `echo 1 >/proc/sys/net/ipv6/conf/${link}/disable_ipv6`;

/** A netns with an interface that has these, and nothing else has. */
async function withAddresses(...addresses: string[]): Promise<string> {
  const netns = await farm.add();
  const commands = ['ip link add eth0 type veth peer name peer0', ipv6Off('peer0')];
  commands.push('ip link set eth0 up', 'ip link set peer0 up');
  for (const address of addresses)
    commands.push(`ip address add ${address} dev eth0${address.includes(':') ? ' nodad' : ''}`);
  await inside(netns, ['sh', '-ec', commands.join('\n')]);
  return netns;
}

const test = suite('gate');
test.needs(...NEEDS);
test.before(open);
test.after(close);

test('the families are those of the addresses, and come late if they do', async () => {
  const four = await withAddresses('192.0.2.7/24');
  await apply(four);
  opened(await home.start(four).ended, SOON, 'IPv4 is redirected');
  const six = await withAddresses('2001:db8::7/64');
  await apply(six);
  opened(await home.start(six).ended, SOON, 'IPv6 is redirected');
  const late = await withAddresses('192.0.2.7/24');
  const gate = await home.start(late, ['--dual-stack']).waiting();
  await inside(late, ['ip', 'address', 'add', '2001:db8::7/64', 'dev', 'eth0', 'nodad']);
  await apply(late, '--ip-families', '4');
  await staysShut(gate, late);
  await apply(late);
  await hint(late);
  opened(await gate.ended, /woken by a datagram/);
});

test('of a pod with both families, it waits for those that get rules', async () => {
  const pod = JSON.stringify({ kind: 'Pod', spec: { containers: [{ name: 'istio-proxy' }] } });
  const four = 'IPv4 is redirected';
  const both = 'IPv4 and IPv6 are redirected';
  for (const [words, families] of [
    [[], four],
    [['--dual-stack'], both],
    [['--unserved-families=capture'], both],
    [['--unserved-families=block'], both],
    [['--unserved-families=block', '--ip-families=4'], four],
  ] as const) {
    const netns = await withAddresses('192.0.2.7/24', '2001:db8::7/64');
    // What of the words counts for the pod stands where an injector writes it.
    const gate = await home.start(netns, [...words, 'istio-iptables', '-m', 'REDIRECT']).waiting();
    if (families === both) {
      await apply(netns, '--ip-families', '4');
      await hint(netns);
      await staysShut(gate, netns);
    }
    const { code, stderr } = await ipnc(['apply', '--release', '--netns', netns, '--pod', '-', ...words], {
      input: pod,
    });
    assert.equal(code, 0, stderr);
    opened(await gate.ended, /woken by a datagram/, families);
  }
  const link = await withAddresses('169.254.172.7/22', '2001:db8::7/64');
  await apply(link);
  opened(await home.start(link).ended, SOON, both);
});

test('IPv6 off on lo alone: it waits for IPv4', async () => {
  const netns = await withAddresses('192.0.2.7/24', '2001:db8::7/64');
  await inside(netns, ['sh', '-c', ipv6Off('lo')]);
  const gate = await home.start(netns, ['--dual-stack']).waiting();
  await apply(netns);
  await hint(netns);
  opened(await gate.ended, /woken by a datagram/, 'IPv4 is redirected');
});

test("the cluster's defaults, before the word istio-iptables, count where nothing else is said", async () => {
  const netns = await farm.add();
  const none = ['--istio-inbound-interception-mode=NONE', 'istio-iptables'];
  assert.match((await home.start(netns, none).ended).line, /^open: .*mode NONE/);
  await apply(netns);
  opened(await home.start(netns, [...none, '-m', 'REDIRECT']).ended, SOON);
  const environment = { ISTIO_INBOUND_INTERCEPTION_MODE: 'REDIRECT' };
  opened(await home.start(netns, none, { environment }).ended, SOON);
});

test('a netns whose lo comes up only with the rules', async () => {
  const netns = await farm.add(undefined, 'down');
  const gate = await home.start(netns).waiting();
  await apply(netns);
  await hint(netns);
  opened(await gate.ended, /woken by a datagram/);
});

test('without IPv6, IPv4 is enough, but IPv6 by name is reported as missing', async () => {
  const netns = await farm.add();
  await inside(netns, ['sh', '-c', ipv6Off('all')]);
  const gate = await home.start(netns).waiting();
  await apply(netns);
  await hint(netns);
  opened(await gate.ended, /woken by a datagram/, 'IPv4 is redirected');
  const { code, line } = await home.start(netns, ['--families', '4,6', '--timeout', '100ms']).ended;
  assert.equal(code, 126);
  assert.match(line, /IPv4: .* was captured; IPv6: .* impossible, because the gate cannot listen on the loopback/);
});

test('forged datagrams, as many as there can be: it stays shut, is hardly busy, and hears the true one', async () => {
  const netns = await farm.add();
  const gate = await home.start(netns).waiting();
  const before = gate.ticks();
  const flood = await hint(netns, { floodMs: 3_000 });
  const spent = 10 * (gate.ticks() - before);
  assert.ok(gate.shut);
  assert.ok(flood.sent > 30, JSON.stringify(flood));
  assert.ok(spent * 20 <= flood.cpuMs, `the gate ${spent} ms, the forger ${flood.cpuMs} ms`);
  const more = hint(netns, { floodMs: 1_000 });
  await apply(netns);
  const ended = await gate.ended;
  await more;
  opened(ended, /woken by a datagram/);
  const looks = Number(/(\d+) probes/.exec(ended.line)?.[1]);
  assert.ok(looks > 10 && looks < 90, ended.line);
});

test('who accepts at the address that is dialled and passes it on does not open it', async () => {
  const netns = await farm.add();
  const relay = `
    const { connect, createServer } = require('node:net');
    for (const [from, to] of [['127.0.0.6', '127.0.0.1'], ['::6', '::1']])
      createServer((client) => client.pipe(connect(15006, to)).on('error', () => {}).pipe(client).on('error', () => {}))
        .listen(15002, from, () => console.log('ready'));`;
  await inside(netns, ['ip', '-6', 'address', 'add', '::6/128', 'dev', 'lo', 'nodad']);
  // Without a rule that asks for it the kernel does not track connections, and knows no original destination.
  for (const program of ['iptables-legacy', 'ip6tables-legacy']) {
    await inside(netns, [program, '-A', 'OUTPUT', '-m', 'conntrack', '--ctstate', 'NEW', '-j', 'ACCEPT']);
  }
  const child = launch('nsenter', [`--net=${netns}`, process.execPath, '-e', relay]);
  try {
    await new Promise<void>((resolve) =>
      child.stdout.on('data', (text) => String(text).includes('ready') && resolve()),
    );
    const gate = home.start(netns, ['--timeout', '2s']);
    await staysShut(await gate.waiting(), netns);
    const { code, line } = await gate.ended;
    assert.equal(code, 126);
    assert.match(
      line,
      /IPv4: the connection to 127\.0\.0\.6:15002 was answered by another process; IPv6: .* by another process/,
    );
  } finally {
    child.kill('SIGKILL');
  }
});

test('who accepts at the address that is dialled and sends garbage, or nothing, does not open it', async () => {
  const netns = await farm.add();
  await inside(netns, ['ip', '-6', 'address', 'add', '::6/128', 'dev', 'lo', 'nodad']);
  const listen = `
    const { createServer } = require('node:net');
    const answers = { '127.0.0.6': (client) => client.write(Buffer.alloc(1e6)), '::6': (client) => client.pause() };
    for (const [address, answer] of Object.entries(answers))
      createServer((client) => answer(client.on('error', () => {}))).listen(15002, address, () => console.log('ready'));`;
  const child = launch('nsenter', [`--net=${netns}`, process.execPath, '-e', listen]);
  try {
    await once(child.stdout, 'data');
    const gate = home.start(netns, ['--timeout', '2s']);
    await staysShut(await gate.waiting(), netns);
    const { code, line } = await gate.ended;
    assert.equal(code, 126);
    assert.match(line, /IPv4: .* was answered by another process; IPv6: .* was answered by another process/);
  } finally {
    child.kill('SIGKILL');
  }
});

test('strangers that flood its listener with garbage keep it shut while they do, and no longer', async () => {
  const netns = await farm.add();
  const gate = await home.start(netns).waiting();
  const flood = `
    const { connect } = require('node:net');
    const again = () => connect(15006, '127.0.0.1', function () { this.end(Buffer.alloc(16)); })
      .on('error', () => {}).on('close', again);
    for (let i = 0; i < 200; i++) again();
    setTimeout(() => console.log('floods'), 100);`;
  const child = launch('nsenter', [`--net=${netns}`, process.execPath, '-e', flood]);
  try {
    await once(child.stdout, 'data');
    await staysShut(gate, netns);
    await apply(netns);
  } finally {
    child.kill('SIGKILL');
  }
  await hint(netns);
  opened(await gate.ended, /woken by a datagram|periodic check/);
});

test('another process has the address of the datagrams: it says so, and looks twice a second', async () => {
  const netns = await farm.add();
  const ports = ['--inbound-capture-port', '16006', '--envoy-port', '16001'];
  const other = await home.start(netns, ports).waiting();
  const gate = await home.start(netns).waiting();
  assert.match(gate.said, /; another process uses the address for the controller's notifications, so/);
  await apply(netns);
  await hint(netns);
  opened(await gate.ended, /found by the periodic check/);
  assert.ok(other.shut);
  other.kill('SIGTERM');
  await other.ended;
});

test('the kernel refuses every message that a process with NET_ADMIN sends to its netlink socket', async () => {
  const netns = await farm.add();
  const gate = await home.start(netns).waiting();
  const forging = run(TOOLBOX, ['forge', '--netns', netns, '--port', String(gate.pid), '--flood', '1000']);
  await staysShut(gate, netns);
  const { sent, refused, absent } = JSON.parse((await forging).stdout) as Record<string, number>;
  assert.ok(Number(refused) > 0 && sent === 0 && absent === 0, JSON.stringify({ sent, refused, absent }));
  await apply(netns);
  await hint(netns);
  opened(await gate.ended, /woken by a datagram|periodic check/);
});

test('signals of a process with its uid never open it', async () => {
  const netns = await farm.add();
  const gate = await home.start(netns).waiting();
  for (let times = 0; times < 200; times++) gate.kill('SIGIO');
  await staysShut(gate, netns);
  for (const signal of ['SIGUSR1', 'SIGHUP'] as const) {
    const ends = await home.start(netns, ['--inbound-capture-port', '16006', '--envoy-port', '16001']).waiting();
    ends.kill(signal);
    assert.equal((await ends.ended).code, signal);
  }
  await apply(netns);
  await hint(netns);
  opened(await gate.ended, /woken by a datagram|periodic check/);
});

test('strangers at its listener are turned away, and do not keep it from opening', async () => {
  const netns = await farm.add();
  const gate = await home.start(netns).waiting();
  const strangers = inside(netns, [
    process.execPath,
    '-e',
    `const { connect } = require('node:net');
     let left = 300;
     for (let i = 0; i < 300; i++) connect(15006, i % 2 ? '127.0.0.1' : '::1').on('error', () => {})
       .on('close', () => { if (--left === 0) process.exit(0); });
     setTimeout(() => process.exit(0), 3000);`,
  ]);
  await sleep(700);
  await apply(netns);
  await hint(netns);
  opened(await gate.ended, /woken by a datagram|periodic check/);
  await strangers;
  const left = await inside(netns, ['ss', '-tan']).catch(() => '');
  assert.doesNotMatch(left, /TIME-WAIT.*:15006 /);
});

test('an annotation never opens it, forged or stale', async () => {
  const netns = await farm.add();
  const own = await stampOf(netns);
  const volume = new Volume('forged', { [STATUS]: 'initialized', [NETNS]: own });
  const gate = await home.start(netns, ['--annotations', volume.file]).waiting();
  await staysShut(gate, netns);
  for (const netnsMark of [own, `${BOOT_ID}:1`, own.replace(/^./, 'x'), '']) {
    volume.write({ [STATUS]: 'initialized', [NETNS]: netnsMark });
    await sleep(50);
  }
  for (let i = 0; i < 300; i++) volume.write({ [STATUS]: 'initialized', [NETNS]: own });
  await staysShut(gate, netns);
});

test('the kubelet replaces the file by rename: that wakes it, once the rules are there', async () => {
  const netns = await farm.add();
  const volume = new Volume('rename');
  const gate = await home.start(netns, [], { environment: { IPNC_ANNOTATIONS: volume.file } }).waiting();
  const own = await stampOf(netns);
  await apply(netns);
  volume.write({ [STATUS]: 'initialized', [NETNS]: own });
  opened(await gate.ended, /; woken by a change of the annotations \(\d+ probes\)$/);
});

test('the rules win over whatever the annotations say', async () => {
  const netns = await farm.add();
  await apply(netns);
  const volume = new Volume('rules-win', { [STATUS]: 'failed: no such port' });
  opened(await home.start(netns, ['--annotations', volume.file]).ended, SOON);
});

test('"failed: <reason>" ends the wait at once with that reason, unless it is about another netns', async () => {
  const netns = await farm.add();
  const own = await stampOf(netns);
  const reason = 'failed: annotation x: "80-": not a port, "or" a range\t(1 to 65535) ü';
  for (const mark of [{}, { [NETNS]: own }]) {
    const volume = new Volume(`failed-${Object.keys(mark).length}`, { [STATUS]: reason, ...mark });
    const { code, line } = await home.start(netns, ['--annotations', volume.file]).ended;
    assert.deepEqual({ code, line }, { code: 1, line: `the controller reports for this pod: ${reason}` });
  }
  const volume = new Volume('failed-later');
  const gate = await home.start(netns, ['--annotations', volume.file]).waiting();
  volume.write({ [STATUS]: reason, [NETNS]: `${BOOT_ID}:1` });
  await staysShut(gate, netns);
  volume.write({ [STATUS]: reason });
  const { code, line } = await gate.ended;
  assert.deepEqual({ code, line }, { code: 1, line: `the controller reports for this pod: ${reason}` });
});

test('a file that is not there, too large or not to be read', async () => {
  const netns = await farm.add();
  const missing = await home.start(netns, ['--annotations', home.file('missing')]).ended;
  assert.equal(missing.code, 1);
  assert.match(missing.line, /^--annotations: ".*missing": there is no such file; mount a downwardAPI volume/);
  const large = new Volume('large');
  large.writeText(`${STATUS}="failed: x"\n`.padEnd(2 ** 20 + 1, 'x'));
  const folder = home.folderOf('a-folder');
  for (const [file, error] of [
    [large.file, 'EFBIG'],
    [folder, 'EISDIR'],
    ['/dev/zero', 'EFBIG'],
  ]) {
    const gate = await home.start(netns, ['--annotations', file ?? '', '--timeout', '700ms']).waiting();
    assert.ok(gate.said.endsWith(`; ${file} cannot be read (${error})\n`), gate.said);
    const { code, line } = await gate.ended;
    assert.equal(code, 126);
    assert.match(line, new RegExp(`cannot be read \\(${error}\\)`));
  }
  const fifo = join(folder, 'fifo');
  await run('mkfifo', ['-m', '644', fifo]);
  const { code, line } = await home.start(netns, ['--annotations', fifo, '--timeout', '700ms']).ended;
  assert.equal(code, 126);
  assert.match(line, /; the pod's annotations have no status/);
  large.writeText(`${STATUS}="failed: x"\n`.padEnd(2 ** 20, 'x'));
  assert.equal((await home.start(netns, ['--annotations', large.file]).ended).code, 1);
});

for (const port of [15001, 15006]) {
  test(`port ${port} taken: it says whose it should be, and ends`, async () => {
    const netns = await farm.add();
    const server = await serve({ netns, uid: 1337 }, { name: 'early', tcp: [port] });
    const { code, line } = await home.start(netns).ended;
    await server.stop();
    assert.equal(code, 1);
    const flag = port === 15001 ? '--envoy-port' : '--inbound-capture-port';
    assert.match(line, new RegExp(`^${flag}: 127.0.0.1:${port} is in use, .*before istio-proxy`));
    const listen = `require('net').createServer().listen(${port}, '::1', () => console.log('listens'))`;
    const six = launch('nsenter', [`--net=${netns}`, process.execPath, '-e', listen]);
    const closed = once(six, 'close');
    try {
      await once(six.stdout, 'data');
      const other = await home.start(netns).ended;
      assert.equal(other.code, 1);
      assert.match(other.line, new RegExp(`^${flag}: \\[::1\\]:${port} is in use`));
    } finally {
      six.kill('SIGKILL');
      await closed;
    }
    await home.start(netns).waiting();
  });
}

test("another user than the proxy's is refused at once", async () => {
  const netns = await farm.add();
  await apply(netns);
  const { code, line } = await home.start(netns, [], { uid: 1000, gid: 1337 }).ended;
  assert.equal(code, 1);
  assert.equal(
    line,
    'runs as uid 1000 and gid 1337, but on lo the rules capture only traffic of uid 1337, so this gate ' +
      'would never open; set securityContext.runAsUser: 1337, or --proxy-uid if the proxy runs as another user',
  );
});

for (const [signal, number] of [
  ['SIGTERM', 15],
  ['SIGINT', 2],
] as const) {
  test(`${signal} ends it at once`, async () => {
    const netns = await farm.add();
    const gate = await home.start(netns).waiting();
    gate.kill(signal);
    const { code, line } = await gate.ended;
    assert.equal(code, 128 + number);
    assert.match(line, new RegExp(`^ended by signal ${number} after .*, before the rules were active$`));
  });
}

test('in the time that it is given: exit code 126, and what to look at', async () => {
  const netns = await farm.add();
  for (const words of [
    ['--timeout', '300ms'],
    ['--probe-timeout=0.3s'],
    ['--probe-timeout', '1h', '--timeout', '300ms'],
  ]) {
    const { code, line, stdout } = await home.start(netns, words).ended;
    assert.equal(code, 126);
    assert.match(stdout, /^waiting up to 300\.0 ms for IPv4 and IPv6 to be redirected to 15006\n/);
    assert.match(
      line,
      /^not redirected within 300\.0 ms: IPv4: the connection to 127\.0\.0\.6:15002 was refused; IPv6: the connection/,
    );
    assert.match(line, /Check that istio-pod-network-controller runs on this node \(kubectl get pods/);
  }
});

test('the last line goes to the termination log, if there is one', async () => {
  const netns = await farm.add();
  const log = home.file('termination-log');
  writeFileSync(log, 'of an earlier run, and longer than the next line is going to be '.repeat(20));
  chmodSync(log, 0o666);
  const { line } = await home.start(netns, ['--timeout', '50ms', '--termination-log', log]).ended;
  assert.equal(readFileSync(log, 'utf8'), line);
  await apply(netns);
  const ended = await home.start(netns, ['--termination-log', log]).ended;
  opened(ended, SOON);
  assert.equal(readFileSync(log, 'utf8'), ended.line);
  const refused = await home.start(netns, ['-p', 'x'], { environment: { IPNC_TERMINATION_LOG: log } }).ended;
  assert.equal(refused.code, 2);
  opened(await home.start(netns, ['--termination-log', home.file('none')]).ended, SOON);
  assert.throws(() => readFileSync(home.file('none')), /ENOENT/);
});

test('mode NONE: there is nothing to wait for', async () => {
  const netns = await farm.add();
  for (const [words, environment] of [
    [['-m', 'NONE'], {}],
    [['--expect=none'], {}],
    [[], { ISTIO_INBOUND_INTERCEPTION_MODE: 'NONE' }],
    [['--expect', 'auto'], { ISTIO_INBOUND_INTERCEPTION_MODE: 'NONE' }],
    [[], { IPNC_EXPECT: 'none' }],
  ] as [string[], Record<string, string>][]) {
    const { code, line } = await home.start(netns, words, { uid: 1000, environment }).ended;
    assert.deepEqual({ code, line }, { code: 0, line: 'open: mode NONE redirects nothing' });
  }
});

/** A value that each option takes, by its flag; a comma in it would do in a list alone. */
const VALUES: Record<string, string> = {
  'unserved-families': 'block',
  'istio-inbound-interception-mode': 'REDIRECT',
  'istio-service-cidr': '10.0.0.0/8',
  'istio-service-exclude-cidr': '10.1.0.0/16',
  'istio-exclude-interfaces': 'eth7',
  'kube-virt-interfaces': 'eth8',
  'loopback-cidr': '127.0.0.0/30',
  'dns-servers': '10.96.0.10',
  'ip-families': '4',
  'probe-timeout': '1s',
  'force-iptables-binary': 'nft',
  'network-namespace': '/proc/1/ns/net',
  log_output_level: 'default:info',
  vklog: '9',
};
const valueFor = (flag: string) => VALUES[flag] ?? '2048';

test(
  'every flag of istio-iptables is accepted, in every notation',
  async () => {
    const netns = await farm.add();
    const flags = [
      ...optionList.map(([, { flag, short, placeholder }]) => ({ flag, short, value: placeholder !== undefined })),
      ...foreignFlags,
    ];
    for (const { flag, short, value } of flags) {
      const text = valueFor(flag);
      const ways = value
        ? [[`--${flag}`, text], [`--${flag}=${text}`], ...(short ? [[`-${short}`, text], [`-${short}${text}`]] : [])]
        : [[`--${flag}`], [`--${flag}=true`], ...(short ? [[`-${short}`]] : [])];
      for (const way of ways) {
        const words = ['istio-iptables', ...way, '--expect', 'none'];
        const { code, line } = await home.start(netns, words).ended;
        assert.equal(code, 0, `${way.join(' ')}: ${line}`);
      }
      if (!value) continue;
      const { code, line } = await home.start(netns, [`--${flag}`]).ended;
      assert.deepEqual(
        { code, line },
        { code: 2, line: `argument: "--${flag}": the value is missing; expected a value after the flag` },
      );
    }
  },
  SLOW,
);

for (const words of [
  ['--log_as_json'],
  ['--log_of_tomorrow'],
  ['--log_of_tomorrow', 'value'],
  ['--log_of_tomorrow=value'],
  ['--vklog', '9'],
]) {
  test(`${words.join(' ')} does not swallow the flag after it`, async () => {
    const { code, line } = await home.start(await farm.add(), ['istio-iptables', ...words, '-m', 'NONE']).ended;
    assert.equal(code, 0, line);
    assert.match(line, /mode NONE/);
  });
}

/** Options whose values say what is to be waited for, and so are read; of all others the value is nothing to it. */
const READ = new Set(
  ['m', 'b', 't', 'r', 'i', 'o', 'p', 'z', 'e', 'u', 'g'].concat([
    'loopback-cidr',
    'redirect-dns',
    'dual-stack',
    'ip-families',
    'unserved-families',
  ]),
);

for (const [key, { flag, short, env = [], placeholder }] of optionList) {
  test(`${key}: flag and environment are read alike, or not at all`, async () => {
    const netns = await farm.add();
    const read = READ.has(short ?? flag);
    for (const words of short ? [[`--${flag}=?`], [`-${short}=?`]] : [[`--${flag}=?`]]) {
      const { code, line } = await home.start(netns, [...words, '--expect=none']).ended;
      assert.equal(code, read ? 2 : 0, line);
      if (read) assert.ok(line.startsWith(`${short ? `-${short}, ` : ''}--${flag}: "?": `), line);
    }
    for (const name of env) {
      const { code, line } = await home.start(netns, ['--expect=none'], { environment: { [name]: '?' } }).ended;
      assert.equal(code, read ? 1 : 0, line);
      if (read) assert.ok(line.startsWith(`${name} (environment): "?": `), line);
      // The flag goes before it, and a Service's own variable is nobody's.
      const given = placeholder === undefined ? `--${flag}=true` : `--${flag}=${valueFor(flag)}`;
      const words = [given, '--expect=none'];
      assert.equal((await home.start(netns, words, { environment: { [name]: '?' } }).ended).code, 0);
      const environment = { [name]: 'tcp://10.0.0.1:80' };
      assert.equal((await home.start(netns, ['--expect=none'], { environment }).ended).code, 0);
    }
  });
}

test('the arguments and the environment that an injector writes', async () => {
  const netns = await farm.add();
  await apply(netns, '-u', '2102', '-g', '2102');
  const words =
    'istio-iptables -p 15001 -z 15006 -u 2102 -m REDIRECT -i * -x  -b * -d 15090,15021,15020 --log_output_level=default:info';
  const rest = ['--force-apply', '--native-nftables', '--run-validation', '--skip-rule-apply'];
  for (const before of [[], ['/usr/local/bin/pod-network-gate', '--timeout', '5m']]) {
    const gate = home.start(netns, [...before, ...words.split(' '), ...rest], { uid: 2102, gid: 2102 });
    opened(await gate.ended, SOON);
  }
});

/** What is wrong, and what is said of it. */
const bad: [string[], Record<string, string>, number, RegExp][] = [
  [
    ['--colour'],
    {},
    2,
    /^argument: "--colour": an unknown flag; expected a flag of the gate, or a flag of istio-iptables/,
  ],
  [['-w', '5'], {}, 2, /^argument: "-w": an unknown flag/],
  [['now'], {}, 2, /^argument: "now": not a flag; expected flags of the gate/],
  [['istio-iptables', 'pod-network-gate'], {}, 2, /^argument: "pod-network-gate"/],
  [['-p', '0'], {}, 2, /^-p, --envoy-port: "0": not a port; expected a number from 1 to 65535$/],
  [['-p', '65536'], {}, 2, /not a port/],
  [['-p', '015'], {}, 2, /not a port/],
  [['-p', ''], {}, 2, /^-p, --envoy-port: "": not a port/],
  [['-p', '99999999999999999999999'], {}, 2, /not a port/],
  [[`-p${'1'.repeat(2000)}`], {}, 2, /^-p, --envoy-port: "1{48}"\.\.\. \(2000 bytes\): not a port/],
  [['-p', 'a\u001b[2Jb\n'], {}, 2, /^-p, --envoy-port: "a\\x1b\[2Jb\\x0a": not a port/],
  [['-u', ''], {}, 2, /^-u, --proxy-uid: "": not a numeric id/],
  [['-u', '1337,'], {}, 2, /not a numeric id/],
  [['-u', '4294967295'], {}, 2, /not a numeric id/],
  [['-g', 'istio'], {}, 2, /^-g, --proxy-gid: "istio": not a numeric id/],
  [['-m', 'redirect'], {}, 2, /not a known value; expected one of REDIRECT, TPROXY, NONE$/],
  [
    ['--expect', 'REDIRECT'],
    {},
    2,
    /^--expect: "REDIRECT": not a known value; expected one of redirect, tproxy, none, auto$/,
  ],
  [['--families', '4,5'], {}, 2, /^--families: "4,5": not a known value; expected one of auto, 4, 6 and 4,6$/],
  [['-b', '80-'], {}, 2, /not a port or a range/],
  [['-b', '90-80'], {}, 2, /not a port or a range/],
  [['-o', '*'], {}, 2, /not a port or a range/],
  [['-i', '10.0.0.0'], {}, 2, /not a CIDR/],
  [['-i', '10.0.0.0/8,fd00::/129'], {}, 2, /not a CIDR/],
  [['--loopback-cidr', '10.0.0.0/8'], {}, 2, /not an IPv4 loopback CIDR/],
  [['-t', '0'], {}, 2, /not a mark/],
  [['-r', '0x85'], {}, 2, /not the number of a route table/],
  ...['', '5', '-5s', '0s', '0.0000001ms', '5d', 's', '1.s.', '25h', '99999999999999999999h', '1e3s'].map(
    (text): [string[], Record<string, string>, number, RegExp] => [['--timeout', text], {}, 2, /: not a duration/],
  ),
  [[], { IPNC_TIMEOUT: 'soon' }, 1, /^IPNC_TIMEOUT \(environment\): "soon": not a duration/],
  [[], { IPNC_EXPECT: 'all' }, 1, /^IPNC_EXPECT \(environment\): "all": not a known value; expected one of/],
  [[], { PROBE_TIMEOUT: '5' }, 1, /^PROBE_TIMEOUT \(environment\)/],
  [['--annotations', 'pod_annotations'], {}, 2, /not an absolute path/],
  [['--iptables-probe-port', '15008'], {}, 1, /^--iptables-probe-port: "15008": the proxy's own tunnel.*such as 15002/],
  [['--iptables-probe-port', '53', '--redirect-dns'], {}, 1, /redirected to the proxy's DNS/],
  [['-o', '80,15000-15005'], {}, 1, /^--iptables-probe-port: "15002": not captured/],
  [['-c', 'eth0, lo'], {}, 1, /^-c, --istio-exclude-interfaces: "lo": the probe uses lo/],
];

test('an invalid setting is refused with a helpful message', async () => {
  const netns = await farm.add();
  for (const [words, environment, code, says] of bad) {
    const ended = await home.start(netns, words, { environment }).ended;
    assert.equal(ended.code, code, `${words.join(' ')}: ${ended.line}`);
    assert.match(ended.line, says);
  }
});

test('durations as Go writes them', async () => {
  const netns = await farm.add();
  for (const [text, shown] of [
    ['1m30s', '90.0 s'],
    ['1.5s', '1.5 s'],
    ['1h0.5m', '3630.0 s'],
    ['.25s', '250.0 ms'],
    ['1500us', '2.0 ms'],
    ['24h', '86400.0 s'],
  ] as const) {
    const gate = await home.start(netns, ['--timeout', text]).waiting();
    assert.ok(gate.said.startsWith(`waiting up to ${shown} for `), `${text}: ${gate.said}`);
    gate.kill('SIGKILL');
    await gate.ended;
  }
});

test(
  '"ipnc init" becomes the gate, with all of its words',
  async () => {
    const netns = await farm.add();
    await apply(netns);
    const main = fileURLToPath(new URL('../../lib/main.ts', import.meta.url));
    const init = async (...words: string[]) => {
      const become = ['--reuid', '0', '--regid', '0', '--clear-groups'];
      const command = ['nsenter', `--net=${netns}`, 'setpriv', ...become, process.execPath, main, 'init', ...words];
      const child = launch(command[0] ?? '', command.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
      return new GateProcess(child).ended;
    };
    const flags = [
      '-i',
      '*',
      '-x',
      '',
      '-b*',
      '-d',
      '15090,15021',
      '--log_output_level=default:info',
      '--run-validation',
    ];
    const { code, line, stderr } = await init('istio-iptables', ...flags);
    assert.deepEqual({ code, line, stderr }, { code: 1, line, stderr: '' });
    assert.match(line, /^runs as uid 0 and gid 0, /);
    await apply(netns, '-u', '0');
    opened(await init('--timeout', '1m', 'istio-iptables', '-u', '0', ...flags), SOON);
    const unknown = await init('--colour');
    assert.deepEqual([unknown.code, unknown.stderr.includes('argument: "--colour"')], [2, true], unknown.stderr);
  },
  SLOW,
);

test('--help lists the flags', async () => {
  const { code, stdout } = await home.start(await farm.add(), ['-h']).ended;
  assert.equal(code, 0);
  for (const word of ['--expect', '--families', '--timeout', '--annotations', '--termination-log', '126']) {
    assert.ok(stdout.includes(word), word);
  }
});
