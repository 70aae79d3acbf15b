/** A mutating webhook that does to pods what istiod's does, but for certificates, probes and metrics. */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import type { V1Container, V1Pod, V1Volume } from '@kubernetes/client-node';
import type { Kube } from '../../lib/sources/kube.ts';
import { fixture } from '../support/pods.ts';
import type { ControlPlane } from './control-plane.ts';

const NAME = 'istio-sidecar-injector';
const TOKEN = /^kube-api-access-/;

/** Labels of a namespace whose pods it injects; with the second as istiod does where `reinvocationPolicy` is IfNeeded. */
export const INJECTION = { 'istio-injection': 'enabled' };
export const INJECTION_TWICE = { 'istio-injection': 'twice' };

/** Serves until the control plane stops. */
export async function startIstiod(plane: ControlPlane, admin: Kube): Promise<void> {
  // This process's end of the link to the control plane (network.ts).
  const host = plane.network.address.v4.replace(/\.\d+$/, '.254');
  const { cert, key } = await plane.authority.issue({ name: 'istiod', hosts: [host] });
  const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) }, async (request, response) => {
    const { request: review } = JSON.parse(await text(request));
    const patch = Buffer.from(JSON.stringify(injection(review.object))).toString('base64');
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
  const webhook = (name: string, labels: Record<string, string>, reinvocationPolicy: string) => ({
    name,
    reinvocationPolicy,
    namespaceSelector: { matchLabels: labels },
    objectSelector: { matchExpressions: [{ key: 'sidecar.istio.io/inject', operator: 'NotIn', values: ['false'] }] },
    rules: [{ apiGroups: [''], apiVersions: ['v1'], operations: ['CREATE'], resources: ['pods'] }],
    clientConfig: { url: `https://${host}:${port}/inject`, caBundle: readFileSync(plane.authority.cert, 'base64') },
    admissionReviewVersions: ['v1'],
    sideEffects: 'None',
    failurePolicy: 'Fail',
  });
  await admin.post('/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations', {
    metadata: { name: NAME },
    webhooks: [
      webhook('namespace.sidecar-injector.istio.io', INJECTION, 'Never'),
      webhook('twice.sidecar-injector.istio.io', INJECTION_TWICE, 'IfNeeded'),
    ],
  });
}

function injection({ metadata = {}, spec }: V1Pod) {
  if (spec === undefined || spec.hostNetwork === true) return [];
  const annotations = metadata.annotations ?? {};
  const native = annotations['sidecar.istio.io/nativeSidecar'] !== 'false';
  const { init, proxy } = istioContainers(native);
  // Injecting anew, it first takes out what it injected before.
  const own = (containers: V1Container[] = []) => containers.filter(({ name }) => !/^istio-(init|proxy)$/.test(name));
  const initContainers = [init, ...(native ? [proxy] : []), ...own(spec.initContainers)];
  const containers = [...own(spec.containers), ...(native ? [] : [proxy])];
  const known = new Set((spec.volumes ?? []).map(({ name }) => name));
  const volumes = [...(spec.volumes ?? []), ...volumesOf(proxy).filter(({ name }) => !known.has(name))];
  const status = { initContainers: native ? [init.name, proxy.name] : [init.name], revision: 'default' };
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

export function volumesOf({ volumeMounts = [] }: V1Container): V1Volume[] {
  return volumeMounts.map(({ name }) => ({ name, emptyDir: {} }));
}
