/** Measures for ten minutes what a controller keeps of deleted pods. Runs only if it is named. */
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FLAG } from '../../chart/image/files.ts';
import { startBusyNode } from '../controller/busy-node.ts';
import { churn } from '../controller/churn.ts';
import { bundleSubject, COLLECTABLE } from '../controller/subject.ts';
import { growth } from '../statistics.ts';
import { SETTLE_MS, type Workload } from './workload.ts';

const PODS = 250;
/** Pods a second. */
const RATE = 100;
const SECONDS = { quick: 60, full: 600 };

export const soak: Workload = {
  name: 'soak',
  title: `${RATE} pods/s that come and go, for ten minutes in a full run: what the controller keeps of them`,
  budget: { quick: 80, full: 650 },
  apart: true,
  timed: false,
  async run(bench) {
    const folder = mkdtempSync(join(bench.folder, 'soak-'));
    const seconds = SECONDS[bench.quick ? 'quick' : 'full'];
    const bundle = await bundleSubject(folder, true);
    const atRest = () => bench.atRest();
    await using node = await startBusyNode({ folder, bundle, execArgv: [FLAG, COLLECTABLE], pods: PODS, atRest });
    const { sandboxes, standIn, subject } = node;
    // The first pods warm up: caches fill, code is compiled.
    await churn(standIn, sandboxes, { rate: RATE, seconds: seconds / 20, life: 'full' });
    await sleep(SETTLE_MS);
    const before = { heap: await subject.heapKept(), descriptors: subject.descriptors() };
    await standIn.report();
    subject.samples.length = 0;
    const ticking = setInterval(() => bench.progress(subject.samples.length / seconds), 1000);
    const held = await churn(standIn, sandboxes, { rate: RATE, seconds, life: 'full' });
    clearInterval(ticking);
    const { unmarked } = await standIn.report();
    const samples = [...subject.samples];
    await sleep(SETTLE_MS);
    const heap = (await subject.heapKept()) - before.heap;
    // Idle connections stay open for a minute, and count here.
    const descriptors = subject.descriptors() - before.descriptors;
    await bench.atRest();
    return {
      series: [],
      figures: [
        { id: 'held', label: 'held', value: held, unit: 'pods/s' },
        { id: 'unmarked', label: 'ended unmarked', value: unmarked, unit: 'pods' },
        { id: 'rss', label: 'highest RSS', value: Math.max(...samples), unit: 'MiB', tolerance: 0.15 },
        { id: 'growth', label: 'RSS grows, second half', value: growth(samples), unit: 'MiB/min' },
        { id: 'kept', label: 'heap kept of pods that are gone', value: heap, unit: 'KiB' },
        { id: 'descriptors', label: 'descriptors left open', value: descriptors, unit: '' },
      ],
      charts: [],
    };
  },
};
