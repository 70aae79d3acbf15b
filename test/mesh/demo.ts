/** `ipnc demo --mesh`: pods without any privilege in a real mesh, what it does for them, and what their start took. */
import type { V1Container, V1Pod } from '@kubernetes/client-node';
import { STAGES, type Start, Starts, type Way } from '../../bench/mesh/starts.ts';
import { columns, type Io, paint } from '../../lib/cli/output.ts';
import { heading, mark } from '../../lib/demo/demo.ts';
import { Failure } from '../../lib/errors.ts';
import type { Backend } from '../../lib/ruleset/form.ts';
import { ControllerProcess } from '../cluster/controller-process.ts';
import { addressesOf } from '../cluster/mesh-pod.ts';
import { until } from '../cluster/pods.ts';
import { HTTP, request, requireMutualTls, runEcho } from './echo.ts';
import { type Mesh, OUTSIDE, PRIVILEGED, RESTRICTED, startMesh } from './mesh.ts';
import { usePolicy } from './policy.ts';
import { meshLack } from './programs.ts';
import { templateValues } from './template.ts';

/** The revision of istiod that has our injection template. */
const TEMPLATE = 'sidecar';

/** Throws Failure if this machine cannot run a mesh, or if anything is not as expected. */
export async function meshDemo(io: Io, wanted: 'auto' | Backend): Promise<void> {
  const lack = meshLack();
  if (lack !== undefined) throw new Failure('ERR_CLUSTER', { detail: lack });
  heading(io, 'Kubernetes and Istio, in namespaces of their own');
  const progress = (part: string, ms: number) =>
    io.out(paint(io, 'dim', `  ${(ms / 1000).toFixed(1).padStart(4)} s  ${part}\n`));
  const mesh = await startMesh({ images: ['toolbox', 'pod-network-gate'], progress });
  try {
    await Promise.all([
      usePolicy(mesh, { only: RESTRICTED }),
      mesh.installRevision(TEMPLATE, await templateValues('sidecar')),
    ]);
    await showMesh(io, mesh, wanted);
  } finally {
    await mesh.stop();
  }
}

/**
 * On a mesh with the policy in `RESTRICTED` alone and with the revision `sidecar` of istiod, which has our template. No other
 * controller may run. It leaves its pods and `STRICT` there.
 */
export async function showMesh(io: Io, mesh: Mesh, wanted: 'auto' | Backend): Promise<void> {
  const { node, kubeconfig } = mesh.cluster;
  await using controller = await ControllerProcess.start(node, kubeconfig, '--enroll=istio', '--backend', wanted);
  let failed = 0;
  const check = (right: boolean) => {
    if (!right) failed++;
    return mark(io, right);
  };

  const [web, client, outsider] = await Promise.all([
    runEcho(mesh, 'web'),
    runEcho(mesh, 'client'),
    runEcho(mesh, 'outsider', { namespace: OUTSIDE }),
  ]);
  heading(io, `Two pods that istiod has injected, in namespace ${RESTRICTED}, which enforces "restricted"`);
  io.out(
    columns(
      [web, client].flatMap((pod) =>
        containersOf(pod).map((container) => {
          const { runAsUser = 0, capabilities } = container.securityContext ?? {};
          const added = (capabilities?.add ?? []).join(', ');
          const has = added === '' ? 'no capability' : `capabilities ${added}`;
          return ['', check(added === ''), pod.metadata?.name ?? '', container.name, `uid ${runAsUser}`, has];
        }),
      ),
    ),
  );

  heading(io, 'client calls web by its Service');
  const answer = await request(mesh, client, `http://web:${HTTP}/hello`);
  const certificate = answer.header('X-Forwarded-Client-Cert') ?? '';
  const [, by = ''] = /By=([^;]+)/.exec(certificate) ?? [];
  const [, from = ''] = /URI=([^;]+)/.exec(certificate) ?? [];
  io.out(
    columns([
      ['', check(answer.by === 'web'), 'answer', `${answer.status} from ${answer.by}`],
      ['', check(from.endsWith('/sa/client')), 'client is', from || 'unknown'],
      ['', check(by.endsWith('/sa/web')), 'web is', by || 'unknown'],
    ]),
  );
  for (const pod of [client, web]) {
    const line = await accessLog(mesh, pod, '/hello');
    io.out(`  ${paint(io, 'dim', `Envoy of ${pod.metadata?.name}:`)} ${line.slice(0, 150)}\n`);
  }

  heading(io, 'outsider, a pod outside of the mesh, calls web before and after PeerAuthentication STRICT');
  const [address = ''] = addressesOf(web);
  const calls = [`http://web.${RESTRICTED}:${HTTP}/`, `http://${address}:${HTTP}/`];
  const ask = async (expected: RegExp, when: string) => {
    for (const url of calls) {
      const { status } = await request(mesh, outsider, url);
      io.out(columns([['', check(expected.test(status)), when, url, status]]));
    }
  };
  await ask(/^200$/, 'before');
  await requireMutualTls(mesh, RESTRICTED, outsider, calls[0] ?? '');
  await ask(/reset|EOF|refused/, 'after');
  // Envoy resets the connections of the old listener for a moment after it refuses the outsider.
  const member = await until(
    'served: client',
    () => request(mesh, client, calls[0] ?? ''),
    ({ status }) => status === '200',
    10_000,
  );
  io.out(columns([['', check(member.status === '200'), 'after', 'client, a member of the mesh', member.status]]));

  await using starts = new Starts(mesh);
  const ways: Way[] = [
    {
      ...{ id: 'istio-init', name: "Istio's istio-init, with NET_ADMIN", namespace: PRIVILEGED, waiter: 'istio-init' },
      ...{ node, ours: false, proxy: true },
    },
    {
      ...{ id: 'policy', name: 'gate as init container', namespace: RESTRICTED, waiter: 'pod-network-gate' },
      ...{ node, controller: () => controller, ours: true, proxy: true },
    },
    {
      ...{ id: 'sidecar', name: 'gate in the sidecar', namespace: OUTSIDE, labels: { 'istio.io/rev': TEMPLATE } },
      ...{ node, controller: () => controller, ours: true, proxy: 'gated' },
    },
  ];
  const found: Start[] = [];
  for (const way of ways) {
    found.push(await starts.one(way));
    await starts.gone();
  }
  heading(io, 'What the start of one pod took: milliseconds since it was created');
  const rows = STAGES.map(([stage, name]) => ['', name, ...found.map(({ [stage]: ms }) => ms?.toFixed(0) ?? '')]);
  io.out(columns([['', '', ...ways.map(({ name }) => name)], ...rows], [2, 3, 4]));

  if (failed > 0) throw new Failure('ERR_DEMO', { detail: `${failed} checks failed` });
  io.out(`\n${paint(io, 'green', 'Everything is as expected.')}\n`);
}

function containersOf({ spec }: V1Pod): V1Container[] {
  return [...(spec?.initContainers ?? []), ...(spec?.containers ?? [])];
}

async function accessLog(mesh: Mesh, pod: V1Pod, path: string): Promise<string> {
  const find = async () => {
    const lines = (await mesh.logs(pod, 'istio-proxy')).split('\n');
    return lines.find((line) => line.includes(` ${path} HTTP/`)) ?? '';
  };
  return until(`logged: ${path}`, find, (line) => line !== '', 10_000);
}
