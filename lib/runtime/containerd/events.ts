/**
 * containerd's own events, which it serves on the socket of the CRI. Every subscriber gets all of them.
 *
 * https://github.com/containerd/containerd/tree/main/api (services/events/v1, types/event, events/task)
 */
import { codecOf, compileSchema } from '../../protobuf.ts';
import type { Channel } from '../channel.ts';
import { method } from '../method.ts';

export interface TaskCreate {
  containerId: string;
  /** Folder on the node. */
  bundle: string;
}

interface Envelope {
  event: { value: Buffer } | null;
}

const SCHEMA = compileSchema({
  SubscribeRequest: { filters: [1, 'string', 'repeated'] },
  Envelope: { event: [4, 'Any'] },
  Any: { value: [2, 'bytes'] },
  TaskCreate: { containerId: [1, 'string'], bundle: [2, 'string'] },
});

export const subscribe = method(
  '/containerd.services.events.v1.Events/Subscribe',
  codecOf<{ filters: string[] }>(SCHEMA, 'SubscribeRequest'),
  codecOf<Envelope>(SCHEMA, 'Envelope'),
  'stream',
);

const taskCreate = codecOf<TaskCreate>(SCHEMA, 'TaskCreate');

/** A value that has a `/` must be quoted. */
const FILTER = 'namespace==k8s.io,topic=="/tasks/create"';

/** Containers and sandboxes that are about to start. Throws RuntimeError, which is CANCELLED after the signal. */
export async function* taskCreates(channel: Channel, signal: AbortSignal): AsyncGenerator<TaskCreate, void> {
  for await (const { event } of channel.stream(subscribe, { filters: [FILTER] }, signal)) {
    if (event !== null) yield taskCreate.decode(event.value);
  }
}
