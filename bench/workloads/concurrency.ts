/** Many installs at a time, of ours, on two CPUs: how many a second, and what each costs the main thread. */

import { type Compiled, type Netns, native } from '../../lib/native/addon.ts';
import type { Backend } from '../../lib/ruleset/form.ts';
import { onCores } from '../cores.ts';
import { compileForms, rulesetOf } from '../drivers/rules.ts';
import { interleaved, type Subject } from '../method.ts';
import type { Chart, Figure } from '../schema.ts';
import { percentile } from '../statistics.ts';
import { burstOf } from './single.ts';
import type { Bench, Workload } from './workload.ts';

const DEGREES = { quick: [1, 8, 64], full: [1, 2, 4, 8, 16, 32, 64, 128, 256] };
const INSTALLS = { quick: 96, full: 320 };
const ROUNDS = { quick: 4, full: 6 };
const CORES = 2;

export const concurrency: Workload = {
  name: 'concurrency',
  title: `1 to 256 installs at a time, on ${CORES} CPUs`,
  budget: { quick: 12, full: 130 },
  run: (bench) => onCores(CORES, () => measure(bench)),
};

const BACKENDS: Backend[] = ['iptables-legacy', 'nftables'];

async function measure(bench: Bench) {
  const mode = bench.quick ? 'quick' : 'full';
  const forms = await compileForms(rulesetOf());
  const mainThread = new Map<string, number[]>();
  const floors = (await bench.drivers())
    .filter(({ name }) => name === 'floor')
    .map((driver) => burstOf(bench, driver, { burst: 16 }));
  const subjects = BACKENDS.flatMap((backend) => {
    // As the controller installs them.
    const compiled = backend === 'nftables' ? forms.nftables : forms.legacy;
    return DEGREES[mode].map((degree) => manyOf(bench, { backend, compiled, degree, mainThread }));
  });
  const series = await interleaved(bench, [...floors, ...subjects], { rounds: ROUNDS[mode], seconds: bench.seconds });
  const rate = (id: string) => 1e6 / (series.find((each) => each.id === id)?.summary.p50.value ?? Number.NaN);
  const figures: Figure[] = BACKENDS.flatMap((backend) =>
    DEGREES[mode].flatMap((degree) => {
      const id = `${backend}/${degree}`;
      return [
        { id: `${id}/rate`, label: `${backend}, ${degree} at a time`, value: rate(id), unit: 'installs/s' },
        {
          id: `${id}/main-thread`,
          label: `${backend}, ${degree} at a time, main thread`,
          value: percentile(mainThread.get(id) ?? [], 0.5),
          unit: 'us each',
        },
      ];
    }),
  );
  const chart: Chart = {
    kind: 'lines',
    title: `Throughput on ${CORES} CPUs`,
    x: 'installs at a time',
    y: 'installs/s',
    lines: BACKENDS.map((backend) => ({
      name: backend,
      points: DEGREES[mode].map((degree) => ({ x: degree, y: rate(`${backend}/${degree}`) })),
    })),
  };
  return { series, figures, charts: [chart] };
}

interface ManyOptions {
  backend: Backend;
  compiled: Compiled;
  degree: number;
  mainThread: Map<string, number[]>;
}

function manyOf(bench: Bench, { backend, compiled, degree, mainThread }: ManyOptions): Subject {
  const id = `${backend}/${degree}`;
  const installs = Math.max(2 * degree, bench.quick ? INSTALLS.quick : INSTALLS.full);
  let paths: string[] = [];
  let targets: Netns[] = [];
  return {
    id,
    name: `${degree} at a time, wall time each`,
    group: `ipnc, ${backend}`,
    ours: true,
    baseline: `${backend}/floor`,
    setUp: async () => {
      paths = await bench.farm.fresh(installs);
      targets = await Promise.all(paths.map((path) => native().identify(path, { fresh: true })));
    },
    round: async () => {
      const cpu = process.threadCpuUsage();
      const start = performance.now();
      let next = 0;
      const lane = async () => {
        for (let target = targets[next++]; target !== undefined; target = targets[next++])
          await compiled.apply(target, { fresh: true });
      };
      await Promise.all(Array.from({ length: degree }, lane));
      const took = performance.now() - start;
      const { user, system } = process.threadCpuUsage(cpu);
      mainThread.set(id, [...(mainThread.get(id) ?? []), (user + system) / installs]);
      return [(took * 1000) / installs];
    },
    tearDown: () => bench.farm.takeDown(paths),
  };
}
