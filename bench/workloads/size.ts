/** Rulesets of 1 to 1,000 ports and CIDRs: how cost grows, and how far from the floor ours stays. */

import { floor } from '../drivers/floor.ts';
import { ours } from '../drivers/ours.ts';
import { compileForms, rulesetOf } from '../drivers/rules.ts';
import { interleaved, type Subject } from '../method.ts';
import type { Figure } from '../schema.ts';
import { burstOf } from './single.ts';
import type { Workload } from './workload.ts';

const SIZES = { quick: [1, 100, 1000], full: [1, 10, 100, 1000] };
const BURST = 6;
const ROUNDS = { quick: 4, full: 8 };

export const size: Workload = {
  name: 'size',
  title: 'Rulesets of many ports and CIDRs: as many included inbound ports, and as many excluded CIDRs',
  budget: { quick: 8, full: 60 },
  async run(bench) {
    const mode = bench.quick ? 'quick' : 'full';
    const sizes = SIZES[mode];
    const subjects: Subject[] = [];
    const figures: Figure[] = [];
    for (const count of sizes) {
      const start = performance.now();
      const ruleset = rulesetOf({ 'istio-inbound-ports': ports(count), 'istio-service-exclude-cidr': cidrs(count) });
      const planned = performance.now();
      const forms = await compileForms(ruleset);
      const label = `${count} ports and CIDRs`;
      figures.push(
        { id: `${count}/plan`, label: `${label}: planned`, value: planned - start, unit: 'ms, once' },
        {
          id: `${count}/compile`,
          label: `${label}: compiled, 4 forms`,
          value: performance.now() - planned,
          unit: 'ms, once',
        },
      );
      for (const [backend, compiled] of [
        ['iptables-legacy', forms.legacy],
        ['nftables', forms.nftables],
      ] as const) {
        const bare = floor(bench.floors, {
          name: 'floor',
          title: 'baseline',
          backend,
          compiled,
          key: `${backend}/${count}`,
        });
        await bare.prepare(() => bench.farm.one());
        for (const driver of [bare, ours({ name: 'ours', title: 'ipnc', backend, compiled })])
          subjects.push(burstOf(bench, driver, { burst: BURST, at: `/${count}`, group: `${backend}, ${label}` }));
      }
    }
    const series = await interleaved(bench, subjects, { rounds: ROUNDS[mode], seconds: bench.seconds });
    return {
      series,
      figures,
      charts: [
        {
          kind: 'lines',
          title: 'Size of the ruleset',
          x: 'ports and CIDRs, each',
          y: 'us, p50',
          lines: ['iptables-legacy', 'nftables'].flatMap((backend) =>
            ['ours', 'floor'].map((name) => ({
              name: `${backend}, ${name}`,
              points: sizes.map((x) => ({
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

/** None next to another, so that they stay as many. */
function ports(count: number): string {
  return Array.from({ length: count }, (_, at) => 1024 + 2 * at).join(',');
}

function cidrs(count: number): string {
  return Array.from({ length: count }, (_, at) => `10.${at >> 7}.${(2 * at) & 255}.0/24`).join(',');
}
