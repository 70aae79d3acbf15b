/** The bundle that containerd makes for each sandbox: an OCI specification whose annotations name the pod. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { annotationOf, networkOf } from '../oci.ts';

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

/** Longer than a specification can be: the API server accepts pods of 1.5 MB. */
const MOST_BYTES = 16 * 1024 * 1024;

/** Rejects with an error of Node if it cannot be read, or is not JSON, and with Error if it is no file or too long. */
export async function readBundle(folder: string): Promise<Bundle> {
  const path = join(folder, 'config.json');
  // A FIFO would otherwise block one of the few threads that read files.
  await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const stats = await file.stat();
  if (!stats.isFile() || stats.size > MOST_BYTES)
    throw new Error(`${path}: expected a file of at most ${MOST_BYTES} bytes`);
  return parseBundle(await file.readFile('utf8'));
}

/** Throws SyntaxError if it is not JSON. */
export function parseBundle(config: string): Bundle {
  const spec: unknown = JSON.parse(config);
  const annotation = (name: string) => annotationOf(spec, ANNOTATION + name);
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
