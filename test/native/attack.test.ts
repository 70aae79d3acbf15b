/** What processes with NET_ADMIN in some pods do does not keep another pod from its rules. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Compiled, type Netns, native } from '../../lib/native/addon.ts';
import { suite } from '../suite.ts';
import { busyLoop, holdLock } from '../support/contention.ts';
import {
  assertAllAtHome,
  codeOf,
  compile,
  Farm,
  INSTALL_NEEDS,
  identify,
  inside,
  restore,
  restoreNft,
  TOOLBOX,
} from '../support/netns.ts';
import { isOver, patience } from '../support/patience.ts';
import { run } from '../support/process.ts';

const test = suite('attack');
test.needs(...INSTALL_NEEDS, 'nft', 'iptables-legacy');
test.after.each(assertAllAtHome);

const INSTALLS = 25;
/** The 99th percentile may grow by this much; what is shorter than the floor is noise of the machine. */
const FACTOR = 5;
const FLOOR_MS = 10;

type Stop = () => PromiseLike<unknown>;
interface Attack {
  /** Prepares the netns, and does what goes on until it is stopped. */
  begin: (farm: Farm, path: string) => Promise<Stop>;
  /** What each job there ends with. */
  ends: RegExp;
}

const many = (count: number, line: (at: number) => string) =>
  Array.from({ length: count }, (_, at) => line(at)).join('');

const attacks: Record<string, Attack> = {
  'policy rules by the ten thousand under our protocol number, and forged answers to our sockets': {
    begin: async (_, path) => {
      const rules = many(20_000, (at) => `rule add fwmark ${at + 1} lookup 133 protocol 133\n`);
      await inside(path, ['ip', '-batch', '-'], rules);
      const words = ['forge', '--netns', path, '--port', String(process.pid), '--flood', '60000'];
      const forging = run(TOOLBOX, words);
      const ended = forging.catch(() => {});
      return () => {
        forging.child.kill('SIGKILL');
        return ended;
      };
    },
    ends: /^ERR_BUDGET$/,
  },
  'named sets by the thousand in our table, while the ruleset keeps changing': {
    begin: async (farm, path) => {
      const sets = many(4_000, (at) => `add set inet istio-proxy-nat s${at} { type ipv4_addr; }\n`);
      await restoreNft(path, `add table inet istio-proxy-nat\n${sets}`);
      return busyLoop(farm, path, 'nft add table inet x && nft delete table inet x');
    },
    ends: /^ERR_BUDGET$/,
  },
  'a legacy table of 70,000 rules': {
    begin: async (_, path) => {
      const rules = many(70_000, () => '-A OUTPUT -d 192.0.2.1 -j ACCEPT\n');
      await restore(path, 4, `*nat\n${rules}COMMIT\n`);
      return async () => {};
    },
    ends: /^ERR_BUDGET$/,
  },
  'a lock that is held': {
    begin: async (_, path) => {
      const lock = await holdLock(path);
      return () => lock[Symbol.asyncDispose]();
    },
    ends: /^undefined$/,
  },
};

/** Milliseconds that installs in fresh netns took, one after the other. */
async function installs(compiled: Compiled, targets: Netns[]): Promise<number[]> {
  const times: number[] = [];
  for (const target of targets) {
    const began = performance.now();
    await compiled.apply(target, { fresh: true });
    times.push(performance.now() - began);
    await native().clean(target);
  }
  return times;
}

function p99(times: number[]): number {
  return times.sort((a, b) => a - b)[Math.ceil(0.99 * times.length) - 1] ?? 0;
}

test(
  `other pods are set up in time, and nothing is left: ${Object.keys(attacks).join('; ')}`,
  async () => {
    await using farm = new Farm('attack');
    const compiled = await compile('--backend', 'nftables');
    const targets = await Promise.all((await farm.addAll(INSTALLS)).map(identify));
    const hostile = await Promise.all(
      Object.entries(attacks).map(async ([name, attack]) => ({
        name,
        attack,
        target: await identify(await farm.add()),
      })),
    );
    const quiet = await installs(compiled, targets);
    const stops = await Promise.all(hostile.map(({ attack, target }) => attack.begin(farm, target.path)));
    const over = new AbortController();
    let attacked: number[] = [];
    // Harder than the controller, which waits longer after each failure.
    const jobs = hostile.map(async ({ name, attack, target }) => {
      let count = 0;
      for (; !over.signal.aborted; count++) {
        const code = await codeOf(count % 2 === 0 ? compiled.verify(target) : compiled.apply(target));
        assert.match(String(code), attack.ends, name);
      }
      assert.ok(count > 0, name);
    });
    const ended = Promise.all(jobs);
    try {
      await Promise.race([ended, sleep(1_500)]); // until each has used up a budget
      attacked = await installs(compiled, targets);
      const { stuck, lost } = native().health();
      assert.deepEqual({ stuck, lost }, { stuck: 0, lost: 0 });
    } finally {
      over.abort();
      await Promise.allSettled(jobs);
      await Promise.all(stops.map((stop) => stop()));
    }
    await ended;
    const [before, meanwhile] = [p99(quiet), p99(attacked)];
    const limit = FACTOR * Math.max(before, FLOOR_MS * patience());
    assert.ok(meanwhile <= limit, `the 99th percentile was ${before} ms, and ${meanwhile} ms under attack`);
    // A thread closes what it has opened after it has answered.
    for (const began = performance.now(); native().health().busy > 0; await sleep(10)) {
      assert.ok(!isOver(began, 10_000), JSON.stringify(native().health()));
    }
    assert.equal(native().health().queued, 0);
  },
  { timeoutMs: 90_000 },
);
