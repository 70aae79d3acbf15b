/** New files in the folder where the runtime keeps netns. They do not name the pod, so the runtime's list is asked. */
import { existsSync } from 'node:fs';
import { watch } from 'node:fs/promises';
import { join } from 'node:path';
import { onNode } from './node-paths.ts';
import type { EventSource } from './source.ts';

export const inotify: EventSource = {
  name: 'inotify',

  async lack({ hostRoot, netnsFolder }) {
    const folder = onNode(hostRoot, netnsFolder);
    return existsSync(folder) ? undefined : `${folder} does not exist`;
  },

  async follow({ hostRoot, netnsFolder, poller, signal }) {
    const folder = onNode(hostRoot, netnsFolder);
    for await (const { eventType, filename } of watch(folder, { signal })) {
      if (eventType !== 'rename' || filename === null) continue;
      if (existsSync(join(folder, filename))) poller.expect(filename);
      else poller.dismiss(filename);
    }
  },
};
