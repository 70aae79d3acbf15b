/**
 * What OpenShift's SecurityContextConstraints admit, as data: the fields of its own that concern the pods of a mesh. No
 * OpenShift is needed, and none is asked. The rules are those of openshift/apiserver-library-go,
 * pkg/securitycontextconstraints; its admission first sets what a pod leaves open, and that is never refused.
 *
 * https://github.com/openshift/cluster-kube-apiserver-operator/tree/main/bindata/bootkube/scc-manifests
 */
import type { V1Pod } from '@kubernetes/client-node';

interface Range {
  min: number;
  max: number;
}

interface Constraints {
  /** `namespace`: the range in the namespace's annotation. */
  user: 'any' | 'non-root' | 'namespace' | Range;
  group?: Range;
  addedCapabilities: readonly string[];
  privilegeEscalation: boolean;
  /** Without it no profile may be set. */
  seccompProfile?: 'RuntimeDefault';
  /** The pod needs a user namespace of its own. */
  userNamespace?: true;
}

const V2 = {
  addedCapabilities: ['NET_BIND_SERVICE'],
  privilegeEscalation: false,
  seccompProfile: 'RuntimeDefault',
} as const;
const IN_POD = { min: 1000, max: 65534 };

export const CONSTRAINTS = {
  'restricted-v2': { ...V2, user: 'namespace' },
  'restricted-v3': { ...V2, user: IN_POD, group: IN_POD, userNamespace: true },
  'nonroot-v2': { ...V2, user: 'non-root' },
  anyuid: { user: 'any', addedCapabilities: [], privilegeEscalation: true },
} as const satisfies Record<string, Constraints>;

/** Of each volume that a mesh pod has; all four admit the same. */
const VOLUMES = new Set([
  'configMap',
  'csi',
  'downwardAPI',
  'emptyDir',
  'ephemeral',
  'persistentVolumeClaim',
  'projected',
  'secret',
]);

/** `1000660000/10000`, with the size, or `1000660000-1000669999`. */
const UID_RANGE = 'openshift.io/sa.scc.uid-range';

function namespaceRange(annotations: Record<string, string>): Range | undefined {
  const [, first = '', separator = '', second = ''] = /^(\d+)([/-])(\d+)$/.exec(annotations[UID_RANGE] ?? '') ?? [];
  if (first === '') return undefined;
  const min = Number(first);
  return { min, max: separator === '/' ? min + Number(second) - 1 : Number(second) };
}

/** Why they do not admit the pod; empty if they do. `annotations` are the namespace's. */
export function refusals(
  name: keyof typeof CONSTRAINTS,
  { spec }: V1Pod,
  annotations: Record<string, string> = {},
): string[] {
  const constraints: Constraints = CONSTRAINTS[name];
  const { user, group, addedCapabilities, privilegeEscalation, seccompProfile, userNamespace } = constraints;
  const range = user === 'namespace' ? namespaceRange(annotations) : user;
  if (range === undefined) return [`the namespace has no ${UID_RANGE}`];
  const found: string[] = [];
  const within = (what: string, id: number | undefined, { min, max }: Range) => {
    if (id !== undefined && (id < min || id > max)) found.push(`${what} ${id} is not from ${min} to ${max}`);
  };
  const pod = spec?.securityContext ?? {};
  if (userNamespace && spec?.hostUsers !== false) found.push('the pod has no user namespace of its own');
  if (spec?.hostNetwork || spec?.hostPID || spec?.hostIPC) found.push('a namespace of the host');
  for (const { name, ...volume } of spec?.volumes ?? []) {
    for (const kind of Object.keys(volume)) if (!VOLUMES.has(kind)) found.push(`volume ${name} is a ${kind}`);
  }
  const seccomp = (what: string, type: string | undefined) => {
    if (type !== undefined && type !== seccompProfile) found.push(`${what}: seccomp ${type} may not be set`);
  };
  seccomp('pod', pod.seccompProfile?.type);
  for (const { name, securityContext = {} } of [...(spec?.initContainers ?? []), ...(spec?.containers ?? [])]) {
    const { runAsUser = pod.runAsUser, runAsGroup = pod.runAsGroup, capabilities = {} } = securityContext;
    if (range === 'non-root') {
      if (runAsUser === 0) found.push(`${name}: user 0`);
    } else if (range !== 'any') {
      within(`${name}: user`, runAsUser, range);
    }
    if (group) within(`${name}: group`, runAsGroup, group);
    if (securityContext.privileged) found.push(`${name}: privileged`);
    if (securityContext.allowPrivilegeEscalation && !privilegeEscalation) found.push(`${name}: privilege escalation`);
    const refused = (capabilities.add ?? []).filter((capability) => !addedCapabilities.includes(capability));
    if (refused.length > 0) found.push(`${name}: capabilities ${refused}`);
    seccomp(name, securityContext.seccompProfile?.type);
  }
  return found;
}
