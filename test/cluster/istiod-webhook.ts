/**
 * A stand-in for istiod: a mutating webhook that adds istio-init or istio-validation and istio-proxy to pods. It leaves out
 * certificates, probes and metrics. test/mesh/injection.test.ts and template.test.ts test what istiod itself makes of pods.
 *
 * The stand-in serves two tests of the injection policy:
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
const TOKEN = /^kube-api-access-/;

/** Label of a namespace whose pods it injects, and how: `twice` where its `reinvocationPolicy` is IfNeeded. */
export const injection = (how: 'enabled' | 'twice' | 'cni' | 'none' | 'gateway') => ({ 'istio-injection': how });

/** Serves until the control plane stops. */
export async function startIstiod(plane: ControlPlane, admin: ApiClient): Promise<void> {
  // This process's end of the link to the control plane (network.ts).
  const host = plane.network.address.v4.replace(/\.\d+$/, '.254');
  const { cert, key } = await plane.authority.issue({ name: 'istiod', hosts: [host] });
  const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) }, async (request, response) => {
    const { request: review } = JSON.parse(await text(request));
    const patch = Buffer.from(JSON.stringify(inject(review.object, /^\/\w+/.exec(request.url ?? '')?.[0]))).toString(
      'base64',
    );
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
  const webhook = (how: Parameters<typeof injection>[0]) => ({
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
    webhooks: (['enabled', 'twice', 'cni', 'none', 'gateway'] as const).map(webhook),
  });
}

function inject({ metadata = {}, spec }: V1Pod, path = '') {
  if (spec === undefined || spec.hostNetwork === true) return [];
  const annotations = metadata.annotations ?? {};
  if (path === '/gateway') {
    const at = spec.containers.findIndex(({ name }) => name === 'istio-proxy');
    const status = JSON.stringify({ containers: ['istio-proxy'] });
    return [
      { op: 'add', path: '/metadata/annotations', value: { ...annotations, 'sidecar.istio.io/status': status } },
      { op: 'add', path: `/spec/containers/${at}/args`, value: ['proxy', 'router'] },
    ];
  }
  const native = annotations['sidecar.istio.io/nativeSidecar'] !== 'false';
  const { init, proxy } = istioContainers(native);
  const inits = { '/cni': [validation(init)], '/none': [] }[path] ?? [init];
  if (path === '/none')
    proxy.env = proxy.env?.map((each) => (each.name === MODE ? { ...each, value: 'NONE' } : each)) ?? [];
  // Injecting anew, it first takes out what it injected before.
  const own = (containers: V1Container[] = []) => containers.filter(({ name }) => !/^istio-(init|proxy)$/.test(name));
  const initContainers = [...inits, ...(native ? [proxy] : []), ...own(spec.initContainers)];
  const containers = [...own(spec.containers), ...(native ? [] : [proxy])];
  const known = new Set((spec.volumes ?? []).map(({ name }) => name));
  const volumes = [...(spec.volumes ?? []), ...volumesOf(proxy).filter(({ name }) => !known.has(name))];
  const status = { initContainers: inits.map(({ name }) => name), revision: 'default' };
  const add = (path: string, value: unknown) => ({ op: 'add', path, value });
  return [
    add('/metadata/annotations', { ...annotations, 'sidecar.istio.io/status': JSON.stringify(status) }),
    add('/metadata/labels', { ...metadata.labels, 'security.istio.io/tlsMode': 'istio' }),
    add('/spec/initContainers', initContainers),
    add('/spec/containers', containers),
    add('/spec/volumes', volumes),
  ];
}

/** As today's injector makes them of its defaults. */
export function istioContainers(native: boolean): { init: V1Container; proxy: V1Container } {
  const { spec } = fixture('own-init') as V1Pod;
  const [init, proxy] = (spec?.initContainers ?? []).map((container) => ({
    ...container,
    volumeMounts: container.volumeMounts?.filter(({ name }) => !TOKEN.test(name)) ?? [],
  }));
  if (init === undefined || proxy === undefined) throw new Error('the fixture own-init has not both');
  const { restartPolicy, ...ordinary } = proxy;
  return { init, proxy: native ? { ...ordinary, restartPolicy: restartPolicy ?? 'Always' } : ordinary };
}

/** Of Istio's CNI mode. */
function validation({ args = [], image, name: _, ...init }: V1Container): V1Container {
  const securityContext = { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] }, runAsUser: 1337 };
  return {
    ...init,
    name: 'istio-validation',
    image: image ?? '',
    args: [...args, '--run-validation'],
    securityContext,
  };
}

export function volumesOf({ volumeMounts = [] }: V1Container): V1Volume[] {
  return volumeMounts.map(({ name }) => ({ name, emptyDir: {} }));
}
