/** Where paths of the node are in this process's file system. */
import { join } from 'node:path';

/** Where runtimes keep netns. A path on the node. */
export const NETNS_FOLDER = '/run/netns';

/**
 * `root` is where the node's files are mounted: empty or `/` on the node itself, `/host` in a container with a mount
 * there. Runtimes name /var/run, which is a link to /run; under another root that link would lead out of the root.
 */
export function onNode(root: string, path: string): string {
  return join(root, path.replace(/^\/var\/run(?=\/|$)/, '/run')) || '/';
}
