/** The ids of the ways in which a pod joins a mesh or stays outside, as `--ways` accepts them. */
export const WAYS = [
  'none',
  'away',
  'istio-init',
  'istio-cni',
  'policy-sidecar',
  'policy',
  'template-sidecar',
  'template-init',
  'validation',
] as const;

export type WayId = (typeof WAYS)[number];
