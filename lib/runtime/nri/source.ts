/**
 * NRI: the runtime waits in RunPodSandbox until a new sandbox has been taken care of, but for a limited time only. A pod
 * that is not enrolled is never refused.
 */
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { SandboxHint } from '../hint-queue.ts';
import { onNode } from '../node-paths.ts';
import type { EventSource } from '../source.ts';
import type { PodSandbox } from './messages.ts';

const SOCKET = '/run/nri/nri.sock';

/** An install takes milliseconds; the runtime waits for 2 s, and then drops the plugin. */
const WAIT_MS = 500;
/** After a wait in vain, until an answer is in time again: calls are serial, and each delays every pod of the node. */
const IMPATIENT_MS = 50;

export const nri: EventSource = {
  name: 'nri',
  lists: true,

  /** docs/decisions.md has the figures that this decision rests on. */
  caution: () => 'auto does not use it, because pods outside of the mesh would wait for the controller too',

  async connect({ version, hostRoot, failClosed = false, waited }, signal) {
    const path = onNode(hostRoot, SOCKET);
    if (!existsSync(path)) throw new Error(`${path} does not exist`);
    // Only here: the command line reads the list of sources, and protobufjs takes longer to load than most verbs to run.
    const { NriPlugin } = await import('./plugin.ts');
    const plugin = await NriPlugin.connect(path, signal);
    return async ({ report }) => {
      const longest = plugin.requestMs > 0 ? Math.min(WAIT_MS, plugin.requestMs / 4) : WAIT_MS;
      let wait = longest;
      plugin.handle({
        onList: (pods) => {
          for (const pod of pods) {
            const hint = hintOf(pod, version.runtimeName);
            if (hint !== undefined) report(hint);
          }
        },
        onRun: async (pod) => {
          const hint = hintOf(pod, version.runtimeName);
          if (hint === undefined) return;
          const began = performance.now();
          const answer = Promise.withResolvers<Answer>();
          let enrolled = false;
          report({
            ...hint,
            justMade: true,
            enrolled: () => {
              enrolled = true;
            },
            proceed: (problem) => answer.resolve({ problem }),
          });
          let answered = await within(wait, answer.promise);
          const refuses = failClosed && enrolled;
          if (answered === undefined && refuses) answered = await within(longest - wait, answer.promise);
          waited?.(performance.now() - began);
          wait = answered === undefined ? Math.min(IMPATIENT_MS, longest) : longest;
          const { problem } = answered ?? { problem: `nothing was installed within ${longest} ms` };
          if (refuses && problem !== undefined) throw new Error(`no redirect rules for the pod: ${problem}`);
        },
      });
      throw new Error(await plugin.closed);
    };
  },
};

interface Answer {
  /** Why the rules are not installed. */
  problem: string | undefined;
}

/** Undefined if there is no answer by then. */
async function within(ms: number, answer: Promise<Answer>): Promise<Answer | undefined> {
  const answered = new AbortController();
  const limit = sleep(ms, undefined, { signal: answered.signal }).catch(() => undefined);
  const first = await Promise.race([answer, limit]);
  answered.abort();
  return first;
}

/**
 * Undefined for a pod on the node's network. containerd names no path for it. CRI-O names a file of the node's own netns,
 * and no address. containerd 1.7 names no addresses at all.
 */
function hintOf({ id, uid, linux, ips }: PodSandbox, runtimeName: string): SandboxHint | undefined {
  const netnsPath = linux?.namespaces.find(({ type }) => type === 'network')?.path;
  if (!netnsPath || (runtimeName === 'cri-o' && ips.length === 0)) return undefined;
  return { sandboxId: id, podUid: uid, netnsPath, ips };
}
