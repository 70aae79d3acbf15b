/** The benchmark as the chart's Job: installed by the real helm on a real node, with its results read from the log. */
import assert from 'node:assert/strict';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { V1Job, V1Pod } from '@kubernetes/client-node';
import { parseResults } from '../../bench/schema.ts';
import { suite } from '../suite.ts';
import { CHART, helm, render } from '../support/helm.ts';
import { run } from '../support/process.ts';
import { scratchFolder } from '../support/scratch.ts';
import { imageName } from './images/images.ts';
import { Mesh } from './mesh-pod.ts';
import { until } from './pods.ts';
import { programs } from './programs.ts';

const NAME = 'istio-pod-network-controller';
const HARNESS = 'istio-pod-network-controller-bench';
const SYSTEM = 'istio-system';
const OTHER = 'other';
const SLOW = { timeoutMs: 120_000 };

const test = suite('cluster, bench');
test.needs('cluster', 'addon', 'gate', 'toolbox', 'openssl');

const folder = scratchFolder('cluster-bench');
let mesh: Mesh;
test.before(async () => {
  mesh = await Mesh.start([NAME, HARNESS]);
  for (const name of [SYSTEM, OTHER]) await mesh.admin.post('/api/v1/namespaces', { metadata: { name } });
});
test.after(async () => {
  await mesh?.stop();
});

const images = Object.entries({ image: NAME, 'bench.image': HARNESS } as const).flatMap(([value, name]) => {
  const [repository, tag] = imageName(name).split(':');
  return [`${value}.repository=${repository}`, `${value}.tag=${tag}`];
});
const values = (...set: string[]) => [...images, 'image.pullPolicy=Never', 'bench.enabled=true', ...set];

async function kubectl(...args: string[]): Promise<string> {
  const flags = ['--kubeconfig', mesh.controlPlane.kubeconfig, '--cache-dir', join(folder, 'cache')];
  const { stdout } = await run((await programs(['kubectl'])).path('kubectl'), [...flags, ...args]);
  return stdout;
}

async function listed<T>(what: string, namespace: string): Promise<T[]> {
  const { items } = JSON.parse(await kubectl('get', what, '--namespace', namespace, '--output', 'json'));
  return items as T[];
}

/** Network namespaces of the node: of its processes, and those that are mounted. */
async function netns(): Promise<string[]> {
  const processes = await mesh.node.exec(['lsns', '--type', 'net', '--noheadings', '--output', 'NS']);
  const mounts = await mesh.node.exec(['sed', '-n', 's/.* net:\\[\\([0-9]*\\)\\] .*/\\1/p', '/proc/self/mountinfo']);
  return [...new Set(`${processes}\n${mounts}`.split(/\s+/).filter(Boolean))].sort();
}

/** When it is over: its log and what it found. 3, a node that was too busy, is no failure of ours. */
async function finished(namespace: string, measured: string[]) {
  const [job, ...more] = await until(
    `over: the Job in ${namespace}`,
    () => listed<V1Job>('jobs', namespace),
    (jobs) => jobs.every(({ status }) => status?.conditions?.some(({ type }) => /^(Complete|Failed)$/.test(type))),
    90_000,
  );
  assert.equal(more.length, 0);
  const name = job?.metadata?.name ?? '';
  const log = await kubectl('logs', '--namespace', namespace, `job/${name}`);
  const results = parseResults(JSON.parse(log.trimEnd().split('\n').at(-1) ?? ''), log);
  assert.deepEqual(
    results.workloads.map(({ name, failed, skipped }) => ({ name, failed, skipped })),
    measured.map((name) => ({ name, failed: undefined, skipped: undefined })),
  );
  const [pod] = (await listed<V1Pod>('pods', namespace)).filter(
    ({ metadata }) => metadata?.labels?.['app.kubernetes.io/name'] === HARNESS,
  );
  const refused = results.workloads.some(({ refused }) => refused !== undefined);
  const [state] = pod?.status?.containerStatuses ?? [];
  assert.equal(state?.state?.terminated?.exitCode, refused ? 3 : 0);
  assert.equal(job?.status?.succeeded ?? 0, refused ? 0 : 1);
  return { name, log, results, pod };
}

let before: string[];

test(
  '"helm install" with bench.enabled: the Job measures every way of others too, and its log is its report',
  async () => {
    before = await netns();
    const set = values('bench.args={--quick,--only,single}', `bench.nodeName=${mesh.node.name}`);
    const flags = ['--namespace', SYSTEM, '--kubeconfig', mesh.controlPlane.kubeconfig, '--wait', '--timeout', '60s'];
    const said = await helm('install', 'mesh', CHART, ...flags, ...set.flatMap((each) => ['--set', each]));
    const { name, log, results, pod } = await finished(SYSTEM, ['single']);
    assert.ok(said.includes(`logs --follow job/${name}\n`), said);
    assert.equal(pod?.spec?.nodeName, mesh.node.name);
    assert.equal(results.machine.name, mesh.node.name);
    assert.ok(log.includes(`\n${mesh.node.name}, `), log);
    assert.match(log, /^ {2}iptables-legacy, us +to base/m);
    assert.match(log, /^ {2}ipnc, from JavaScript +\d/m);
    const ids = results.workloads.flatMap(({ series }) => series.map(({ id }) => id));
    for (const id of ['iptables-legacy/ours', 'iptables-legacy/restore', 'nftables/nft', 'nftables/restore']) {
      assert.ok(ids.includes(id), `${id} of ${ids}`);
    }
  },
  SLOW,
);

test(
  'the Job by itself, as root of the node: what starts the gate as the proxy needs a capability for each step',
  async () => {
    const set = values('bench.args={--quick,--only,gate}', 'bench.hostUsers=true', `Namespace=${OTHER}`);
    const file = join(folder, 'job.json');
    const items = await render(set, '--show-only', 'templates/bench.yaml');
    writeFileSync(file, JSON.stringify({ apiVersion: 'v1', kind: 'List', items }));
    await kubectl('apply', '--filename', file);
    const { pod } = await finished(OTHER, ['gate']);
    assert.equal(pod?.status?.containerStatuses?.[0]?.state?.terminated?.message, undefined);
  },
  SLOW,
);

test(
  "of its log alone the report is made, on anybody's machine",
  async () => {
    const [job] = await listed<V1Job>('jobs', SYSTEM);
    const file = join(folder, 'node.log');
    writeFileSync(file, await kubectl('logs', '--namespace', SYSTEM, `job/${job?.metadata?.name}`));
    const main = join(import.meta.dirname, '../../bench/main.ts');
    const { stdout } = await run(process.execPath, [main, '--compare', file, file]);
    assert.match(stdout, /later to earlier/);
    await run(process.execPath, [main, '--from', file]).catch(({ code }) => assert.equal(code, 3));
    assert.ok(existsSync(`${file}.html`));
  },
  SLOW,
);

test(
  'the controller leaves its pods alone, and on the node nothing of them is left',
  async () => {
    for (const namespace of [SYSTEM, OTHER]) {
      const marked = (await listed<V1Pod>('pods', namespace)).filter(({ metadata }) =>
        Object.keys(metadata?.annotations ?? {}).some((key) => key.startsWith('pod-network-controller.istio.io/')),
      );
      assert.deepEqual(marked, []);
    }
    // The controller's own.
    await until(
      'gone: the network namespaces',
      netns,
      (now) => now.filter((each) => !before.includes(each)).length === 1,
    );
  },
  SLOW,
);
