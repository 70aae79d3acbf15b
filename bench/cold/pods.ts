/** The pods of a cold node: a native sidecar and an application, without the gate or with it in one of its two places. */
import type { V1Pod } from '@kubernetes/client-node';
import { gatedPod, INITIALIZE, meshPod, sidecarPod } from '../../test/cluster/mesh-pod.ts';

/**
 * without: the pod is not in the mesh, and the node has no controller. init: the gate is an init container. sidecar: the gate
 * is in the proxy's container.
 */
export const NAMES = {
  without: 'without ipnc: nothing waits',
  init: 'the gate as an init container',
  sidecar: "the gate in the proxy's container",
} as const;
export type Kind = keyof typeof NAMES;
export const KINDS = Object.keys(NAMES) as Kind[];

/** The container that has the gate. */
export const GATE_IN = { init: 'pod-network-gate', sidecar: 'istio-proxy' } as const;

export function podOf(kind: Kind, name: string): V1Pod {
  if (kind === 'init') return gatedPod(name);
  if (kind === 'sidecar') return gateInSidecar(name);
  const made = meshPod(name, { annotations: { [INITIALIZE]: 'false' } });
  const [, ...proxy] = made.spec?.initContainers ?? [];
  return { ...made, spec: { containers: [], ...made.spec, initContainers: proxy } };
}

/** `gate`: the image that has it, if it is not to be the node's own. */
export function gateInSidecar(name: string, gate?: string): V1Pod {
  const made = sidecarPod(name, { app: ['serve', '--name', name, '--tcp', '8080'] });
  const volumes =
    gate === undefined
      ? made.spec?.volumes
      : made.spec?.volumes?.map((volume) => ({ ...volume, image: { reference: gate } }));
  return { ...made, spec: { containers: [], ...made.spec, restartPolicy: 'Always', ...(volumes && { volumes }) } };
}
