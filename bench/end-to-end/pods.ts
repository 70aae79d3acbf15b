/** Pods of the same two containers that wait for their rules in different ways, or not at all. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { V1Container, V1Pod } from '@kubernetes/client-node';
import { STATUS } from '../../lib/istio/names.ts';
import { imageName } from '../../test/cluster/images/images.ts';
import { INITIALIZE, meshPod } from '../../test/cluster/mesh-pod.ts';

/**
 * without: not in the mesh, nothing waits. ours: waits in our gate. poll: the rules are ours, and waited for as the
 * original does it, by reading a downward API file each ten seconds.
 */
export type Kind = 'without' | 'ours' | 'poll';

/** Absent where the gate is not built: then nothing waits in a pod of ours either. */
export const GATE = existsSync(fileURLToPath(new URL('../../build/Release/gate', import.meta.url)));
export const WAITER = 'waiter';

const ANNOTATIONS_FILE = '/etc/podinfo/pod_annotations';
const POLL = `const look = () => {
  if (require('node:fs').readFileSync('${ANNOTATIONS_FILE}', 'utf8').includes('${STATUS}="initialized"')) console.log('open');
  else setTimeout(look, 10_000);
};
look();`;

export function podOf(kind: Kind, name: string): V1Pod {
  const made = meshPod(name, kind === 'without' ? { annotations: { [INITIALIZE]: 'false' } } : {});
  const [validation, proxy] = made.spec?.initContainers ?? [];
  if (made.spec === undefined || validation === undefined || proxy === undefined)
    throw new Error('not a pod of the mesh');
  const waiter: V1Container = { ...validation, name: WAITER, image: imageName('istio-pod-network-controller') };
  if (kind === 'ours' && GATE) {
    waiter.command = ['/usr/local/bin/pod-network-gate'];
  } else if (kind === 'poll') {
    waiter.command = ['/usr/local/bin/node', '-e', POLL];
    waiter.args = [];
    waiter.volumeMounts = [{ name: 'podinfo', mountPath: '/etc/podinfo' }];
    const items = [{ path: 'pod_annotations', fieldRef: { fieldPath: 'metadata.annotations' } }];
    made.spec.volumes = [{ name: 'podinfo', downwardAPI: { items } }];
  }
  made.spec.initContainers = waits(kind) ? [waiter, proxy] : [proxy];
  return made;
}

export function waits(kind: Kind): boolean {
  return kind === 'poll' || (kind === 'ours' && GATE);
}
