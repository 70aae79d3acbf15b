/** Our admission policy in the mesh: the gate in istio-init's place. */
import { imageName } from '../cluster/images/images.ts';
import { until } from '../cluster/pods.ts';
import { applyPolicy } from '../cluster/policies.ts';
import { echoPod } from './echo.ts';
import { type Mesh, RESTRICTED } from './mesh.ts';

/** Applies it and waits until it changes pods. The node must have the image pod-network-gate. */
export async function usePolicy(mesh: Mesh, ...values: string[]): Promise<void> {
  const [repository, tag] = imageName('pod-network-gate').split(':');
  const image = [`gateImage.repository=${repository}`, `gateImage.tag=${tag}`, 'image.pullPolicy=Never'];
  await applyPolicy(mesh.cluster.controlPlane, 'templates/injection-policy.yaml', ...image, ...values);
  const body = echoPod('probe', { change: (spec) => Object.assign(spec, { serviceAccountName: 'default' }) });
  const probe = async () => {
    const made = await mesh.cluster.core
      .createNamespacedPod({ namespace: RESTRICTED, body, dryRun: 'All' })
      .catch(() => undefined);
    return made?.spec?.initContainers?.[0]?.name;
  };
  await until('in force: the injection policy', probe, (first) => first === 'pod-network-gate');
}
