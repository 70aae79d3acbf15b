/** A controller in this process, all of it real but for its locator: a pod's netns is the file of its uid in a Farm. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { KubeConfig } from '@kubernetes/client-node';
import { readConfig } from '../../lib/config/read.ts';
import { assemble } from '../../lib/controller/assemble.ts';
import type { Controller } from '../../lib/controller/controller.ts';
import { ApiClient } from '../../lib/kube/client.ts';
import { native } from '../../lib/native/addon.ts';
import { type Located, Locator, type NotLocated, type RuntimePod } from '../../lib/netns/locate.ts';
import { createLogger } from '../../lib/observe/log.ts';
import type { Metrics } from '../../lib/observe/metrics.ts';
import type { RuntimeEvents } from '../../lib/runtime/events.ts';
import type { Farm } from './netns.ts';
import { isOver } from './patience.ts';
import { NODE } from './pod-server.ts';

/** Called with a pod's uid, before it is looked for and after that. */
type OnLocate = (when: 'before' | 'after', uid: string) => Promise<void>;

class KnownPlaces extends Locator {
  readonly #farm: Farm;
  readonly #onLocate: OnLocate;

  constructor(farm: Farm, onLocate: OnLocate) {
    super({});
    this.#farm = farm;
    this.#onLocate = onLocate;
  }

  override async locate({ uid }: RuntimePod): Promise<Located | NotLocated> {
    await this.#onLocate('before', uid);
    const path = this.#farm.file(uid);
    const found = await native()
      .identify(path)
      .then(
        (netns): Located => ({ path, source: 'cri', netns }),
        (error): NotLocated => ({ path: undefined, reason: 'no-sandbox', detail: String(error) }),
      );
    await this.#onLocate('after', uid);
    return found;
  }
}

export interface RunningController extends AsyncDisposable {
  controller: Controller;
  metrics: Metrics;
  /** Whether there is nothing to do now, nor later. */
  idle(): boolean;
}

/** Enrols by annotation alone, and sweeps when told. `options` has further ones, by their environment variables. */
export async function runController(
  config: KubeConfig,
  farm: Farm,
  onLocate: OnLocate = async () => {},
  options: Record<string, string> = {},
  runtime?: RuntimeEvents,
): Promise<RunningController> {
  const stop = new AbortController();
  const kube = new ApiClient(() => config);
  const environment = { NODE_NAME: NODE, IPNC_ENROLL: 'annotation', IPNC_RESYNC: '24h', ...options };
  const { controller, metrics } = assemble({
    config: readConfig({ flags: new Map(), environment }),
    kube,
    locator: new KnownPlaces(farm, onLocate),
    probe: await native().probe(),
    runtime,
    log: createLogger({ level: 'silent' }),
    version: 'test',
  });
  const ended = controller.run(stop.signal, AbortSignal.timeout(60_000));
  return {
    controller,
    metrics,
    idle: () => {
      const { waiting, running, backingOff } = controller.queue();
      return waiting.new + waiting.resync + running + backingOff === 0;
    },
    async [Symbol.asyncDispose]() {
      stop.abort();
      await ended;
      kube.close();
    },
  };
}

/** Throws with `state` when it is not so after half a minute. */
export async function until(what: string, right: () => boolean, state: () => unknown): Promise<void> {
  for (const began = performance.now(); !right(); await sleep(20)) {
    if (isOver(began, 30_000)) throw new Error(`not ${what}: ${JSON.stringify(state())}`);
  }
}
