/**
 * Assembles the controller from its parts. The caller passes the parts that differ between a node, the bench and a
 * test.
 */
import { readFileSync } from 'node:fs';
import type { RunConfig } from '../config/read.ts';
import type { ApiClient } from '../kube/client.ts';
import { EventRecorder } from '../kube/events.ts';
import { PodStatusWriter } from '../kube/status.ts';
import { native, type Probe } from '../native/addon.ts';
import type { Locator } from '../netns/locate.ts';
import type { Logger } from '../observe/log.ts';
import { createMetrics, type Metrics } from '../observe/metrics.ts';
import type { RuntimeEvents } from '../runtime/events.ts';
import { Controller } from './controller.ts';
import { Reconciler } from './reconcile.ts';

export interface Parts {
  config: RunConfig;
  kube: ApiClient;
  locator: Locator;
  probe: Probe;
  /** Absent if the API server is the only source. */
  runtime?: RuntimeEvents | undefined;
  log: Logger;
  /** Reported as a metric. */
  version: string;
}

export interface Assembled {
  controller: Controller;
  metrics: Metrics;
  marker: PodStatusWriter;
}

export function assemble({ config, kube, locator, probe, runtime, log, version }: Parts): Assembled {
  const { nodeName, resync: resyncMs, concurrency } = config;
  const marker = new PodStatusWriter(kube);
  const recorder = new EventRecorder({
    requests: kube,
    node: nodeName,
    onError: (err) => log.warn({ err }, 'the controller could not send an Event'),
  });
  const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  const reconciler = new Reconciler({ config, locator, marker, probe, bootId });
  const metrics = createMetrics(version, {
    queue: () => controller.queue(),
    pods: () => controller.states(),
    watches: () => controller.watches(),
    preempted: () => controller.preempted(),
    threads: () => {
      const { busy, stuck, lost } = native().health();
      return { busy, stuck, lost };
    },
    events: () => recorder.stats,
    runtimeEvents: () => ({ source: runtime?.source ?? 'none', ...(runtime?.stats ?? { losses: 0, dropped: 0 }) }),
  });
  runtime?.onWait((ms) => metrics.runtimeWaited(ms));
  const quiet = config.marks === 'failures';
  const common = { kube, nodeName, resyncMs, concurrency, quiet, log, ...(runtime && { runtime }) };
  const controller = new Controller({ ...common, reconciler, marker, recorder, metrics });
  return { controller, metrics, marker };
}
