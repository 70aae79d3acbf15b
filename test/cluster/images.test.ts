/** Images are the same wherever and whenever they are made of the same files. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from '../suite.ts';
import { scratchFolder } from '../support/scratch.ts';
import { writeArchive } from './images/archive.ts';
import { type ImageName, images } from './images/images.ts';
import { tar, withFolders } from './images/tar.ts';
import { output } from './sandbox/sandbox.ts';

const test = suite('cluster, images');
const folder = scratchFolder('images');

const needs: Record<ImageName, string[]> = {
  pause: ['gcc'],
  toolbox: ['toolbox'],
  'pod-network-gate': ['gate'],
  'istio-pod-network-controller': ['addon', 'gate', 'ldd'],
  'istio-pod-network-controller-bench': ['addon', 'gate', 'toolbox', 'ldd', 'openssl'],
};

for (const [name, make] of Object.entries(images)) {
  test(
    `two builds of ${name} are one archive`,
    async () => {
      const [first, second] = [join(folder, 'first.tar'), join(folder, 'second.tar')];
      assert.equal(writeArchive(first, await make()), writeArchive(second, await make()));
      const digests = [first, second].map((file) => createHash('sha256').update(readFileSync(file)).digest('hex'));
      assert.equal(digests[0], digests[1]);
    },
    { needs: needs[name as ImageName] },
  );
}

test(
  'the bundle leaves out what the controller never runs, of which the memory of each node would pay for',
  async () => {
    const image = await images['istio-pod-network-controller']();
    const text = image.layers
      .flat()
      .map((entry) => (/^app\/lib\/.*\.js$/.test(entry.path) && 'content' in entry ? String(entry.content) : ''))
      .join('');
    assert.ok(text.includes('loadFromCluster('), 'that which it runs');
    for (const name of ['V1PodSpec', 'UndiciError', 'CoreV1Api']) assert.ok(!text.includes(name), name);
  },
  { needs: ['addon', 'ldd'] },
);

test('another content is another digest', () => {
  const image = (text: string) => ({
    name: 'localhost/one:test',
    layers: [[{ path: 'file', content: Buffer.from(text) }]],
    entrypoint: ['/file'],
  });
  const file = join(folder, 'one.tar');
  assert.notEqual(writeArchive(file, image('a')), writeArchive(file, image('b')));
});

test(
  'the archives are tar: folders first, long names, links, owned by root, of no time',
  async () => {
    const long = `${'folder/'.repeat(20)}file`;
    const file = join(folder, 'any.tar');
    const entries = withFolders([
      { path: 'z', link: '/a/b' },
      { path: long, mode: 0o755, content: Buffer.from('long') },
      { path: 'a/b', content: Buffer.alloc(1024, 'x') },
    ]);

    writeFileSync(file, Buffer.concat(tar(entries)));
    const listed = await output(['tar', '--utc', '--verbose', '--numeric-owner', '--list', '--file', file]);
    const lines = listed.trim().split('\n');
    assert.equal(lines[0], 'drwxr-xr-x 0/0               0 1970-01-01 00:00 a/');
    assert.equal(lines[1], '-rw-r--r-- 0/0            1024 1970-01-01 00:00 a/b');
    assert.equal(lines.at(-2), `-rwxr-xr-x 0/0               4 1970-01-01 00:00 ${long}`);
    assert.equal(lines.at(-1), 'lrwxrwxrwx 0/0               0 1970-01-01 00:00 z -> /a/b');
    assert.equal(await output(['tar', '--extract', '--to-stdout', '--file', file, long]), 'long');
  },
  { needs: ['tar'] },
);
