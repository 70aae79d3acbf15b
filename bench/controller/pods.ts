/** Pods as the API server sends them: injected by Istio in CNI mode, made of pieces that are made once. */
import { fixture } from '../../test/support/pods.ts';
import { delimited, encode, field, type Pieces } from '../../test/support/protobuf.ts';

export const NODE = 'node-1';
export const NAMESPACE = 'bookinfo';
/** The stand-in for the API server answers 500 to each patch of a pod whose name begins like this. */
export const REFUSED = 'refused-';
/** Of JSON, without what the API server adds. */
const BYTES = 12_000;
/**
 * Of the same pod from a real kube-apiserver 1.36: with managedFields and defaults, 16.0 KB of JSON, 12.6 KB of protobuf.
 * ObjectMeta's field 17 is managedFields.
 */
const PROTOBUF_BYTES = 12_600;
const MANAGED_FIELDS = 17;
const TERMINATING = '2026-01-01T00:00:00Z';
const POD_IPS = [{ ip: '10.244.1.21' }, { ip: 'fd00:10:244:1::15' }];

export interface StoredPod {
  name: string;
  uid: string;
  version: number;
  node: string;
  phase: 'Pending' | 'Running';
  terminating: boolean;
  annotations: Record<string, string>;
  conditions: Record<string, unknown>[];
}

interface Template {
  metadata: { annotations: Record<string, string>; [field: string]: unknown };
  spec: Record<string, unknown>;
  status?: Record<string, unknown>;
}

function template(): Template {
  const pod = fixture('native-cni') as Template;
  for (const { name, env } of (pod.spec as { initContainers: { name: string; env: object[] }[] }).initContainers)
    if (name === 'istio-proxy') env.push({ name: 'ISTIO_DUAL_STACK', value: 'true' });
  const missing = BYTES - JSON.stringify(pod).length;
  // As what `kubectl apply` or a CNI plugin leaves there.
  if (missing > 0) pod.metadata.annotations['example.com/last-applied'] = 'x'.repeat(missing);
  return pod;
}

let injected: Template | undefined;

/** A pod to be created in a real API server, which admits any that is bound to a node already. */
export function podToCreate(name: string, node = NODE): unknown {
  injected ??= template();
  const { metadata, spec } = injected;
  const { labels, annotations } = metadata;
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: NAMESPACE, labels, annotations },
    spec: {
      ...spec,
      nodeName: node,
      priorityClassName: undefined,
      serviceAccountName: 'default',
      serviceAccount: undefined,
    },
  };
}

/** Makes JSON texts of pods. */
export function podWriter(): (pod: StoredPod) => string {
  const pod = template();
  Object.assign(pod.metadata, {
    name: '@name@',
    uid: '@uid@',
    namespace: NAMESPACE,
    resourceVersion: '@version@',
    '@terminating@': '',
  });
  pod.metadata.annotations['@annotations@'] = '';
  pod.spec.nodeName = '@node@';
  const scheduled = { type: 'PodScheduled', status: 'True', lastTransitionTime: '2026-01-01T00:00:00Z' };
  pod.status = { phase: '@phase@', conditions: [scheduled, '@conditions@'], '@ips@': '' };
  const pieces = JSON.stringify(pod).split(/(,"@(?:terminating|annotations|ips)@":""|,"@conditions@"|@\w+@)/);
  const values: Record<string, (pod: StoredPod) => string> = {
    name: ({ name }) => name,
    uid: ({ uid }) => uid,
    version: ({ version }) => String(version),
    node: ({ node }) => node,
    phase: ({ phase }) => phase,
    terminating: ({ terminating }) => (terminating ? `,"deletionTimestamp":"${TERMINATING}"` : ''),
    ips: ({ phase }) => (phase === 'Running' ? `,"podIPs":${JSON.stringify(POD_IPS)}` : ''),
    annotations: ({ annotations }) =>
      Object.entries(annotations)
        .map(([key, value]) => `,${JSON.stringify(key)}:${JSON.stringify(value)}`)
        .join(''),
    conditions: ({ conditions }) => conditions.map((condition) => `,${JSON.stringify(condition)}`).join(''),
  };
  const writers = pieces.map((piece) => values[/@(\w+)@/.exec(piece)?.[1] ?? ''] ?? (() => piece));
  return (stored) => {
    let text = '';
    for (const write of writers) text += write(stored);
    return text;
  };
}

export interface PodEncoder {
  /** A Pod of protobuf, without what is around an object. */
  pod(pod: StoredPod): Pieces;
  /** Its ObjectMeta. */
  metadata(pod: StoredPod): Pieces;
}

export function podEncoder(): PodEncoder {
  const { metadata: given, spec } = template();
  const specPart = encode('Pod', { spec: { ...spec, nodeName: NODE } });
  const { labels, annotations } = given;
  const named = encode('ObjectMeta', { namespace: NAMESPACE, labels, annotations });
  const filler = delimited(MANAGED_FIELDS, Buffer.alloc(PROTOBUF_BYTES - specPart.length - named.length));
  const fixed = Buffer.concat([named, filler]);
  const metadata = ({ name, uid, version, terminating, annotations }: StoredPod) => {
    const deletion = terminating && { deletionTimestamp: { seconds: Date.parse(TERMINATING) / 1000 } };
    return [encode('ObjectMeta', { name, uid, resourceVersion: String(version), annotations, ...deletion }), fixed];
  };
  return {
    metadata,
    pod: (stored) => {
      const { phase, conditions } = stored;
      const status = { phase, conditions, ...(phase === 'Running' && { podIPs: POD_IPS }) };
      return [...field(1, metadata(stored)), specPart, encode('Pod', { status })];
    },
  };
}
