/** Measures whether an install takes longer on a machine with 1 to 5,000 netns that have rules. */

import { native } from '../../lib/native/addon.ts';
import type { Backend } from '../../lib/ruleset/form.ts';
import { compileForms, rulesetOf } from '../drivers/rules.ts';
import { kernelMemory } from '../meminfo.ts';
import { interleaved } from '../method.ts';
import type { Figure, Series } from '../schema.ts';
import { burstOf } from './single.ts';
import type { Workload } from './workload.ts';

const LEVELS = { quick: [1, 250, 500], full: [1, 100, 1000, 2500, 5000] };
const BURST = 12;
const ROUNDS = { quick: 4, full: 8 };
const AT_ONCE = 250;

export const live: Workload = {
  name: 'live',
  title: 'One install at a time, while many netns live and hold rules',
  budget: { quick: 8, full: 110 },
  async run(bench) {
    const mode = bench.quick ? 'quick' : 'full';
    const levels = LEVELS[mode];
    const drivers = (await bench.drivers()).filter(({ name }) => name === 'floor' || name === 'ours');
    const { legacy, nftables } = await compileForms(rulesetOf());
    const standing: string[] = [];
    const series: Series[] = [];
    const slab = kernelMemory();
    for (const [step, level] of levels.entries()) {
      while (standing.length < level) {
        const paths = await bench.farm.fresh(Math.min(AT_ONCE, level - standing.length));
        await Promise.all(
          paths.map(async (path, at) => {
            const target = await native().identify(path, { fresh: true });
            await (at % 2 === 0 ? legacy : nftables).apply(target, { fresh: true });
          }),
        );
        standing.push(...paths);
      }
      const subjects = drivers.map((driver) =>
        burstOf(bench, driver, { burst: BURST, at: `/${level}`, group: `${driver.backend}, ${level} live` }),
      );
      const within = { ...bench, progress: (share: number) => bench.progress((step + share) / (levels.length + 1)) };
      const extent = { rounds: ROUNDS[mode], seconds: bench.seconds / levels.length / 2 };
      series.push(...(await interleaved(within, subjects, extent)));
    }
    const figures: Figure[] = [
      {
        id: 'memory',
        label: 'kernel memory of a netns with rules',
        value: (kernelMemory() - slab) / standing.length,
        unit: 'KiB',
      },
    ];
    while (standing.length > 0) await bench.farm.takeDown(standing.splice(-AT_ONCE));
    const backends: Backend[] = ['iptables-legacy', 'nftables'];
    return {
      series,
      figures,
      charts: [
        {
          kind: 'lines',
          title: 'While netns live',
          x: 'live netns',
          y: 'us, p50',
          lines: backends.flatMap((backend) =>
            ['ours', 'floor'].map((name) => ({
              name: `${backend}, ${name}`,
              points: levels.map((x) => ({
                x,
                y: series.find(({ id }) => id === `${backend}/${x}/${name}`)?.summary.p50.value ?? 0,
              })),
            })),
          ),
        },
      ],
    };
  },
};
