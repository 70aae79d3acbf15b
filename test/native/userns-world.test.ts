/** The pods with a user namespace of their own in which other tests run are what they are taken for. */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Coprocess } from '../../bench/coprocess.ts';
import { Network } from '../../lib/demo/network.ts';
import { suite } from '../suite.ts';
import { TOOLBOX } from '../support/netns.ts';
import { run } from '../support/process.ts';
import { World } from '../support/world.ts';

const test = suite('a pod with a user namespace of its own');
test.needs('netns', 'uid-map', 'pod-userns', 'ipv6', 'toolbox', 'ip', 'nsenter');

/** What `command` prints as root of the user namespace, in the netns. */
async function asPodRoot(userns: string, netns: string, ...command: string[]): Promise<string> {
  return (await run('nsenter', [`--user=${userns}`, `--net=${netns}`, ...command])).stdout;
}

test('its netns is owned by that user namespace, and another one is not', async () => {
  await using network = new Network('ipnc-userns');
  const userns = await network.addOwned('pod');
  await network.add('other');
  for (const map of ['uid_map', 'gid_map']) {
    const text = await asPodRoot(userns, network.path('pod'), 'cat', `/proc/self/${map}`);
    assert.deepEqual(text.trim().split(/\s+/), ['0', '100000', '65536']);
  }
  const addLink = (netns: string) => asPodRoot(userns, network.path(netns), 'ip', 'link', 'add', 'v0', 'type', 'veth');
  await addLink('pod');
  const error = await addLink('other').then(
    () => undefined,
    (thrown: Error) => thrown,
  );
  assert.match(error?.message ?? 'none', /Operation not permitted/);
  assert.match(await network.ip('pod', 'link', 'show', 'lo'), /<LOOPBACK,UP/);
});

for (const userns of [true, false]) {
  test(`uids as this machine counts them, ${userns ? 'with' : 'without'} it`, async () => {
    await using world = await World.build({ transparent: true, userns });
    const { stdout } = await run('ip', ['netns', 'pids', world.podPath.replace(/.*\//, '')]);
    const ids = stdout
      .trim()
      .split('\n')
      .map((pid) => {
        const status = readFileSync(`/proc/${pid}/status`, 'utf8');
        return ['Uid', 'Gid', 'Groups'].map((name) => new RegExp(`^${name}:\\s*(\\d*)`, 'm').exec(status)?.[1]).join();
      });
    const expected = userns ? ['101000,101000,', '101337,101337,'] : ['1000,1000,', '1337,1337,'];
    assert.deepEqual([...new Set(ids)].sort(), expected);
  });
}

test('both files go with the network, and with the toolbox that made them', async () => {
  const network = new Network('ipnc-userns');
  const made = [await network.addOwned('pod'), network.path('pod')];
  assert.deepEqual(made.filter(existsSync), made);
  await network[Symbol.asyncDispose]();
  assert.deepEqual(made.filter(existsSync), []);

  const folder = mkdtempSync(join(tmpdir(), 'ipnc-userns-'));
  try {
    const [netns, userns] = [join(folder, 'net'), join(folder, 'user')];
    await using toolbox = new Coprocess(TOOLBOX, 'netns');
    await toolbox.ask(`add-user ${netns} ${userns}`);
    assert.deepEqual([netns, userns].filter(existsSync), [netns, userns]);
    await toolbox[Symbol.asyncDispose]();
    assert.deepEqual([netns, userns].filter(existsSync), []);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('what cannot be made whole is not made at all', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'ipnc-userns-'));
  try {
    const netns = join(folder, 'net');
    const failed = await run(TOOLBOX, ['netns', `add-user ${netns} ${folder}/missing/user`]).then(
      () => 'it was made',
      (error: Error) => error.message,
    );
    assert.ok(failed.includes(`error ${netns} open ENOENT`), failed);
    assert.equal(existsSync(netns), false);
    assert.equal(readFileSync('/proc/self/mounts', 'utf8').includes(folder), false);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
