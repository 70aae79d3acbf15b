/** Reads back and compares the rules of many netns, as the controller does periodically. */
import { type Netns, native } from '../../lib/native/addon.ts';
import { compileForms, rulesetOf } from '../drivers/rules.ts';
import { interleaved, type Subject } from '../method.ts';
import { burstOf } from './single.ts';
import type { Workload } from './workload.ts';

const PODS = { quick: 100, full: 250 };
const ROUNDS = { quick: 5, full: 20 };
/** As the controller does (lib/controller/controller.ts). */
const LANES = 2;

export const sweep: Workload = {
  name: 'sweep',
  title: 'Verifying many netns, per netns',
  budget: { quick: 4, full: 25 },
  async run(bench) {
    const mode = bench.quick ? 'quick' : 'full';
    const forms = await compileForms(rulesetOf());
    const paths: string[] = [];
    const subjects: Subject[] = (await bench.drivers())
      .filter(({ name }) => name === 'floor')
      .map((driver) => ({ ...burstOf(bench, driver, { burst: 12 }), group: driver.backend }));
    for (const [backend, compiled] of [
      ['iptables-legacy', forms.legacy],
      ['nftables', forms.nftables],
    ] as const) {
      const made = await bench.farm.fresh(PODS[mode]);
      paths.push(...made);
      const targets = await Promise.all(made.map((path) => native().identify(path, { fresh: true })));
      for (const target of targets) await compiled.apply(target, { fresh: true });
      const verify = async (target: Netns) => {
        if (!(await compiled.verify(target)).ok) throw new Error(`${target.path}: rules drifted by themselves`);
      };
      for (const lanes of [1, LANES]) {
        subjects.push({
          id: `${backend}/verify-${lanes}`,
          name: lanes === 1 ? 'verify, one at a time' : `verify, ${lanes} at a time, wall time each`,
          group: backend,
          ours: true,
          baseline: `${backend}/floor`,
          round: async () => {
            const start = performance.now();
            let next = 0;
            const lane = async () => {
              for (let target = targets[next++]; target !== undefined; target = targets[next++]) await verify(target);
            };
            await Promise.all(Array.from({ length: lanes }, lane));
            return [((performance.now() - start) * 1000) / targets.length];
          },
          usage: async () => {
            const { user, system } = process.cpuUsage();
            // Of each netns, as the samples are.
            return { cpu: (user + system) / targets.length, rss: process.memoryUsage.rss() / 2 ** 20 };
          },
        });
      }
    }
    const series = await interleaved(bench, subjects, { rounds: ROUNDS[mode], seconds: bench.seconds });
    await bench.farm.takeDown(paths);
    return { series, figures: [], charts: [] };
  },
};
