/**
 * A stand-in for istiod: a mutating webhook that adds istio-init or istio-validation and istio-proxy to pods, in istiod's order
 * and with its arguments. It leaves out certificates, probes of the application and metrics. test/mesh/injection.test.ts compares
 * it with istiod.
 *
 * It serves what istiod cannot be told to do:
 * - injection.test.ts needs an injector in five modes at the same time, one for each namespace, so that a pod and its twin
 *   that the policy excludes are compared in one request each. An istiod has one mode until it is configured anew.
 * - admission-cost.test.ts measures the API server with the largest pods that it takes. istiod would need a node, and would
 *   take part of the time that is measured.
 */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import type { V1Container, V1Pod, V1Volume } from '@kubernetes/client-node';
import type { ApiClient } from '../../lib/kube/client.ts';
import { fixture } from '../support/pods.ts';
import type { ControlPlane } from './control-plane.ts';

const NAME = 'istio-sidecar-injector';
const MODE = 'ISTIO_META_INTERCEPTION_MODE';
const STATUS = 'sidecar.istio.io/status';
const TOKEN = /^kube-api-access-/;

/**
 * How it injects a pod. enabled: as istiod does by default. twice: the same, and `reinvocationPolicy` is IfNeeded. cni: with
 * `pilot.cni.enabled`. none: the mesh's interception mode is NONE. gateway: with the gateway template.
 */
const HOW = ['enabled', 'twice', 'cni', 'none', 'gateway'] as const;
type How = (typeof HOW)[number];

/** Label of a namespace whose pods it injects in this way. */
export const injection = (how: How) => ({ 'istio-injection': how });

/** Serves until the control plane stops. */
export async function startIstiod(plane: ControlPlane, admin: ApiClient): Promise<void> {
  // This process's end of the link to the control plane (network.ts).
  const host = plane.network.address.v4.replace(/\.\d+$/, '.254');
  const { cert, key } = await plane.authority.issue({ name: 'istiod', hosts: [host] });
  const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) }, async (request, response) => {
    const { request: review } = JSON.parse(await text(request));
    const how = HOW.find((each) => request.url?.startsWith(`/${each}`)) ?? 'enabled';
    const { metadata, spec } = inject(review.object, how);
    const changes = [
      { op: 'add', path: '/metadata/annotations', value: metadata?.annotations ?? {} },
      { op: 'add', path: '/metadata/labels', value: metadata?.labels ?? {} },
      { op: 'replace', path: '/spec', value: spec },
    ];
    const patch = Buffer.from(JSON.stringify(changes)).toString('base64');
    const answer = { uid: review.uid, allowed: true, patchType: 'JSONPatch', patch };
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ apiVersion: 'admission.k8s.io/v1', kind: 'AdmissionReview', response: answer }));
  });
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  plane.onStop(async () => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  const webhook = (how: How) => ({
    name: `${how}.sidecar-injector.istio.io`,
    reinvocationPolicy: how === 'twice' ? 'IfNeeded' : 'Never',
    namespaceSelector: { matchLabels: injection(how) },
    objectSelector: { matchExpressions: [{ key: 'sidecar.istio.io/inject', operator: 'NotIn', values: ['false'] }] },
    rules: [{ apiGroups: [''], apiVersions: ['v1'], operations: ['CREATE'], resources: ['pods'] }],
    clientConfig: { url: `https://${host}:${port}/${how}`, caBundle: readFileSync(plane.authority.cert, 'base64') },
    admissionReviewVersions: ['v1'],
    sideEffects: 'None',
    failurePolicy: 'Fail',
  });
  await admin.post('/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations', {
    metadata: { name: NAME },
    webhooks: HOW.map(webhook),
  });
}

/** As pkg/kube/inject/webhook.go and the templates of istiod's chart make it. */
export function inject(pod: V1Pod, how: How): V1Pod {
  const { metadata = {}, spec } = structuredClone(pod);
  if (spec === undefined || spec.hostNetwork === true) return pod;
  const { [STATUS]: before, ...annotations } = metadata.annotations ?? {};
  const labels = metadata.labels ?? {};
  const made = (status: Status, more: Record<string, string> = {}): V1Pod => {
    const all = { ...annotations, ...more, [STATUS]: JSON.stringify({ ...status, revision: 'default' }) };
    return { ...pod, metadata: { ...metadata, labels, annotations: all }, spec };
  };
  if (how === 'gateway') {
    for (const each of spec.containers.filter(({ name }) => name === 'istio-proxy')) {
      each.args = ['proxy', 'router'];
      each.env = [...(each.env ?? []), { name: MODE, value: 'REDIRECT' }];
    }
    return made({ initContainers: null, containers: ['istio-proxy'] });
  }
  labels['security.istio.io/tlsMode'] = 'istio';
  const native = annotations['sidecar.istio.io/nativeSidecar'] !== 'false';
  const mode = annotations['sidecar.istio.io/interceptionMode'] ?? (how === 'none' ? 'NONE' : 'REDIRECT');
  const { init, proxy } = istioContainers(native);
  for (const each of proxy.env ?? []) if (each.name === MODE) each.value = mode;
  init.args = argumentsOf(mode, annotations);
  const waiters = mode === 'NONE' ? [] : [how === 'cni' ? validation(init) : init];

  // When it injects a pod again, it first takes out what it injected before.
  const { initContainers = [], containers = [] } = JSON.parse(before ?? '{}') as Partial<Status>;
  const injected = [...(initContainers ?? []), ...(containers ?? [])];
  const own = (all: V1Container[] = []) => all.filter(({ name }) => !injected.includes(name));
  // An init container that runs before the rules has a network, although no ordinary sidecar runs yet: istio-init is the
  // last one.
  const [first, last] = native || how === 'cni' ? [waiters, []] : [[], waiters];
  spec.initContainers = [...first, ...(native ? [proxy] : []), ...own(spec.initContainers), ...last];
  spec.containers = [...own(spec.containers), ...(native ? [] : [proxy])];
  const known = new Set((spec.volumes ?? []).map(({ name }) => name));
  spec.volumes = [...(spec.volumes ?? []), ...volumesOf(proxy).filter(({ name }) => !known.has(name))];
  const names = [...waiters, ...(native ? [proxy] : [])].map(({ name }) => name);
  const status = { initContainers: names.length > 0 ? names : null, containers: native ? null : ['istio-proxy'] };
  return made(status, how === 'cni' ? trafficOf(mode, annotations) : {});
}

/** Of the annotation: what istiod added, by name. */
interface Status {
  initContainers: string[] | null;
  containers: string[] | null;
}

/** Of today's injector, with its defaults. */
export function istioContainers(native: boolean): { init: V1Container; proxy: V1Container } {
  const { spec } = fixture('own-init') as V1Pod;
  const [init, proxy] = (spec?.initContainers ?? []).map((container) => ({
    ...container,
    volumeMounts: container.volumeMounts?.filter(({ name }) => !TOKEN.test(name)) ?? [],
  }));
  if (init === undefined || proxy === undefined) throw new Error('the fixture own-init has not both');
  if (native) return { init, proxy };
  // Only a native sidecar is drained before it stops.
  const { restartPolicy: _, lifecycle: __, ...ordinary } = proxy;
  return { init, proxy: ordinary };
}

type Annotations = Readonly<Record<string, string>>;

const traffic = (annotations: Annotations, name: string) => annotations[`traffic.sidecar.istio.io/${name}`];
/** The port of the agent's health and metrics is always excluded. */
const excludedInbound = (annotations: Annotations) =>
  [traffic(annotations, 'excludeInboundPorts'), '15020'].filter(Boolean).join(',');

function argumentsOf(mode: string, annotations: Annotations): string[] {
  const said = (name: string) => traffic(annotations, name);
  const optional = (flag: string, value: string | undefined) => (value === undefined ? [] : [flag, value]);
  return [
    ...['istio-iptables', '-p', '15001', '-z', '15006', '-u', '1337', '-m', mode],
    ...['-i', said('includeOutboundIPRanges') ?? '*', '-x', said('excludeOutboundIPRanges') ?? ''],
    ...['-b', said('includeInboundPorts') ?? '*', '-d', `15090,15021,${excludedInbound(annotations)}`],
    ...optional('-q', said('includeOutboundPorts')),
    ...optional('-o', said('excludeOutboundPorts')),
    ...optional('-k', annotations['istio.io/reroute-virtual-interfaces']),
    ...optional('-c', said('excludeInterfaces')),
    '--log_output_level=default:info',
  ];
}

/** The annotations by which istio-cni learns the pod's settings. */
function trafficOf(mode: string, annotations: Annotations): Record<string, string> {
  return {
    'sidecar.istio.io/interceptionMode': mode,
    'traffic.sidecar.istio.io/includeOutboundIPRanges': traffic(annotations, 'includeOutboundIPRanges') ?? '*',
    'traffic.sidecar.istio.io/includeInboundPorts': traffic(annotations, 'includeInboundPorts') ?? '*',
    'traffic.sidecar.istio.io/excludeInboundPorts': excludedInbound(annotations),
  };
}

/** Of Istio's CNI mode. */
function validation({ args = [], ...init }: V1Container): V1Container {
  return {
    ...init,
    name: 'istio-validation',
    args: [...args, '--run-validation', '--skip-rule-apply'],
    securityContext: {
      allowPrivilegeEscalation: false,
      privileged: false,
      capabilities: { drop: ['ALL'] },
      readOnlyRootFilesystem: true,
      runAsGroup: 1337,
      runAsNonRoot: true,
      runAsUser: 1337,
    },
  };
}

export function volumesOf({ volumeMounts = [] }: V1Container): V1Volume[] {
  return volumeMounts.map(({ name }) => ({ name, emptyDir: {} }));
}
