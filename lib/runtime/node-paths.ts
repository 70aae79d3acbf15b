/** Where paths of the node are in this process's file system. */
import { join } from 'node:path';

/** Where runtimes keep netns; path on the node. */
export const NETNS_FOLDER = '/run/netns';

/**
 * `root` is where the node's files are: empty or `/` when they are where they belong, `/host` in a container with
 * a mount there. A runtime says /var/run, which is a link to /run; under another root that link would lead out of it.
 */
export function onNode(root: string, path: string): string {
  return join(root, path.replace(/^\/var\/run(?=\/|$)/, '/run')) || '/';
}
