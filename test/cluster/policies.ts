/** The chart's admission policies, rendered by helm for the API server that they are then given to. */
import { join } from 'node:path';
import { IMAGE } from '../support/helm.ts';
import type { ControlPlane } from './control-plane.ts';
import { programs } from './programs.ts';
import { output } from './sandbox/sandbox.ts';

const CHART = join(import.meta.dirname, '../../chart/istio-pod-network-controller');

/** Of the release, and so of the controller's account. */
export const RELEASE_NAMESPACE = 'istio-system';

/** One template of the chart; rejects with what helm said. `values` are `--set`'s, `flags` of `helm template`. */
export async function renderPolicy(template: string, values: string[], flags: string[]): Promise<string> {
  const helm = (await programs(['helm'])).path('helm');
  const which = ['istio-pod-network-controller', CHART, '--namespace', RELEASE_NAMESPACE, '--show-only', template];
  return output([helm, 'template', ...which, ...IMAGE, ...values.flatMap((value) => ['--set', value]), ...flags]);
}

/**
 * Renders it for what this API server serves, and creates or changes its objects. They count a moment later. Without another
 * `injection.wait` pods wait in an init container, whatever the nodes can do.
 */
export function applyPolicy(plane: ControlPlane, template: string, ...values: string[]): Promise<void> {
  return applyPolicyAs('', plane, template, ...values);
}

/** The same with a suffix at the names of the objects: so two variants can be in force, for different namespaces. */
export async function applyPolicyAs(
  suffix: string,
  { kubeconfig }: ControlPlane,
  template: string,
  ...values: string[]
): Promise<void> {
  const flags = ['--dry-run=server', '--take-ownership', '--kubeconfig', kubeconfig];
  const rendered = await renderPolicy(template, ['injection.wait=init', ...values], flags);
  const text = rendered.replaceAll(/^ +(name|policyName): istio-pod-network-controller-\w+$/gm, `$&${suffix}`);
  const kubectl = await kubectlOf(kubeconfig);
  await output([...kubectl, 'apply', '--server-side', '--filename', '-'], { input: text });
}

/** Deletes every policy that changes objects. The API server can still apply it for a moment. */
export async function deletePolicies({ kubeconfig }: ControlPlane): Promise<void> {
  const kinds = 'mutatingadmissionpolicybindings,mutatingadmissionpolicies';
  await output([...(await kubectlOf(kubeconfig)), 'delete', kinds, '--all']);
}

async function kubectlOf(kubeconfig: string): Promise<string[]> {
  return [(await programs(['kubectl'])).path('kubectl'), '--kubeconfig', kubeconfig];
}
