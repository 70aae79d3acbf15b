/** `ipnc demo --cluster`: what it shows, and what it and `--mesh` say without what they need. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { imageLayers, MAIN } from '../../chart/image/files.ts';
import { suite } from '../suite.ts';
import { type Ended, runToEnd } from '../support/process.ts';

const ROOT = join(import.meta.dirname, '../..');
const NEEDS = ['addon', 'toolbox', 'iptables-legacy-save', 'nft'];

const test = suite('cluster, demo');

function demo(main: string, environment: NodeJS.ProcessEnv = {}, flag = '--cluster'): Promise<Ended> {
  return runToEnd(process.execPath, [main, 'demo', flag], { env: { ...process.env, ...environment } });
}

test(
  'a pod without any privilege goes through it, and each step is shown',
  async () => {
    const { code, stdout, stderr } = await demo(join(ROOT, 'lib/main.ts'));
    assert.equal(code, 0, stderr);
    const steps = [...stdout.matchAll(/^ +\d+ ms {2}(\w+)/gm)].map(([, step]) => step);
    assert.deepEqual(
      steps.filter((step) => step !== 'decided'),
      ['created', 'sandbox', 'rules', 'mark', 'ready'],
    );
    assert.match(stdout, /told by containerd, netns \S*\/run\/netns\/cni-/);
    assert.match(stdout, /^ {2}-A ISTIO_OUTPUT /m);
    assert.match(stdout, /^ {2}ok {2}condition {2}True Initialized$/m);
    const captured = [...stdout.matchAll(/^ {2}ok {2}(outbound|inbound) .* istio-proxy on (\d+), sent to/gm)];
    assert.deepEqual(
      captured.map(([, way, port]) => `${way} ${port}`),
      ['outbound 15001', 'outbound 15001', 'inbound 15006', 'inbound 15006'],
    );
    assert.match(stdout, /All 4 connections had the expected result/);
  },
  { timeoutMs: 90_000, needs: ['cluster', ...NEEDS] },
);

test(
  'without the programs of a cluster it says how to get them',
  async () => {
    for (const flag of ['--cluster', '--mesh']) {
      const { code, stdout, stderr } = await demo(join(ROOT, 'lib/main.ts'), { XDG_CACHE_HOME: '/nowhere' }, flag);
      assert.deepEqual({ code, stdout }, { code: 1, stdout: '' });
      assert.match(stderr, /not built: .*kubelet.*; run "npm run programs -- cluster"/);
    }
  },
  { needs: ['machine-root'] },
);

test(
  'the bundle of the image holds nothing of it, and says where it can be had',
  async () => {
    const layers = await imageLayers(ROOT, join(ROOT, 'build/Release'));
    const folder = mkdtempSync(join(tmpdir(), 'ipnc-demo-'));
    try {
      for (const entry of layers.flat()) {
        if (dirname(`/${entry.path}`) !== dirname(MAIN) || !('content' in entry)) continue;
        writeFileSync(join(folder, basename(entry.path)), entry.content);
      }
      writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
      const { code, stderr } = await demo(join(folder, basename(MAIN)));
      assert.equal(code, 1);
      assert.match(stderr, /not part of this installation/);
      assert.match(stderr, /npm run demo -- --cluster/);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
  { needs: ['addon', 'ldd'] },
);
