/** A controller whose node has pods already, the stand-in it talks to, and the sandboxes of both. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { TOOLBOX } from '../farm.ts';
import { Sandboxes } from './churn.ts';
import { NODE } from './pods.ts';
import { StandIn } from './stand-in.ts';
import { Subject } from './subject.ts';

export interface BusyNode extends AsyncDisposable {
  sandboxes: Sandboxes;
  standIn: StandIn;
  subject: Subject;
  /** Milliseconds from the controller's start until all its pods were marked. */
  markedMs: number;
}

export interface BusyNodeOptions {
  /** Of this node alone. */
  folder: string;
  bundle: string;
  /** Node's. */
  execArgv: string[];
  pods: number;
  /** Called when all but the controller stands. */
  atRest: () => Promise<void>;
}

export async function startBusyNode({ folder, bundle, execArgv, pods, atRest }: BusyNodeOptions): Promise<BusyNode> {
  await using stack = new AsyncDisposableStack();
  const places = join(folder, 'netns');
  mkdirSync(places);
  const sandboxes = stack.use(new Sandboxes(TOOLBOX, places));
  const standIn = stack.use(await StandIn.start(folder));
  for (let at = 0; at < pods; at++) {
    await sandboxes.add(`pod-${at}`);
    standIn.change('create', `pod-${at}`);
  }
  await sleep(500);
  await atRest();
  const began = performance.timeOrigin + performance.now();
  const subject = stack.use(new Subject(bundle, [standIn.kubeconfig, places, NODE], execArgv, join(folder, 'log')));
  const markedMs = (await standIn.whenMarked(pods)) - began;
  await sleep(2000);
  await standIn.report();
  const parts = stack.move();
  return { sandboxes, standIn, subject, markedMs, [Symbol.asyncDispose]: () => parts.disposeAsync() };
}
