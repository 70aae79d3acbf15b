/** Decides which pods get rules. Each decision against a pod has a reason with a stable name. */

import { ConfigError } from '../errors.ts';
import { boolean } from '../options/values.ts';
import { hasOwnInit, PROXY, proxyOf, proxyType } from './containers.ts';
import { BUILD, DEPLOYER, DISABLE_ENVOY, INITIALIZE, INJECT, INJECTED } from './names.ts';
import type { NamespaceRecord, PodRecord } from './pod.ts';

/**
 * Why the controller installs no rules for a pod. The names are labels of a metric, so they must not change.
 * docs/operate.md has this table.
 */
export const SKIP_REASONS = {
  self: "it is the controller's own pod",
  finished: 'its phase is neither Pending nor Running',
  terminating: 'it is being deleted',
  'host-network': "it uses the node's network, so its rules would apply to the node",
  'excluded-namespace': 'its namespace is one of `excludeNamespaces`',
  'openshift-deployer': 'it is a deployer pod of OpenShift',
  'openshift-build': 'it is a build pod of OpenShift',
  'invalid-annotation': `its annotation \`${INITIALIZE}\`, or that of its namespace, is neither true nor false`,
  'opted-out': `its annotation \`${INITIALIZE}\`, or that of its namespace, is "false"`,
  'own-init': 'its own privileged init container `istio-init` writes its rules',
  'envoy-disabled': `\`${DISABLE_ENVOY}\` is set for \`${PROXY}\``,
  'no-proxy': `it has no container \`${PROXY}\`. Only the annotation \`${INITIALIZE}: "true"\` on the pod itself enrolls such a pod, not that on its namespace`,
  'not-a-sidecar': 'its proxy is not a sidecar, but for example a gateway',
  'inject-false': `its label or annotation \`${INJECT}\` is "false"`,
  'not-injected': `it has no annotation \`${INJECTED}\`, which Istio's injector writes, and neither it nor its namespace has the annotation \`${INITIALIZE}: "true"\``,
  'not-annotated': `neither it nor its namespace has the annotation \`${INITIALIZE}\`, and \`enroll\` is "annotation"`,
};

export type SkipReason = keyof typeof SKIP_REASONS;

export type Decision =
  | { enroll: true; by: 'annotation' | 'istio' }
  | { enroll: false; reason: SkipReason; message: string }
  /** The decision needs the namespace, which is not known yet. */
  | { enroll: undefined; wait: 'namespace'; message: string };

export interface PolicyOptions {
  /** What enrolls a pod: the original controller's annotation, Istio's injection in CNI mode, or either. */
  enroll: 'annotation' | 'istio' | 'both';
  excludeNamespaces: readonly string[];
  /** This controller's own pod: by uid, or by namespace and name. */
  self: { uid?: string; namespace?: string; name?: string };
}

/**
 * Applies these rules in order; the first one that applies decides:
 *
 * 1. Some pods never get rules, whatever their annotations: the controller itself, a pod that has finished or is being
 *    deleted, a pod on the host's network (its rules would apply to the node), a pod of an excluded namespace, and
 *    OpenShift's deployer and build pods.
 * 2. The annotation `istio-pod-network-controller/initialize` of the pod takes precedence over that of its namespace.
 *    "false" opts the pod out in every mode. "true" enrolls it if `enroll` is annotation or both. With any other value
 *    the pod gets no rules until the value is corrected.
 * 3. "true" on the pod itself is enough. "true" on a namespace concerns all of its pods, even those that already run.
 *    It does not enroll the pods that rule 4 excludes: they have no proxy for the traffic, or redirect it themselves, and
 *    our rules would cut them off.
 * 4. Istio's own exclusions, in istio-cni's order (istio/cni/pkg/plugin/plugin.go): the pod has its own istio-init;
 *    DISABLE_ENVOY is set; there is no istio-proxy, neither container nor native sidecar; the proxy is not a sidecar, but
 *    for example a gateway; `sidecar.istio.io/inject` is false, where the label takes precedence over the annotation; and,
 *    unless the annotation enrolls the pod, Istio has not injected it.
 *
 * The original controller's istio-init only waits, so it does not count as the pod's own istio-init.
 */
export function decide(pod: PodRecord, namespace: NamespaceRecord | undefined, options: PolicyOptions): Decision {
  const never = outOfBounds(pod, options);
  if (never !== undefined) return never;

  const own = pod.metadata.annotations[INITIALIZE];
  if (own === undefined && namespace === undefined) {
    const message = `namespace ${pod.metadata.namespace} is not known yet`;
    return { enroll: undefined, wait: 'namespace', message };
  }
  const place = own === undefined ? `namespace ${pod.metadata.namespace}` : 'the pod';
  const word = own ?? namespace?.metadata.annotations[INITIALIZE];
  let wanted: boolean | undefined;
  try {
    if (word !== undefined) wanted = boolean(word, { field: `annotation ${INITIALIZE} of ${place}`, source: 'pod' });
  } catch (error) {
    if (error instanceof ConfigError) return skip('invalid-annotation', error.message);
    throw error;
  }
  if (wanted === false) return skip('opted-out', `${place} is annotated ${INITIALIZE}: "false"`);

  const byAnnotation = wanted === true && options.enroll !== 'istio';
  if (byAnnotation && own !== undefined) return { enroll: true, by: 'annotation' };
  if (!byAnnotation && options.enroll === 'annotation') {
    return skip('not-annotated', `neither the pod nor its namespace is annotated ${INITIALIZE}: "true"`);
  }
  const unfit = notForIstio(pod);
  if (unfit !== undefined) return unfit;
  if (byAnnotation) return { enroll: true, by: 'annotation' };
  if (pod.metadata.annotations[INJECTED] === undefined) {
    return skip('not-injected', `there is no annotation ${INJECTED}, which Istio's injector writes`);
  }
  return { enroll: true, by: 'istio' };
}

function outOfBounds({ metadata, spec, status }: PodRecord, { excludeNamespaces, self }: PolicyOptions) {
  const isSelf =
    self.uid === undefined
      ? self.name === metadata.name && self.namespace === metadata.namespace
      : self.uid === metadata.uid;
  if (isSelf) return skip('self', SKIP_REASONS.self);
  if (status.phase !== 'Pending' && status.phase !== 'Running') return skip('finished', `its phase is ${status.phase}`);
  if (metadata.deletionTimestamp !== undefined) return skip('terminating', SKIP_REASONS.terminating);
  if (spec.hostNetwork) return skip('host-network', SKIP_REASONS['host-network']);
  if (excludeNamespaces.includes(metadata.namespace)) {
    return skip('excluded-namespace', `namespace ${metadata.namespace} is excluded`);
  }
  const has = (name: string) => metadata.annotations[name] !== undefined || metadata.labels[name] !== undefined;
  if (has(DEPLOYER)) return skip('openshift-deployer', SKIP_REASONS['openshift-deployer']);
  if (has(BUILD)) return skip('openshift-build', SKIP_REASONS['openshift-build']);
  return undefined;
}

function notForIstio(pod: PodRecord) {
  const { annotations, labels } = pod.metadata;
  const proxy = proxyOf(pod);
  if (hasOwnInit(pod)) return skip('own-init', 'its own init container istio-init writes its rules');
  const disabled = proxy?.env?.findLast(({ name }) => name === DISABLE_ENVOY)?.value;
  if (truth(disabled) === true) return skip('envoy-disabled', `${DISABLE_ENVOY} is set for ${PROXY}`);
  if (proxy === undefined) return skip('no-proxy', `there is no container ${PROXY}`);
  const type = proxyType(proxy) ?? 'sidecar';
  if (type !== 'sidecar') return skip('not-a-sidecar', `its proxy is not a sidecar, but a ${JSON.stringify(type)}`);
  const inject = labels[INJECT] ?? annotations[INJECT];
  if (truth(inject) === false) return skip('inject-false', `it is labelled or annotated ${INJECT}: "false"`);
  return undefined;
}

function skip(reason: SkipReason, message: string): Decision & { enroll: false } {
  return { enroll: false, reason, message };
}

/** Reads a boolean like Istio: any other text counts as absent. */
function truth(text: string | undefined): boolean | undefined {
  try {
    return text === undefined ? undefined : boolean(text, { field: '', source: 'pod' });
  } catch {
    return undefined;
  }
}
