/** The bundle that containerd makes for each sandbox: an OCI specification whose annotations name the pod. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { networkOf, type OciSpec } from '../oci.ts';

/** https://github.com/containerd/containerd/blob/main/internal/cri/annotations/annotations.go */
const ANNOTATION = 'io.kubernetes.cri.';

export interface Bundle {
  /** Whether it is a pod's sandbox. The other fields are those of the pod in any case. */
  sandbox: boolean;
  uid: string;
  namespace: string;
  name: string;
  /** Path on the node. */
  netnsPath: string | undefined;
  hostNetwork: boolean;
}

/** Rejects with Node's error if it cannot be read, or is not JSON. */
export async function readBundle(folder: string): Promise<Bundle> {
  return bundleOf(JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')) as OciSpec);
}

function bundleOf(spec: OciSpec): Bundle {
  const annotation = (name: string) => spec.annotations?.[ANNOTATION + name] ?? '';
  const { host, path } = networkOf(spec);
  return {
    sandbox: annotation('container-type') === 'sandbox',
    uid: annotation('sandbox-uid'),
    namespace: annotation('sandbox-namespace'),
    name: annotation('sandbox-name'),
    netnsPath: path,
    hostNetwork: host,
  };
}
