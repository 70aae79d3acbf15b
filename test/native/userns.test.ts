/**
 * Pods with a user namespace of their own, on the command line (test/native/traffic.test.ts has their traffic): nftables,
 * with uids as the pod counts them; and what legacy rules a pod has written itself, which from outside can only be
 * removed.
 */

import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { Network } from '../../lib/demo/network.ts';
import { dial } from '../../lib/demo/toolbox.ts';
import { native } from '../../lib/native/addon.ts';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { INSTALL_NEEDS, inside, nftRules, nftState, restore, restoreNft } from '../support/netns.ts';
import { launch, run } from '../support/process.ts';

const REASON = 'another user namespace owns the netns';
const TPROXY_DNS = ['-m', 'TPROXY', '--redirect-dns', '--capture-all-dns'];

const test = suite('a netns of another user namespace');
test.needs(...INSTALL_NEEDS, 'pod-userns', 'nft');

/** A pod whose user namespace maps 0 to 65535 to 100000 and up. */
class Pod implements AsyncDisposable {
  readonly path: string;
  readonly userns: string;
  readonly #network: Network;

  private constructor(network: Network, userns: string) {
    this.#network = network;
    this.path = network.path('pod');
    this.userns = userns;
  }

  static async make(): Promise<Pod> {
    const network = new Network('ipnc-owned');
    return new Pod(network, await network.addOwned('pod'));
  }

  /** What `command` prints as root of the pod. */
  async asRoot(command: string[], input = ''): Promise<string> {
    const running = run('nsenter', [`--user=${this.userns}`, `--net=${this.path}`, ...command]);
    running.child.stdin?.on('error', () => {}).end(input);
    return (await running).stdout;
  }

  /** Legacy rules as only the pod can write them, and read: of both families, without policies' counts. */
  async restore(...texts: [v4: string, v6: string]): Promise<void> {
    for (const [at, program] of ['iptables-legacy-restore', 'ip6tables-legacy-restore'].entries()) {
      // The lock of others may be a file that the pod cannot open.
      await this.asRoot(['env', 'XTABLES_LOCKFILE=/dev/null', program, '-c', '--noflush'], texts[at]);
    }
  }

  async legacy(): Promise<string> {
    const saved = await Promise.all(
      ['iptables-legacy-save', 'ip6tables-legacy-save'].map((program) => this.asRoot([program, '-c', '-t', 'nat'])),
    );
    return saved
      .join('')
      .replace(/^# .*\n/gm, '')
      .replace(/^(:\w+ ACCEPT) \[\d+:\d+\]/gm, '$1 [0:0]');
  }

  /** Routes, rules, addresses and nf_tables. */
  async rest(): Promise<string> {
    const ip = ['-4 rule', '-6 rule', '-4 route show table all', '-6 route show table all', 'address'];
    await setTimeout(20); // an address's local route comes a moment after it
    return (
      (await inside(this.path, ['sh', '-ec', ip.map((words) => `ip ${words}`).join('; ')])) +
      (await nftState(this.path))
    );
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#network[Symbol.asyncDispose]();
  }
}

test('auto is nftables, and says why; verify finds all well, and drift; clean leaves nothing', async () => {
  await using pod = await Pod.make();
  const was = await pod.rest();
  for (const flags of [[], TPROXY_DNS]) {
    const target = ['--netns', pod.path, ...flags];
    const applied = await ipnc(['apply', ...target]);
    assert.equal(applied.code, 0, applied.stderr);
    assert.ok(applied.stdout.includes(`(IPv4 and IPv6, nftables: ${REASON})`), applied.stdout);
    const again = JSON.parse((await ipnc(['apply', ...target, '--output', 'json'])).stdout);
    assert.deepEqual([again.backend, again.reason, again.changed], ['nftables', REASON, false]);
    const verified = await ipnc(['verify', ...target]);
    assert.equal(verified.code, 0, verified.stdout + verified.stderr);
    assert.ok(verified.stdout.includes(REASON), verified.stdout);
    await pod.asRoot(['nft', '-f', '-'], 'insert rule inet istio-proxy-nat output accept');
    const drifted = await ipnc(['verify', ...target]);
    assert.equal(drifted.code, 3, drifted.stderr);
    assert.ok(drifted.stdout.split('\n').includes('+  accept'), drifted.stdout);
  }
  const cleaned = await ipnc(['clean', '--netns', pod.path]);
  assert.equal(cleaned.code, 0, cleaned.stderr);
  assert.equal(await pod.rest(), was);
});

test('the legacy backend by name is refused with the reason, and nothing is changed', async () => {
  await using pod = await Pod.make();
  for (const flags of [[], TPROXY_DNS]) {
    const was = await pod.rest();
    for (const verb of ['apply', 'verify']) {
      const { code, stderr } = await ipnc([verb, '--netns', pod.path, '--backend', 'iptables-legacy', ...flags]);
      assert.equal(code, 1);
      assert.ok(
        stderr.includes('belongs to another user namespace, and the kernel refuses legacy owner rules'),
        stderr,
      );
      assert.ok(stderr.includes('try: use the backend "nftables"'), stderr);
    }
    assert.equal(await pod.rest(), was);
    assert.deepEqual((await native().identify(pod.path)).installedBackends, flags.length === 0 ? [] : ['nftables']);
    assert.equal((await ipnc(['apply', '--netns', pod.path])).code, 0);
  }
});

/** Of the rule for what uid 1337 sends to an address of its own. */
const OWN = /tcp dport != 15008 meta skuid 1337 counter packets (\d+) /;

test('the uids of the rules are those of the pod', async () => {
  await using pod = await Pod.make();
  assert.equal((await ipnc(['apply', '--netns', pod.path])).code, 0);
  const packets = async () => {
    const lists = [await pod.asRoot(['nft', 'list', 'ruleset']), await inside(pod.path, ['nft', 'list', 'ruleset'])];
    assert.equal(lists[0], lists[1], 'the pod sees other numbers');
    return Number(OWN.exec(lists[0] ?? '')?.[1]);
  };
  const call = (who: { uid: number; userns?: string }) =>
    dial({ netns: pod.path, gid: 0, ...who }, { protocol: 'tcp', address: '127.0.0.2', port: 80 });
  assert.equal(await packets(), 0);
  await call({ userns: pod.userns, uid: 1000 });
  // This machine's 1337 is nobody that the pod knows.
  await call({ uid: 1337 });
  assert.equal(await packets(), 0);
  await call({ userns: pod.userns, uid: 1337 });
  assert.equal(await packets(), 1);
  await call({ uid: 101_337 });
  assert.equal(await packets(), 2);
});

test('legacy rules of ours that the pod wrote itself are moved to nftables', async () => {
  await using pod = await Pod.make();
  const theirs = '*nat\n:THEIRS - [0:0]\n[3:180] -A PREROUTING -p udp --dport 4789 -j THEIRS\nCOMMIT\n';
  await pod.restore(theirs, theirs);
  const was = await pod.legacy();
  await pod.restore(await plan(4), await plan(6));
  assert.deepEqual((await native().identify(pod.path)).installedBackends, ['iptables-legacy']);
  assert.equal((await ipnc(['verify', '--netns', pod.path])).code, 3);
  const applied = await ipnc(['apply', '--netns', pod.path]);
  assert.equal(applied.code, 0, applied.stderr);
  assert.match(applied.stdout, /^ +IPv4 nat +cleaned\n +IPv6 nat +cleaned$/m);
  assert.equal(await pod.legacy(), was);
  assert.deepEqual((await native().identify(pod.path)).installedBackends, ['nftables']);
  assert.equal((await ipnc(['verify', '--netns', pod.path])).code, 0);

  await pod.restore(await plan(4), await plan(6));
  assert.equal((await ipnc(['clean', '--netns', pod.path])).code, 0);
  assert.equal(await pod.legacy(), was);
  assert.deepEqual((await native().identify(pod.path)).installedBackends, []);
});

test("beside an owner rule of the pod's own in that table they stay: an error, and nothing half done", async () => {
  await using pod = await Pod.make();
  // Whoever writes a legacy table writes all of it, and the kernel checks owner rules by the writer's user namespace.
  const owner = '*nat\n[2:120] -A OUTPUT -m owner --uid-owner 5 -j ACCEPT\nCOMMIT\n';
  await pod.restore(owner, owner);
  const target = ['--netns', pod.path];
  // Where ours are not among them there is nothing to write.
  assert.equal((await ipnc(['apply', ...target])).code, 0);
  assert.equal((await ipnc(['clean', ...target])).code, 0);

  await pod.restore(await plan(4), await plan(6));
  const was = [await pod.legacy(), await pod.rest()];
  for (const verb of ['apply', 'clean']) {
    const { code, stderr } = await ipnc([verb, ...target]);
    assert.equal(code, 1, stderr);
    assert.match(stderr, /EINVAL.*SO_SET_REPLACE, merge.*IPv4 nat/);
    assert.deepEqual([await pod.legacy(), await pod.rest()], was);
  }
});

test('a user namespace without a uid 0', async () => {
  const child: ChildProcess = launch('unshare', ['--user', '--net', 'sleep', '1000'], { stdio: 'ignore' });
  try {
    const path = `/proc/${child.pid}/ns/net`;
    while (!(await mapped(child.pid ?? 0))) await setTimeout(5);
    const pid = ['--pid', String(child.pid)];
    // Which legacy tables there are cannot be read there; these are found all the same.
    for (const family of [4, 6] as const) {
      await restore(path, family, '*nat\n:ISTIO_OUTPUT - [0:0]\n-A OUTPUT -j ISTIO_OUTPUT\nCOMMIT\n');
    }
    assert.deepEqual((await native().identify(path)).installedBackends, ['iptables-legacy']);
    for (const flags of [[], TPROXY_DNS]) {
      const applied = await ipnc(['apply', ...pid, ...flags]);
      assert.equal(applied.code, 0, applied.stderr);
      assert.ok(applied.stdout.includes(`nftables: ${REASON}`), applied.stdout);
      const verified = await ipnc(['verify', ...pid, ...flags]);
      assert.equal(verified.code, 0, verified.stdout + verified.stderr);
      assert.deepEqual((await native().identify(path)).installedBackends, ['nftables']);
    }
    assert.ok((await nftRules(path)).includes('meta skuid 1337'), await nftRules(path));
    await restoreNft(path, 'insert rule inet istio-proxy-nat output accept');
    assert.equal((await ipnc(['verify', ...pid, ...TPROXY_DNS])).code, 3);
    assert.equal((await ipnc(['clean', ...pid])).code, 0);
    assert.equal(await nftRules(path), '');
    assert.ok(!(await inside(path, ['ip', 'rule'])).includes('fwmark'), await inside(path, ['ip', 'rule']));
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});

/** Gives the process its map once its namespace is there: 1000 to 1999 are 101000 and up. */
async function mapped(pid: number): Promise<boolean> {
  const ours = (await run('readlink', ['/proc/self/ns/user'])).stdout;
  if ((await run('readlink', [`/proc/${pid}/ns/user`])).stdout === ours) return false;
  for (const map of ['uid_map', 'gid_map']) writeFileSync(`/proc/${pid}/${map}`, '1000 101000 1000');
  return true;
}

async function plan(family: 4 | 6): Promise<string> {
  return (await ipnc(['plan', '--ip-families', String(family)])).stdout;
}
