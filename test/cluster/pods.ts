/** Short helpers for pods in tests. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { CoreV1Api, V1Container, V1Pod, V1PodSpec } from '@kubernetes/client-node';
import { isOver } from '../support/patience.ts';
import { imageName } from './images/images.ts';

/** A kubelet whose first list fails waits for up to 30 s before the next. */
const READY_LIMIT_MS = 55_000;

/** A container that runs native/toolbox with these arguments. */
export function toolbox(name: string, ...args: string[]): V1Container {
  return { name, image: imageName('toolbox'), imagePullPolicy: 'Never', args };
}

/** A pod of these containers that ends quickly. */
export function pod(name: string, spec: V1PodSpec): V1Pod {
  return {
    metadata: { name, labels: { app: name } },
    spec: { terminationGracePeriodSeconds: 1, ...spec },
  };
}

/** Waits for the answer to be right, or throws when it is not after `limitMs`. */
export async function until<T>(
  what: string,
  ask: () => Promise<T>,
  right: (answer: T) => boolean,
  limitMs = 30_000,
): Promise<T> {
  const began = performance.now();
  for (;;) {
    const answer = await ask();
    if (right(answer)) return answer;
    if (isOver(began, limitMs)) throw new Error(`not ${what} after ${limitMs / 1000} s: ${JSON.stringify(answer)}`);
    await sleep(50);
  }
}

/** Creates it and waits until all of its containers are ready. */
export async function runPod(core: CoreV1Api, body: V1Pod, namespace = 'default'): Promise<V1Pod> {
  const created = await core.createNamespacedPod({ namespace, body });
  const name = created.metadata?.name ?? '';
  return until(
    `ready: pod ${name}`,
    () => core.readNamespacedPod({ namespace, name }),
    ({ status }) => status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') === true,
    READY_LIMIT_MS,
  );
}

/** Deletes it and waits until it is gone. */
export async function deletePod(core: CoreV1Api, name: string, namespace = 'default'): Promise<void> {
  await core.deleteNamespacedPod({ namespace, name });
  await until(
    `gone: pod ${name}`,
    async () => (await core.listNamespacedPod({ namespace })).items.map(({ metadata }) => metadata?.name),
    (names) => !names.includes(name),
  );
}
