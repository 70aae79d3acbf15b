/** Our admission policy in the mesh. */
import type { V1Container, V1Pod } from '@kubernetes/client-node';
import { imageName } from '../cluster/images/images.ts';
import { until } from '../cluster/pods.ts';
import { applyPolicyAs, deletePolicies } from '../cluster/policies.ts';
import { echoPod } from './echo.ts';
import { type Mesh, OUTSIDE, PRIVILEGED, RESTRICTED } from './mesh.ts';

export interface PolicyOptions {
  /** The gate is in istio-init's place (init, the default), or in front of the proxy of a native sidecar. */
  wait?: 'init' | 'sidecar';
  /** Of the namespaces that every mesh has, the only one whose pods it changes; all of them if absent. */
  only?: typeof RESTRICTED | typeof PRIVILEGED;
  /** More namespaces that it excludes. */
  except?: readonly string[];
}

/** Whether the gate is the first program of this container. */
export const isGated = ({ command }: V1Container): boolean => command?.[0]?.endsWith('/pod-network-gate') === true;

/**
 * Applies it and waits until it changes pods. The node must have the image pod-network-gate. Policies that differ in `wait`
 * can be in force at the same time, for different namespaces.
 */
export async function usePolicy(mesh: Mesh, { wait = 'init', only, except = [] }: PolicyOptions = {}): Promise<void> {
  const others = only === undefined ? [] : [RESTRICTED, PRIVILEGED, OUTSIDE].filter((name) => name !== only);
  const [repository, tag] = imageName('pod-network-gate').split(':');
  await applyPolicyAs(
    `-${wait}`,
    mesh.cluster.controlPlane,
    'templates/injection-policy.yaml',
    `injection.wait=${wait}`,
    `excludeNamespaces={${['kube-system', ...others, ...except]}}`,
    ...[`gateImage.repository=${repository}`, `gateImage.tag=${tag}`, 'image.pullPolicy=Never'],
  );
  const name = wait === 'init' ? 'pod-network-gate' : 'istio-proxy';
  await until(`in force: the injection policy, ${wait}`, prober(mesh, only ?? RESTRICTED), (made) => {
    const [first] = made?.spec?.initContainers ?? [];
    return first?.name === name && isGated(first);
  });
}

/** Deletes the policies and waits until no pod gets a gate. Pod Security may then refuse what istiod injects. */
export async function withdrawPolicies(mesh: Mesh): Promise<void> {
  await deletePolicies(mesh.cluster.controlPlane);
  for (const namespace of [RESTRICTED, PRIVILEGED]) {
    const ungated = (made?: V1Pod) => !made?.spec?.initContainers?.some(isGated);
    await until(`withdrawn: the injection policies, ${namespace}`, prober(mesh, namespace), ungated);
  }
}

/** Returns a function that asks what a pod of this namespace would become; undefined if it was refused. */
function prober({ cluster: { core } }: Mesh, namespace: string): () => Promise<V1Pod | undefined> {
  const change = (spec: { serviceAccountName?: string }) => Object.assign(spec, { serviceAccountName: 'default' });
  const body = echoPod('probe', { namespace, change });
  return () => core.createNamespacedPod({ namespace, body, dryRun: 'All' }).catch(() => undefined);
}
