/** Runs the workloads one after the other, and refuses those during which the machine was too noisy. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { External } from './drivers/external.ts';
import { Floors } from './drivers/floors.ts';
import { prepareDrivers } from './drivers/index.ts';
import { rulesetOf } from './drivers/rules.ts';
import { Farm } from './farm.ts';
import { checkGoals } from './goals.ts';
import { describeMachine } from './machine.ts';
import { judge, Turns } from './noise.ts';
import { watchOthers } from './others.ts';
import { Progress } from './progress.ts';
import type { Results, WorkloadResult } from './schema.ts';
import { seeded } from './statistics.ts';
import { type Bench, type Extent, SETTLE_MS, type Workload } from './workloads/workload.ts';

export interface RunOptions {
  quick: boolean;
  workloads: readonly Workload[];
  externals: readonly External[];
  plant: ReadonlyMap<string, number>;
  seed: number;
  profile?: string | undefined;
  starts: Extent;
  rate?: number | undefined;
  /** Called after each workload. */
  onWorkload(result: WorkloadResult): void;
}

/**
 * The limits in seconds. A workload that would not end in time is skipped. A refused workload is repeated once if there
 * is time.
 */
const LIMIT = { quick: 120, full: 900 };
/** Units of the reference at rest: so many until sleeping CPUs are awake, and those that count; 25 ms in all. */
const AT_REST = { waking: 200, counted: 100 };
const EMPTY = { series: [], figures: [], charts: [] };
const ROOT = new URL('..', import.meta.url);

export async function run({
  quick,
  workloads,
  externals,
  plant,
  seed,
  profile,
  starts,
  rate,
  onWorkload,
}: RunOptions): Promise<Results> {
  const mode = quick ? 'quick' : 'full';
  const began = performance.now();
  const elapsed = () => (performance.now() - began) / 1000;
  const machine = describeMachine();
  const folder = mkdtempSync(join(tmpdir(), 'ipnc-bench-'));
  const progress = new Progress(workloads.map(({ name, budget }) => ({ name, seconds: budget[mode] })));
  const results: WorkloadResult[] = [];
  try {
    await using farm = new Farm(folder);
    await using floors = new Floors();
    const random = seeded(seed);
    let turns = new Turns();
    let prepared: ReturnType<Bench['drivers']> | undefined;
    const bench: Omit<Bench, 'seconds'> = {
      quick,
      folder,
      farm,
      floors,
      random,
      profile,
      starts,
      rate,
      drivers: () => {
        const freshNetns = () => farm.one();
        prepared ??= prepareDrivers({ floors, folder, ruleset: rulesetOf(), freshNetns, externals, plant });
        return prepared;
      },
      reference: async () => {
        turns.units.push(await floors.do('reference'));
      },
      atRest: async (pauseMs = 0) => {
        await sleep(pauseMs);
        for (let unit = 0; unit < AT_REST.waking; unit++) await floors.do('reference');
        for (let unit = 0; unit < AT_REST.counted; unit++) await bench.reference();
      },
      turn: (run) =>
        turns.take(async () => {
          const result = await run();
          await bench.atRest(SETTLE_MS);
          return result;
        }),
      progress: (share) => progress.update(share),
    };
    // The first units start a thread and warm up.
    for (let warm = 0; warm < 20; warm++) await bench.reference();
    const attempt = async (workload: Workload): Promise<WorkloadResult> => {
      turns = new Turns();
      progress.start(workload.name);
      const start = performance.now();
      const others = watchOthers();
      const { name, title } = workload;
      const seconds = () => (performance.now() - start) / 1000;
      try {
        const measured = await workload.run({ ...bench, seconds: workload.budget[mode] });
        const { noise, ...refused } = judge(turns.units, others(), workload);
        const { repeated } = turns;
        return {
          name,
          title,
          seconds: seconds(),
          ...measured,
          noise: { ...noise, ...(repeated > 0 && { repeated }) },
          ...refused,
        };
      } catch (error) {
        // The others' figures are not lost for that.
        const failed = error instanceof Error ? (error.stack ?? error.message) : String(error);
        return { name, title, seconds: seconds(), failed, ...EMPTY };
      }
    };
    for (const [at, workload] of workloads.entries()) {
      const late = !workload.apart && elapsed() + workload.budget[mode] > LIMIT[mode];
      const skipped = workload.lack?.() ?? (late ? 'no time is left for it: this machine is slow, or busy' : undefined);
      if (skipped !== undefined) {
        const { name, title } = workload;
        results.push({ name, title, seconds: 0, skipped, ...EMPTY });
      } else {
        let result = await attempt(workload);
        const rest = workloads.slice(at).reduce((sum, { budget }) => sum + budget[mode], 0);
        if (result.refused !== undefined && elapsed() + rest < LIMIT[mode]) result = await attempt(workload);
        results.push(result);
      }
      progress.clear();
      const last = results.at(-1);
      if (last) onWorkload(last);
    }
  } finally {
    progress.clear();
    rmSync(folder, { recursive: true, force: true });
  }
  machine.load.after = loadavg()[0] ?? 0;
  const { version } = JSON.parse(readFileSync(new URL('package.json', ROOT), 'utf8')) as { version: string };
  return {
    schema: 1,
    made: new Date().toISOString(),
    version,
    commit: commit(),
    mode,
    seed,
    seconds: elapsed(),
    machine,
    workloads: results,
    goals: checkGoals(results),
  };
}

/** Of the working tree, or nothing where there is none. */
function commit(): string {
  try {
    return execFileSync('git', ['describe', '--always', '--dirty'], {
      cwd: ROOT,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return '';
  }
}
