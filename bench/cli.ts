/** The benchmark's command line. */
import { parseArgs } from 'node:util';
import type { External } from './drivers/external.ts';
import { WAYS, type WayId } from './mesh/ways.ts';
import type { Extent } from './workloads/workload.ts';

export const HELP = `Measures what it costs to install a pod's rules on this machine: with this project, with the bare system calls (the
baseline), and with the usual programs, in one run.

  npm run bench                            everything, in at most 15 minutes
  npm run bench -- --quick                 a first look, in at most 2 minutes
  npm run bench -- --only single,churn     only these workloads: WORKLOADS;
                                           soak (10 minutes), connection (8), sandbox (10), scale
                                           (50), cold (25) and mesh (45) run only if they are named
  npm run bench -- --driver NAME=COMMAND   measures another program, too. It must install Istio's default rules in the
                                           network namespace in which it starts, or in {netns} if that is one of its
                                           arguments; repeatable
  npm run bench -- --compare A.json B.json what became slower from A to B, beyond noise
  npm run bench -- --publish               a full run; writes its figures and picture into docs/. With --only mesh or
                                           --only connection it writes those of a pod's start or of a connection,
                                           also into README.md; with --only sandbox those of RunPodSandbox, and with
                                           --only scale or --only cold the figures of that workload
  npm run bench -- --from FILE.json        does not run; prints, reports or publishes the results in the file

A FILE of results may also be the log of a run with --output -.

  --seed N          the seed of all random orders; each run prints its seed
  --output FILE     the file for the results; default: bench/results/TIME.json. The report is next to it as .html.
                    - prints the results as the last line and writes no file
  --pods N          mesh: pods of each way, however long that takes
  --at-once N       mesh: pods of one way that start at the same time; default: 1
  --resident N      mesh: pods that run on each node before; default: 0
  --ways A,B        mesh: measures only these ways. There are
                    ${WAYS.join(', ')}.
                    With "away" ipnc is not installed; this way is measured only if it is named
  --rate N          controller and scale: pods a second; default: 500 and 50. Near the most that a machine can do, one
                    run differs from the next many times over
  --profile FOLDER  writes CPU profiles of the controller into the folder
  --plant NAME=US   delays the driver NAME by US microseconds; --compare should find that

Exit codes: 1 something became slower or failed, 2 usage, 3 results were refused because the machine was too noisy.
`;

export interface Request {
  quick: boolean;
  /** Absent: all. */
  only?: string[];
  externals: External[];
  compare?: [string, string];
  publish: boolean;
  from?: string;
  seed?: number;
  output?: string;
  profile?: string;
  plant: Map<string, number>;
  starts: Extent;
  rate?: number;
}

/** Workloads that `--only` may name for `--publish`: a run of one of them is published by itself. */
export const PUBLISHED_ALONE = ['mesh', 'connection', 'sandbox', 'scale', 'cold'] as const;

export class UsageError extends Error {}

/** Returns 'help' for --help. Throws UsageError with the flag, its value and what is expected. */
export function parse(words: string[], workloads: readonly string[]): Request | 'help' {
  const { values, positionals } = read(words);
  if (values.help) return 'help';
  const compare = values.compare ? pairOf(positionals) : undefined;
  const [surplus] = positionals;
  if (compare === undefined && surplus !== undefined)
    throw new UsageError(`"${surplus}": no argument is expected here; files go with --compare or --from`);
  const only = values.only?.flatMap((list) => list.split(','));
  for (const name of only ?? []) {
    if (!workloads.includes(name))
      throw new UsageError(`--only: "${name}" is no workload; there are ${workloads.join(', ')}`);
  }
  const part = only !== undefined && !(PUBLISHED_ALONE as readonly string[]).includes(only.join());
  for (const flag of ['ways', 'at-once', 'resident'] as const) {
    const value = values[flag];
    if (values.publish && value !== undefined)
      throw new UsageError(
        `--${flag}: "${value}": cannot be combined with --publish, which measures all ways, one pod at a time, on an empty node`,
      );
  }
  if (values.publish && values.from === undefined && (values.quick || part))
    throw new UsageError(
      '--publish: needs a full run; without --quick, and without --only unless it is --only mesh, connection, sandbox, scale or cold',
    );
  return {
    quick: values.quick ?? false,
    externals: (values.driver ?? []).map(externalOf),
    publish: values.publish ?? false,
    plant: new Map((values.plant ?? []).map(plantOf)),
    starts: startsOf(values, only),
    ...(values.rate !== undefined && { rate: rateOf(values.rate, only) }),
    ...(only && { only }),
    ...(compare && { compare }),
    ...(values.from !== undefined && { from: values.from }),
    ...(values.output !== undefined && { output: values.output }),
    ...(values.profile !== undefined && { profile: values.profile }),
    ...(values.seed !== undefined && { seed: whole('--seed', values.seed, 2 ** 32 - 1) }),
  };
}

function read(words: string[]) {
  try {
    return parseArgs({
      args: words,
      allowPositionals: true,
      options: {
        help: { type: 'boolean', short: 'h' },
        quick: { type: 'boolean' },
        only: { type: 'string', multiple: true },
        driver: { type: 'string', multiple: true },
        compare: { type: 'boolean' },
        publish: { type: 'boolean' },
        from: { type: 'string' },
        seed: { type: 'string' },
        output: { type: 'string' },
        profile: { type: 'string' },
        plant: { type: 'string', multiple: true },
        pods: { type: 'string' },
        'at-once': { type: 'string' },
        resident: { type: 'string' },
        ways: { type: 'string' },
        rate: { type: 'string' },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function pairOf([before, after, ...more]: string[]): [string, string] {
  if (before === undefined || after === undefined || more.length > 0)
    throw new UsageError('--compare: two files of results are needed, the older one first');
  return [before, after];
}

function externalOf(value: string): External {
  const [, name, rest] = /^([a-z][a-z0-9-]*)=(.*)$/s.exec(value) ?? [];
  const command = rest?.split(/\s+/).filter(Boolean) ?? [];
  if (name === undefined || command.length === 0)
    throw new UsageError(`--driver: "${value}": NAME=COMMAND is needed, as in istio-iptables=/usr/bin/istio-iptables`);
  return { name, command };
}

function plantOf(value: string): [string, number] {
  const [name = '', microseconds] = value.split('=');
  if (name === '' || microseconds === undefined)
    throw new UsageError(`--plant: "${value}": NAME=MICROSECONDS is needed, as in ours=100`);
  return [name, whole('--plant', microseconds, 1e6)];
}

/** A kubelet of the test cluster runs 200 pods at most. */
const MOST = { pods: 10_000, 'at-once': 50, resident: 100 };

function startsOf(values: Partial<Record<keyof typeof MOST | 'ways', string>>, only: string[] | undefined): Extent {
  const given = (flag: keyof typeof values) => {
    const value = values[flag];
    if (value !== undefined && !only?.includes('mesh'))
      throw new UsageError(`--${flag}: "${value}": goes with --only mesh alone`);
    return value;
  };
  const read = (flag: keyof typeof MOST, least: number) => {
    const value = given(flag);
    return value === undefined ? undefined : whole(`--${flag}`, value, MOST[flag], least);
  };
  const pods = read('pods', 1);
  const ways = given('ways')?.split(',').map(wayOf);
  return {
    ...(pods !== undefined && { pods }),
    atOnce: read('at-once', 1) ?? 1,
    resident: read('resident', 0) ?? 0,
    ...(ways && { ways }),
  };
}

function wayOf(id: string): WayId {
  const way = WAYS.find((known) => known === id);
  if (way === undefined) throw new UsageError(`--ways: "${id}": not a way; expected some of ${WAYS.join(', ')}`);
  return way;
}

function rateOf(value: string, only: string[] | undefined): number {
  if (only === undefined || only.some((name) => !['controller', 'scale'].includes(name)))
    throw new UsageError(`--rate: "${value}": needs --only controller, --only scale, or both`);
  return whole('--rate', value, 2000, 1);
}

function whole(flag: string, value: string, most: number, least = 0): number {
  if (!/^\d+$/.test(value) || Number(value) > most || Number(value) < least)
    throw new UsageError(`${flag}: "${value}": a whole number from ${least} to ${most} is needed`);
  return Number(value);
}
