/**
 * All or nothing with nftables, and when a pod moves from one backend to the other, in either direction: the netns is
 * as it was, with counters; the tables of ours that were put back have new handles, those of others the ones they had.
 */

import assert from 'node:assert/strict';
import { constants } from 'node:os';
import type { Order } from '../fixtures/install.ts';
import { suite } from '../suite.ts';
import { installForeign } from '../support/foreign.ts';
import {
  assertAllAtHome,
  compile,
  count,
  Farm,
  formFor,
  INSTALL_NEEDS,
  identify,
  inside,
  restore,
  wholeState,
} from '../support/netns.ts';
import { denied, type Obstacle, routeObstacles, testObstacle } from '../support/rollback.ts';

const NFTABLES = ['--backend', 'nftables'];
const PLAIN = [...NFTABLES, '--redirect-dns', '--capture-all-dns'];
const TPROXY = [...PLAIN, '-m', 'TPROXY'];
const LEGACY = ['--redirect-dns'];
/** Then lo's IPv6 address goes as well, of all changes the last one. */
const IPV4 = ['--ip-families', '4'];
/** Another mark and table of routes than by default, so that a change has to add some and to remove some. */
const OLDER = ['-m', 'TPROXY', '-t', '7', '-r', '7', '-o', '5432'];

/** Tables of others, some of them with chains at our hooks and some with names like ours. */
const THEIRS = `
table ip nat { chain OUTPUT { type nat hook output priority -100; counter packets 3 bytes 7 return; }; }
table inet theirs {
  set blocked { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }
  chain input { type filter hook input priority 0; ip saddr @blocked counter packets 9 bytes 8 drop; }
}
table inet istio-proxy-nat2 { chain output { counter packets 1 bytes 2; }; }
`;

/** In a table that is ours, all that we neither write nor understand. */
const ODD = `
table inet istio-proxy-nat {
  counter hits { packets 5 bytes 6 }
  set blocked { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.0.0-192.168.0.9, 255.0.0.0/8 } }
  map ports { type inet_service : verdict; elements = { 80 : jump istio-drop, 90 : accept } }
  chain istio-drop { counter packets 11 bytes 22 drop comment "mine"; }
  chain other { type filter hook input priority 5; policy drop;
    ip saddr @blocked counter name hits
    tcp dport vmap @ports
    udp dport { 1, 2-5, 65535 } ct state vmap { new : accept, established : goto istio-drop }
    ip daddr . tcp dport { 1.2.3.4 . 80, 1.2.3.5 . 90-99 } limit rate 5/second log prefix "odd" accept
  }
  chain output { type nat hook output priority -100; tcp dport 80 dnat ip to 10.0.0.1:80; }
}
table inet istio-proxy-raw { flags dormant; chain more { counter packets 4 bytes 4; }; }
`;

const test = suite('rollback with nftables');
test.needs(...INSTALL_NEEDS, 'nft');
test.after.each(assertAllAtHome);

const nft = (path: string, script: string) => inside(path, ['nft', '-f', '-'], script);
const install = async (path: string, ...flags: string[]) => (await compile(...flags)).apply(await identify(path));

/** What stands in the netns before the install that fails. */
const befores = {
  nothing: async () => {},
  'tables of others': async (path) => {
    await nft(path, THEIRS);
    await installForeign(path);
  },
  'an older configuration of ours': async (path) => {
    await install(path, ...NFTABLES, ...OLDER);
    await count(path);
    await nft(path, THEIRS);
  },
  'our tables with odd content': async (path) => {
    await install(path, ...NFTABLES, ...OLDER);
    await nft(path, `flush ruleset\n${THEIRS}${ODD}`);
  },
  'legacy rules of ours': async (path) => {
    await installForeign(path);
    await install(path, ...OLDER);
  },
  'rules of ours in both forms': async (path) => {
    await installForeign(path);
    await install(path, ...OLDER);
    const rules = await Promise.all(['iptables', 'ip6tables'].map((it) => inside(path, [`${it}-legacy-save`, '-c'])));
    await install(path, ...NFTABLES, ...OLDER);
    for (const [at, family] of ([4, 6] as const).entries()) {
      const text = (rules[at] ?? '').replace(/^.*-A (?!.*ISTIO_).*\n/gm, '');
      await restore(path, family, text);
    }
    await count(path);
  },
} satisfies Record<string, (path: string) => Promise<unknown>>;
type Before = keyof typeof befores;

/** With each the kernel refuses something after the compilation has succeeded. */
const obstacles: Record<string, Obstacle> = {
  'the kernel refuses the transaction, after the routes': { flags: TPROXY, code: /^E2BIG$/, lay: crowd },
  ...routeObstacles(TPROXY),
};

for (const [name, obstacle] of Object.entries(obstacles)) {
  for (const [before, prepare] of Object.entries(befores)) {
    testObstacle(test, `${name}; before: ${before}`, obstacle, prepare, wholeState);
  }
}

/** What is asked for where; nothing is asked for by `clean`. */
const asked = {
  'the first install': ['nothing', TPROXY],
  'the first install beside others': ['tables of others', TPROXY],
  'a change': ['an older configuration of ours', [...PLAIN, ...IPV4]],
  'a repair': ['our tables with odd content', [...PLAIN, ...IPV4]],
  'a move here': ['legacy rules of ours', [...PLAIN, ...IPV4]],
  'a move back': ['an older configuration of ours', [...LEGACY, ...IPV4]],
  'an end of both forms': ['rules of ours in both forms', PLAIN],
  'a clean-up': ['rules of ours in both forms', undefined],
} satisfies Record<string, [before: Before, flags: string[] | undefined]>;
type Asked = keyof typeof asked;
const ALL = Object.keys(asked) as Asked[];
/** Those where legacy rules of ours stand, or are to stand; with the last, where others have some. */
const LEGACY_CHANGES: Asked[] = ['a move here', 'a move back', 'an end of both forms', 'a clean-up'];
const LEGACY_LOOKS: Asked[] = [...LEGACY_CHANGES, 'the first install beside others'];
const ofIpv6 = (name: Asked) => name !== 'a move back';
/** Errnos that nothing takes for another meaning, each by one name. */
const CODES = Object.keys(constants.errno).filter((name) => !/^(EWOULDBLOCK|ENOTSUP|EOPNOTSUPP|EDEADLOCK)$/.test(name));

/** SPECs of `toolbox deny`, the code that comes of them, and what it comes to; the rest succeeds. */
const denials: [specs: string, code: string, fails: Asked[]][] = [
  ['setns=EPERM', 'EPERM', ALL],
  ['unshare=EPERM', 'EPERM', ALL.filter((name) => name !== 'a clean-up')],
  ['sendto=EPERM sendmsg=EPERM', 'EPERM', ALL],
  ['recvfrom=ENOBUFS recvmsg=ENOBUFS', 'ENOBUFS', ALL],
  // nf_tables' alone: what legacy iptables has done by then is taken back.
  ['recvfrom:*:*:*:64=ENOBUFS', 'ENOBUFS', ALL],
  ['socket:16:*:12=EMFILE', 'EMFILE', ALL],
  ['socket:16:*:12=EPERM', 'EPERM', ALL],
  ['socket:16:*:0=EMFILE', 'EMFILE', ALL],
  ['socket:10=EMFILE', 'EMFILE', ALL],
  ['getsockopt:1:71=ENOPROTOOPT', 'ENOPROTOOPT', ALL],
  // NFT_MSG_GETGEN.
  ['sendto:*:*:20=ENOMEM', 'ENOMEM', ALL],
  // RTM_NEWADDR, and RTM_DELADDR: what comes last, when the tables of both forms have been changed.
  ['sendto:*:*:72=EPERM', 'EPERM', ALL.filter((name) => name !== 'an end of both forms')],
  // What stands in the other form is removed once the transaction is through.
  ['getsockopt:0:64=EPERM', 'EPERM', LEGACY_LOOKS],
  ['setsockopt:0:64=EPERM', 'EPERM', LEGACY_CHANGES],
  ['getsockopt:41:65=ENOMEM', 'ENOMEM', LEGACY_LOOKS.filter(ofIpv6)],
  ['setsockopt:41:64=ENOMEM', 'ENOMEM', LEGACY_CHANGES.filter(ofIpv6)],
];

for (const [specs, code, fails] of denials) {
  test(`denied ${specs}: all or nothing`, async () => {
    await using farm = new Farm('rollback');
    const made = await Promise.all(ALL.map((name) => order(farm, name)));
    const was = await Promise.all(made.map(({ target }) => wholeState(target.path)));
    const outcomes = await denied(specs.split(' '), made);
    for (const [at, name] of ALL.entries()) {
      const { target } = made[at] as Order;
      if (fails.includes(name)) {
        assert.deepEqual(outcomes[at], { code }, name);
        assert.equal(await wholeState(target.path), was[at], name);
      } else {
        assert.deepEqual(outcomes[at], { changed: true }, name);
      }
      const next = await compile(...(asked[name][1] ?? PLAIN));
      await next.apply(target);
      assert.equal((await next.verify(target)).ok, true, name);
    }
  });
}

test(
  'the transaction itself cannot be sent: all or nothing',
  async () => {
    await using farm = new Farm('rollback');
    // Both have the same ruleset compiled; what is meant is longer by the generation at least.
    const scratch = await transaction(farm, 'a change');
    for (const name of ['a change', 'a move here'] as const) {
      assert.ok((await transaction(farm, name, scratch)) > scratch, name);
    }
    assert.ok((await transaction(farm, 'a clean-up')) < scratch);
  },
  { timeoutMs: 60_000 },
);

async function order(farm: Farm, name: Asked): Promise<Order> {
  const [before, flags] = asked[name];
  const path = await farm.add();
  await befores[before](path);
  const form = formFor(flags ?? PLAIN);
  return {
    verb: flags === undefined ? 'clean' : 'apply',
    fresh: name === 'the first install',
    form,
    target: await identify(path),
  };
}

/**
 * How long the first message is that is longer than `than` and without which the order fails; it is the scratch netns'
 * unless `than` is. Told by denying each length with a code that tells it.
 */
async function transaction(farm: Farm, name: Asked, than = 100): Promise<number> {
  const fails = async (lengths: number[]) => {
    const one = await order(farm, name);
    const was = await wholeState(one.target.path);
    const each = Math.ceil(lengths.length / CODES.length);
    const specs = lengths.map((length, at) => `sendto:*:*:${length}=${CODES[Math.floor(at / each)]}`);
    const [outcome] = await denied(specs, [one]);
    if (outcome === undefined || 'changed' in outcome) return [];
    assert.equal(await wholeState(one.target.path), was, `${name}: ${outcome.code}`);
    return lengths.filter((_, at) => CODES[Math.floor(at / each)] === outcome.code);
  };
  const MOST_SPECS = 600; // of 4096 instructions
  for (let from = than + 4; from < 32 * 1024; from += 4 * MOST_SPECS) {
    const group = await fails(Array.from({ length: MOST_SPECS }, (_, at) => from + 4 * at));
    if (group.length === 0) continue;
    const [length] = await fails(group);
    assert.ok(length !== undefined);
    return length;
  }
  throw new Error('no message was denied');
}

/** Lays chain after chain at a hook of ours, until the kernel has no more room there (MAX_HOOK_COUNT, 1024). */
async function crowd(path: string): Promise<void> {
  let made = 0;
  for (let step = 512; step >= 1; step /= 2) {
    const lines = Array.from({ length: step }, (_, at) => {
      return `add chain inet crowd c${made + at} { type filter hook prerouting priority 5; }\n`;
    });
    const hasRoom = await nft(path, `add table inet crowd\n${lines.join('')}`).then(
      () => true,
      (error: Error) => {
        assert.match(error.message, /Argument list too long/);
        return false;
      },
    );
    if (hasRoom) made += step;
  }
  assert.ok(made > 1000, `${made}`);
}
