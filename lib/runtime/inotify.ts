/** New files in the folder where the runtime keeps netns. They do not name the pod, so the runtime's list is asked. */
import { existsSync } from 'node:fs';
import { watch } from 'node:fs/promises';
import { join } from 'node:path';
import { onNode } from './node-paths.ts';
import type { EventSource } from './source.ts';

export const inotify: EventSource = {
  name: 'inotify',

  async connect({ hostRoot, netnsFolder }, signal) {
    const folder = onNode(hostRoot, netnsFolder);
    if (!existsSync(folder)) throw new Error(`${folder} does not exist`);
    return async ({ poller }) => {
      for await (const { eventType, filename } of watch(folder, { signal })) {
        if (eventType !== 'rename' || filename === null) continue;
        if (existsSync(join(folder, filename))) poller.expect(filename);
        else poller.dismiss(filename);
      }
    };
  },
};
