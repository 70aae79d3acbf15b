/** Pods come and go at a rate: a netns, an ADDED, what a kubelet says of it, its end. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Coprocess } from '../coprocess.ts';
import type { StandIn } from './stand-in.ts';

/** Milliseconds after its ADDED. */
const LIFE = { run: 150, terminate: 400, delete: 500 };

export class Sandboxes implements AsyncDisposable {
  readonly folder: string;
  readonly #farm: Coprocess;

  constructor(toolbox: string, folder: string) {
    this.folder = folder;
    this.#farm = new Coprocess(toolbox, 'netns');
  }

  async add(name: string): Promise<void> {
    await this.#farm.ask(`add ${join(this.folder, name)}`);
  }

  async del(name: string): Promise<void> {
    await this.#farm.ask(`del ${join(this.folder, name)}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#farm[Symbol.asyncDispose]();
  }
}

export interface ChurnOptions {
  /** Pods a second. */
  rate: number;
  seconds: number;
  /** full: also the kubelet's Running with addresses; short: ADDED, terminating, DELETED. */
  life: 'full' | 'short';
}

/** Resolves with the rate that it held, when the last pod is gone. */
export async function churn(standIn: StandIn, sandboxes: Sandboxes, options: ChurnOptions): Promise<number> {
  const { rate, seconds, life } = options;
  const start = performance.now();
  const lives = new Set<Promise<void>>();
  let begun = 0;
  const live = async (name: string) => {
    await sandboxes.add(name);
    standIn.change('create', name);
    await sleep(LIFE.run);
    if (life === 'full') standIn.change('run', name);
    await sleep(LIFE.terminate - LIFE.run);
    standIn.change('terminate', name);
    await sleep(LIFE.delete - LIFE.terminate);
    standIn.change('delete', name);
    await sandboxes.del(name);
  };
  for (let now = 0; now < seconds; now = (performance.now() - start) / 1000) {
    // No more than what a tick would bring: a late timer is not made up for by a burst.
    for (let due = Math.min(rate * now - begun, 8); due >= 1; due--) {
      const one = live(`churn-${begun++}`).finally(() => lives.delete(one));
      lives.add(one);
    }
    await sleep(2);
  }
  const held = begun / ((performance.now() - start) / 1000);
  await Promise.all(lives);
  return held;
}
