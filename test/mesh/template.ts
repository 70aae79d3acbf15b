/** The values that the chart makes for istiod, with which istiod's own injector brings the gate (injection.mode=istio). */
import { parse } from 'yaml';
import { imageName } from '../cluster/images/images.ts';
import { render } from '../support/helm.ts';
import type { Values } from './mesh.ts';

/** The node must have the image pod-network-gate. */
export async function templateValues(wait: 'sidecar' | 'init'): Promise<Values> {
  const [repository, tag] = imageName('pod-network-gate').split(':');
  const gate = [`gateImage.repository=${repository}`, `gateImage.tag=${tag}`, 'image.pullPolicy=Never'];
  const set = ['injection.mode=istio', `injection.wait=${wait}`, ...gate];
  const [object] = await render(set, '--show-only', 'templates/istiod-values.yaml');
  const { data } = object as unknown as { data: Record<string, string> };
  return parse(data['values.yaml'] ?? '') as Values;
}
