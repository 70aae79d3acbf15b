/**
 * What Istio's real injector makes of the pods in shapes.ts, with each way in which a pod gets its gate, and with both
 * kinds of sidecar. These are dry runs: no pod is started. The outcome of each cell is a line of injection.golden. It also
 * says whether the controller, the container that waits for the rules, and the proxy read the same settings from the pod.
 *
 * After an intended change: `IPNC_TEST_UPDATE=1 node test/run.ts test/mesh/injection.test.ts`, and read the difference.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ApiException, V1Container, V1Namespace, V1Pod, V1PodSpec } from '@kubernetes/client-node';
import { parse } from 'yaml';
import { decide } from '../../lib/istio/enrolment.ts';
import { INITIALIZE } from '../../lib/istio/names.ts';
import { podRedirect, type RedirectSpec } from '../../lib/istio/redirect.ts';
import { toNamespaceRecord, toPodRecord } from '../../lib/kube/pods.ts';
import { inject as injectByStandIn } from '../cluster/istiod-webhook.ts';
import { until } from '../cluster/pods.ts';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { GateHome } from '../support/gate.ts';
import { Farm, INSTALL_NEEDS, inside } from '../support/netns.ts';
import { runToEnd } from '../support/process.ts';
import { type Mesh, OUTSIDE, PRIVILEGED, RESTRICTED, startMesh, type Values } from './mesh.ts';
import { isGated, usePolicy } from './policy.ts';
import { meshPrograms } from './programs.ts';
import { application, ISTIOD, type Istiod, REVISION, type Shape, shapes } from './shapes.ts';
import { templateValues } from './template.ts';

const test = suite('mesh, injection');
test.needs('mesh', 'gate', 'setpriv', ...INSTALL_NEEDS);

const GOLDEN = join(import.meta.dirname, 'injection.golden');
const golden = new Map(
  (existsSync(GOLDEN) ? readFileSync(GOLDEN, 'utf8') : '')
    .split('\n')
    .filter((line) => line.includes(' | '))
    .map((line) => [line.slice(0, line.indexOf(' | ')), line]),
);
const found: string[] = [];

/**
 * How a pod gets the container that waits for the rules. policy, policy-sidecar: our admission policy, with each value of
 * `injection.wait`. cni: istiod injects istio-validation. sidecar, init: our injection template, with each value of
 * `injection.wait`.
 */
const MODES = ['policy', 'policy-sidecar', 'cni', 'sidecar', 'init'] as const;
type Mode = (typeof MODES)[number];
/** `pilot.cni.enabled` is true except for the policy: one istiod serves these modes, and the pod names the template. */
const needsCni = (mode: Mode) => !mode.startsWith('policy');
const TEMPLATES: Partial<Record<Mode, string>> = { sidecar: 'pod-network-gate', init: 'pod-network-gate-init' };
const CHOSEN = 'inject.istio.io/templates';

const KINDS = ['native', 'ordinary'] as const;
type Kind = (typeof KINDS)[number];

interface Cell {
  shape: Shape;
  mode: Mode;
  kind: Kind;
  name: string;
}

/** Cells that the same istiod injects with the same values. */
interface Group {
  istiod: Istiod;
  cni: boolean;
  cells: Cell[];
}

const DEFAULT = 'the defaults';
const cellsOf = (istiod: Istiod, cni: boolean): Cell[] =>
  MODES.filter((mode) => needsCni(mode) === cni).flatMap((mode) =>
    shapes
      .filter((shape) => (shape.istiod ?? DEFAULT) === istiod)
      .flatMap((shape) =>
        KINDS.filter((kind) => kind === 'native' || shape.natives !== false).map((kind) => ({
          ...{ shape, mode, kind },
          name: `${mode}, ${shape.natives === false ? 'no sidecar' : kind}: ${shape.name}`,
        })),
      ),
  );
const groups: Group[] = [false, true].flatMap((cni) =>
  (Object.keys(ISTIOD) as Istiod[]).map((istiod) => ({ istiod, cni, cells: cellsOf(istiod, cni) })),
);

const ENFORCED = { 'pod-security.kubernetes.io/enforce': 'restricted' };
const DEFAULTS = { redirect: {}, defaultInboundPorts: '*' } as const;
const SLOW = { timeoutMs: 120_000 };
/** Of netns with rules, and of those who wait in them, so many at a time. */
const WAITERS = 4;

let mesh: Mesh;
let farm: Farm;
let home: GateHome;
let templates: Record<string, string>;

/** The values of istiod for a group, with our two templates for pods that name them. */
function valuesOf({ istiod, cni }: Group): Values {
  const { sidecarInjectorWebhook = {}, ...values } = ISTIOD[istiod] as {
    sidecarInjectorWebhook?: { templates?: Record<string, string> };
  };
  return {
    ...values,
    pilot: { cni: { enabled: cni, provider: 'default' } },
    sidecarInjectorWebhook: {
      ...sidecarInjectorWebhook,
      templates: { ...sidecarInjectorWebhook.templates, ...templates },
    },
  };
}

test.before(async () => {
  farm = new Farm('injection');
  home = new GateHome();
  const template = async (wait: 'sidecar' | 'init') => {
    const { sidecarInjectorWebhook } = (await templateValues(wait)) as {
      sidecarInjectorWebhook: { templates: Record<string, string> };
    };
    return sidecarInjectorWebhook.templates['pod-network-gate'] ?? '';
  };
  templates = { 'pod-network-gate': await template('sidecar'), 'pod-network-gate-init': await template('init') };
  mesh = await startMesh();
});
test.before(async () => {
  const othersThan = (mode: Mode) =>
    MODES.filter((each) => each !== mode).flatMap((each) => Array.from({ length: 20 }, (_, at) => `${each}-${at}`));
  await Promise.all([
    usePolicy(mesh, { only: RESTRICTED, except: othersThan('policy') }),
    usePolicy(mesh, { wait: 'sidecar', only: PRIVILEGED, except: othersThan('policy-sidecar') }),
    mesh.installRevision(REVISION.name, REVISION.values),
  ]);
});
test.after(async () => {
  home?.[Symbol.dispose]();
  await farm?.[Symbol.asyncDispose]();
  await mesh?.stop();
  if (process.env.IPNC_TEST_UPDATE) writeFileSync(GOLDEN, `${found.join('\n')}\n`);
});

function podOf({ annotations = {}, labels, change, istiod }: Shape, mode: Mode, kind: Kind): V1Pod {
  const template = TEMPLATES[mode];
  const own = (ISTIOD[istiod ?? DEFAULT] as { sidecarInjectorWebhook?: { defaultTemplates?: string[] } })
    .sidecarInjectorWebhook?.defaultTemplates ?? ['sidecar'];
  const metadata = {
    generateName: 'web-',
    labels: { app: 'web', ...labels },
    annotations: {
      'sidecar.istio.io/nativeSidecar': String(kind === 'native'),
      ...(template !== undefined && { [CHOSEN]: [...own, template].join() }),
      ...annotations,
    },
  };
  const spec = {
    securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
    containers: [application('app')],
  };
  change?.(spec, metadata);
  return { metadata, spec };
}

/** The pod of Istio's gateway chart; helm renders it once. */
let gateway: Promise<V1Pod> | undefined;
async function gatewayPod(): Promise<V1Pod> {
  gateway ??= mesh
    .helm('template', 'gateway', mesh.chart('gateway'), '--show-only', 'templates/deployment.yaml')
    .then((yaml) => {
      const { metadata, spec } = parse(yaml).spec.template as V1Pod;
      return { metadata: { ...metadata, generateName: 'gateway-' }, spec: { ...spec, serviceAccountName: 'default' } };
    }) as Promise<V1Pod>;
  return structuredClone(await gateway);
}

/** The pod as it would be stored. */
async function create({ metadata }: V1Namespace, body: V1Pod): Promise<V1Pod> {
  const { name: namespace = '' } = metadata ?? {};
  const made = await mesh.cluster.core.createNamespacedPod({ namespace, body, dryRun: 'All' });
  return JSON.parse(JSON.stringify(made)) as V1Pod;
}

/** One namespace for each mode, labels and annotations that the shapes want. */
const namespaces = new Map<string, Promise<V1Namespace>>();
const counts = new Map<Mode, number>();

function namespaceFor(mode: Mode, shape: Shape, security: Record<string, string>): Promise<V1Namespace> {
  const { annotations = {}, labels = {} } = shape.namespace ?? {};
  const wanted = Object.entries({ 'istio-injection': 'enabled', ...security, ...labels }).filter(([, value]) => value);
  const metadata = { annotations, labels: Object.fromEntries(wanted) };
  const key = `${mode} ${JSON.stringify(metadata)}`;
  const known = namespaces.get(key);
  if (known !== undefined) return known;
  const count = counts.get(mode) ?? 0;
  counts.set(mode, count + 1);
  const made = newNamespace({ metadata: { ...metadata, name: `${mode}-${count}` } });
  namespaces.set(key, made);
  return made;
}

async function newNamespace(body: V1Namespace & { metadata: { name: string } }): Promise<V1Namespace> {
  const { core } = mesh.cluster;
  const made = await core.createNamespace({ body });
  const { name } = body.metadata;
  const account = () =>
    core.readNamespacedServiceAccount({ namespace: name, name: 'default' }).then(
      () => true,
      () => false,
    );
  await until(`made: the account of ${name}`, account, (is) => is);
  return made;
}

const containersOf = ({ spec }: V1Pod) => [...(spec?.initContainers ?? []), ...(spec?.containers ?? [])];
const proxyOf = (pod: V1Pod) => containersOf(pod).find(({ name }) => name === 'istio-proxy');
/** The container that waits for the rules, or whose first program does. */
const waiterOf = (pod: V1Pod) =>
  pod.spec?.initContainers?.find(
    (each) => isGated(each) || each.name === 'pod-network-gate' || each.name === 'istio-validation',
  );
const variable = ({ env = [] }: V1Container, name: string) => env.find((each) => each.name === name)?.value;

/** What differs from Istio's defaults. */
function settingsOf(spec: RedirectSpec): string {
  const plain = podRedirect({}, DEFAULTS).spec;
  const parts = Object.entries(spec).flatMap(([key, value]) => {
    const usual = plain[key as keyof RedirectSpec];
    return JSON.stringify(value) === JSON.stringify(usual) ? [] : [`${key}=${compact(value)}`];
  });
  return parts.join(' ') || 'defaults';
}

function compact(value: unknown): string {
  return JSON.stringify(value)
    .replaceAll(/\{"family":[46],"address":"([^"]+)","prefix":(\d+)\}/g, '$1/$2')
    .replaceAll(/\{"first":(\d+),"last":\1\}/g, '$1')
    .replaceAll('"', '');
}

/** A pod that the API server refuses has the reason in place of the rest. */
type Admitted = { refused: string } | AdmittedPod;

interface AdmittedPod {
  pod: V1Pod;
  namespace: V1Namespace;
  admission: string;
}

async function inject({ shape, kind, mode }: Cell): Promise<Admitted> {
  const body = shape.gateway ? await gatewayPod() : podOf(shape, mode, kind);
  const restricted = await namespaceFor(mode, shape, ENFORCED);
  try {
    return { pod: await create(restricted, body), namespace: restricted, admission: 'restricted' };
  } catch (error) {
    const message = messageOf(error);
    const [, why] = /violates PodSecurity "restricted:latest": (.*)/.exec(message) ?? [];
    if (why === undefined) throw error;
    const names = [...why.matchAll(/(?:^|\), )([^()]+?) \(/g)].map(([, name]) => name).join(', ');
    const namespace = await namespaceFor(mode, shape, {});
    try {
      return { pod: await create(namespace, body), namespace, admission: `not restricted: ${names}` };
    } catch (error) {
      const [, reason] = /ValidatingAdmissionPolicy .* denied request: (.*)/.exec(messageOf(error)) ?? [];
      if (reason === undefined) throw error;
      return { refused: reason };
    }
  }
}

function messageOf(error: unknown): string {
  return (JSON.parse(String((error as ApiException<unknown>).body)) as { message?: string }).message ?? '';
}

/** Another interface than lo with an address of each family, as a pod has. */
const ADDRESSES = `
ip link add eth0 type veth peer name peer0
ip address add 10.244.1.2/24 dev eth0
ip address add fd00:10:244:1::2/64 dev eth0 nodad
ip link set eth0 up`;

interface Waiter {
  /** The controller's rules are those of these settings. */
  spec: RedirectSpec;
  container: 'gate' | 'istio-validation';
  words: string[];
  environment: Record<string, string>;
  uid: number;
  gid: number;
}

function asWaiter(container: V1Container, spec: RedirectSpec): Waiter {
  const { runAsUser: uid = 0, runAsGroup: gid = 0 } = container.securityContext ?? {};
  const words = [...(isGated(container) ? (container.command ?? []).slice(1) : []), ...(container.args ?? [])];
  const proxy = words.indexOf('--');
  // In front of the proxy the gate becomes it: here it becomes a program that ends at once.
  if (proxy >= 0) words.splice(proxy, Number.POSITIVE_INFINITY, '--', '/bin/true');
  const own = Object.entries(Object.fromEntries((container.env ?? []).map(({ name, value = '' }) => [name, value])));
  // Whatever the gate and Istio's program take from the environment; a proxy's container has much more.
  const environment = Object.fromEntries(
    own.filter(([name]) => proxy < 0 || /^(ISTIO_|INVALID_DROP|IPNC_|IPTABLES_)/.test(name)),
  );
  return {
    ...{ spec, words, environment, uid, gid },
    container: container.name === 'istio-validation' && !isGated(container) ? 'istio-validation' : 'gate',
  };
}

/** Many pods have the same rules and the same waiter: each pair is tried once. */
const tried = new Map<string, Promise<string>>();
let free = WAITERS;
const queue: (() => void)[] = [];

function opens(pod: V1Pod, waiter: Waiter): Promise<string> {
  const key = JSON.stringify(waiter);
  const known = tried.get(key) ?? inTurn(() => waits(pod, waiter));
  tried.set(key, known);
  return known;
}

async function inTurn<T>(work: () => Promise<T>): Promise<T> {
  if (free === 0) await new Promise<void>((resolve) => queue.push(resolve));
  else free--;
  try {
    return await work();
  } finally {
    const next = queue.shift();
    if (next === undefined) free++;
    else next();
  }
}

/** Installs the controller's rules for this pod in a netns. What the waiter says there: `open`, or why not. */
async function waits(pod: V1Pod, { container, words, environment, uid, gid }: Waiter): Promise<string> {
  const netns = await farm.add();
  try {
    await inside(netns, ['sh', '-ec', ADDRESSES]);
    const input = JSON.stringify({ ...pod, apiVersion: 'v1', kind: 'Pod' });
    const applied = await ipnc(['apply', '--netns', netns, '--pod', '-'], { input });
    assert.equal(applied.code, 0, applied.stderr);
    if (container === 'istio-validation') return await validation(netns, words, { uid, gid }, environment);
    const gate = home.start(netns, words, { uid, gid, environment: { ...environment, IPNC_TIMEOUT: '3s' } });
    const { code, line } = await gate.ended;
    return code === 0 ? 'open' : `${code}: ${line}`;
  } finally {
    await farm.del(netns);
  }
}

async function validation(
  netns: string,
  words: string[],
  { uid, gid }: { uid: number; gid: number },
  environment: Record<string, string>,
): Promise<string> {
  const become = ['--reuid', `${uid}`, '--regid', `${gid}`, '--clear-groups', '--no-new-privs', '--inh-caps=-all'];
  const agent = meshPrograms.path('pilot-agent');
  const argv = [`--net=${netns}`, 'setpriv', ...become, '--bounding-set=-all', agent, ...words];
  const { code, stderr } = await runToEnd('nsenter', argv, { env: { PATH: process.env.PATH ?? '', ...environment } });
  return code === 0 ? 'open' : `${code}: ${stderr.trim().split('\n').at(-1)}`;
}

/** What istiod says to the proxy in its container, in the controller's terms. */
function proxySettings(proxy: V1Container) {
  const { runAsUser = 1337 } = proxy.securityContext ?? {};
  return {
    mode: variable(proxy, 'ISTIO_META_INTERCEPTION_MODE'),
    dns: variable(proxy, 'ISTIO_META_DNS_CAPTURE') === 'true',
    // Root's Envoy runs as 1337 all the same.
    uid: runAsUser === 0 ? 1337 : runAsUser,
  };
}

async function lineOf(cell: Cell): Promise<string> {
  const admitted = await inject(cell);
  if ('refused' in admitted) return `${cell.name} | refused: ${admitted.refused}`;
  const { pod, namespace, admission } = admitted;
  const record = toPodRecord({ ...pod, status: { phase: 'Pending' } });
  const decision = decide(record, toNamespaceRecord(namespace), { enroll: 'both', excludeNamespaces: [], self: {} });
  const [proxy, waiter] = [proxyOf(pod), waiterOf(pod)];
  const mark = (container: V1Container) =>
    `${container.name}${container.restartPolicy === 'Always' ? '*' : ''}${isGated(container) ? ' (gate)' : ''}`;
  const line = [
    cell.name,
    (pod.spec?.initContainers ?? []).map(mark).join(' ') || '-',
    (pod.spec?.containers ?? []).map(mark).join(' '),
    admission,
  ];
  if (decision.enroll !== true) {
    line.push(decision.enroll === false ? `left alone: ${decision.reason}` : 'undecided');
    return line.join(' | ');
  }
  const { spec } = podRedirect(record, DEFAULTS);
  line.push(`enrolled by ${decision.by}`, settingsOf(spec));
  if (waiter !== undefined) line.push(await opens(pod, asWaiter(waiter, spec)));
  if (proxy !== undefined) {
    const { mode, proxyUids, dns } = spec;
    const settings = proxySettings(proxy);
    if (mode !== 'NONE' || settings.mode !== 'NONE') {
      const ours = { mode: mode as string | undefined, dns: dns !== 'off', uid: proxyUids[0] ?? 0 };
      const same = JSON.stringify(ours) === JSON.stringify(settings);
      line.push(same ? 'as the proxy' : `the proxy: ${compact(settings)}`);
    }
  }
  return line.join(' | ');
}

type Outcome = PromiseSettledResult<string>;
/** Dry runs side by side. */
const AT_ONCE = 8;
const outcomes = new Map<Group, Promise<Map<Cell, Outcome>>>();

/** Configures istiod once for all cells of a group, and makes their dry runs side by side. */
function outcomesOf(group: Group): Promise<Map<Cell, Outcome>> {
  const known = outcomes.get(group);
  if (known !== undefined) return known;
  const all = (async () => {
    await mesh.configure(valuesOf(group));
    if (group.cells.some(({ shape }) => shape.revision))
      await mesh.configure({ ...valuesOf(group), ...REVISION.values }, REVISION.name);
    const made = new Map<Cell, Outcome>();
    // The API server waits 10 s for istiod, which makes the pods one after the other on a small machine.
    const cells = group.cells.values();
    const ask = async () => {
      for (const cell of cells) made.set(cell, ...(await Promise.allSettled([lineOf(cell)])));
    };
    await Promise.all(Array.from({ length: AT_ONCE }, ask));
    return made;
  })();
  outcomes.set(group, all);
  return all;
}

const traffic = (name: string) => `traffic.sidecar.istio.io/${name}`;
const mode = (value: string) => ({ 'sidecar.istio.io/interceptionMode': value });
/** Pods for which the stand-in for istiod must make what istiod makes. */
const COMPARED: Record<string, Record<string, string>> = {
  plain: {},
  'with traffic annotations': {
    [traffic('includeInboundPorts')]: '8080,9090',
    [traffic('excludeInboundPorts')]: '8081',
    [traffic('includeOutboundIPRanges')]: '10.0.0.0/8',
    [traffic('excludeOutboundIPRanges')]: '10.1.0.0/16',
    [traffic('includeOutboundPorts')]: '5432',
    [traffic('excludeOutboundPorts')]: '3306',
    [traffic('excludeInterfaces')]: 'eth7',
    'istio.io/reroute-virtual-interfaces': 'vm0',
  },
  'with TPROXY': mode('TPROXY'),
  'without redirection': mode('NONE'),
};

/** Of an injected pod: what the stand-in has to make as istiod does. */
function essence(pod: V1Pod) {
  const { annotations = {} } = pod.metadata ?? {};
  const own = (each: string) => /^(traffic\.)?sidecar\.istio\.io\/(?!status|nativeSidecar)/.test(each);
  const { initContainers, containers } = JSON.parse(annotations['sidecar.istio.io/status'] ?? '{}');
  const proxy = proxyOf(pod);
  const waiter = pod.spec?.initContainers?.find(({ name }) => /^istio-(init|validation)$/.test(name));
  const { seccompProfile: _, ...security } = waiter?.securityContext ?? {};
  return {
    inits: (pod.spec?.initContainers ?? []).map(({ name, restartPolicy }) => [name, restartPolicy]),
    containers: pod.spec?.containers.map(({ name }) => name),
    waiter: waiter && { args: waiter.args, security },
    proxy: { command: proxy?.command, args: proxy?.args?.slice(0, 2), lifecycle: proxy?.lifecycle },
    mode: proxy && variable(proxy, 'ISTIO_META_INTERCEPTION_MODE'),
    annotations: Object.fromEntries(Object.entries(annotations).filter(([key]) => own(key))),
    status: { initContainers, containers },
  };
}

async function compareStandIn(how: 'enabled' | 'cni' | 'gateway', body: V1Pod): Promise<void> {
  const injected = { 'sidecar.istio.io/inject': 'true' };
  body.metadata = { ...body.metadata, labels: { ...body.metadata?.labels, ...injected } };
  // The policies leave it alone.
  body.metadata.annotations = { ...body.metadata.annotations, [INITIALIZE]: 'false' };
  const made = await create({ metadata: { name: OUTSIDE } }, body);
  // Helm leaves fields without a value. The API server drops them before it asks a webhook.
  const asked = JSON.parse(JSON.stringify(body), (_, value) => value ?? undefined) as V1Pod;
  assert.deepEqual(essence(JSON.parse(JSON.stringify(injectByStandIn(asked, how)))), essence(made));
}

for (const group of groups) {
  for (const cell of group.cells) {
    test(
      cell.name,
      async () => {
        const outcome = (await outcomesOf(group)).get(cell);
        if (outcome?.status !== 'fulfilled') throw outcome?.reason;
        found.push(outcome.value);
        if (!process.env.IPNC_TEST_UPDATE) assert.deepEqual(outcome.value, golden.get(cell.name));
      },
      SLOW,
    );
  }
  if (group.istiod !== DEFAULT) continue;
  test(
    `the stand-in for istiod makes of a pod what istiod makes of it, ${group.cni ? 'with' : 'without'} its CNI mode`,
    async () => {
      await outcomesOf(group);
      const inits = [application('migrate'), application('warm-up')];
      const change = (spec: V1PodSpec) => Object.assign(spec, { initContainers: inits });
      for (const kind of KINDS)
        for (const [name, annotations] of Object.entries(COMPARED))
          await compareStandIn(group.cni ? 'cni' : 'enabled', podOf({ name, annotations, change }, 'policy', kind));
      await compareStandIn('gateway', await gatewayPod());
    },
    SLOW,
  );
}

test('the golden file has no line that no cell makes', () => {
  if (process.env.IPNC_TEST_UPDATE) return;
  const names = new Set(groups.flatMap(({ cells }) => cells.map(({ name }) => name)));
  assert.deepEqual(
    [...golden.keys()].filter((name) => !names.has(name)),
    [],
  );
});
