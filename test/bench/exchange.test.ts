/** The exchanges of the workload `connection`: with whom, as whom, and that a wrong way is an error and no figure. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Floors } from '../../bench/drivers/floors.ts';
import { Farm } from '../../bench/farm.ts';
import { suite } from '../suite.ts';

const test = suite('bench, exchanges');
test.needs('netns', 'uid-map', 'ipv6', 'addon', 'toolbox', 'nsenter', 'nft');

const LOOPBACK = { 4: '127.0.0.1', 6: '::1' } as const;

async function inNetns(use: (floors: Floors, netns: string, folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'ipnc-exchange-'));
  try {
    await using farm = new Farm(folder);
    await using floors = new Floors();
    const netns = await farm.one();
    await floors.do('inside', netns, 'ip', 'link', 'set', 'lo', 'up');
    await use(floors, netns, folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

test('each takes some time in both families, and needs a server at its end', async () => {
  await inNetns(async (floors, netns) => {
    for (const address of Object.values(LOOPBACK)) {
      for (const what of ['connect', 'query', 'trip']) {
        const took = await floors.do('exchange', what, netns, '0', address, '7001', netns, '7001', '20');
        assert.ok(took > 1 && took < 50_000, `${what}: ${took} us`);
        const astray = floors.do('exchange', what, netns, '0', address, '7002', netns, '7001', '1');
        await assert.rejects(astray, /error (ECONNREFUSED|EAGAIN)/, `${what} to a port without a server`);
      }
    }
  });
});

test('rules see the uid of the client, and the proxy as the server', async () => {
  await inNetns(async (floors, netns, folder) => {
    const rules = join(folder, 'rules.nft');
    writeFileSync(
      rules,
      `table inet seen {
        chain away { type nat hook output priority -100; tcp dport 7001 meta skuid 0 redirect to :7002; }
        chain output { type filter hook output priority 0; udp sport 7001 meta skuid != 1337 drop; }
      }\n`,
    );
    await floors.do('nft', netns, rules);
    const connect = (uid: string) =>
      floors.do('exchange', 'connect', netns, uid, LOOPBACK[4], '7001', netns, '7001', '1');
    await assert.rejects(connect('0'), /error ECONNREFUSED/);
    assert.ok((await connect('1337')) > 0);
    assert.ok((await floors.do('exchange', 'query', netns, '0', LOOPBACK[4], '7001', netns, '7001', '1')) > 0);
    // The netns and the uid are the same as before, also after an error.
    assert.ok((await floors.do('exchange', 'trip', netns, '1337', LOOPBACK[4], '7001', netns, '7001', '1')) > 0);
  });
});
