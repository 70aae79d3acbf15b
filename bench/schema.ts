/**
 * The results of a run, which bench/results/README.md explains. The report, `--compare` and `--publish` read only this.
 */
import { z } from 'zod';

/** This number grows when a field changes its meaning or is removed. */
const VERSION = 1;

const number = z.number();
const word = z.string().min(1);

const estimate = z.strictObject({ value: number, low: number, high: number });

const summary = z.strictObject({
  n: number.int(),
  p50: estimate,
  p90: estimate,
  p99: estimate,
  max: number,
});

const series = z.strictObject({
  /** `single/nftables/ours`: unique in a run, and the same from run to run. */
  id: word,
  name: word,
  /** What belongs in one table. */
  group: word,
  /** `us` or `ms`: less is better. */
  unit: z.enum(['us', 'ms']),
  /** Ours are what `--compare` looks at; the others are what it is compared with. */
  ours: z.boolean(),
  /** By round; thinned where there were very many. */
  rounds: z.array(z.array(number).min(1)).min(1),
  summary,
  /** CPU time of each operation, in microseconds, user and system, children included. */
  cpu: number.optional(),
  /** Largest resident set while it ran, in MiB, of the driver's own process or its children. */
  rss: number.optional(),
  /** To the p50 of another series of the same workload. */
  ratio: estimate.extend({ to: word, logError: number }).optional(),
});

const figure = z.strictObject({
  id: word,
  label: word,
  value: number,
  unit: z.string(),
  /** `--compare` finds a growth beyond this share. Absent: not compared. */
  tolerance: number.optional(),
});

const chart = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('distribution'), title: word, series: z.array(word) }),
  z.strictObject({
    kind: z.literal('lines'),
    title: word,
    x: word,
    y: word,
    lines: z.array(z.strictObject({ name: word, points: z.array(z.strictObject({ x: number, y: number })) })),
  }),
  z.strictObject({
    kind: z.literal('waterfall'),
    title: word,
    /** Milliseconds since the first stage began. */
    bars: z.array(
      z.strictObject({
        name: word,
        stages: z.array(z.strictObject({ name: word, from: number, to: number })),
      }),
    ),
  }),
]);

const noise = z.strictObject({
  /** Microseconds of the reference unit, p50 of each quarter of the workload. */
  quarters: z.array(number),
  /** The largest quarter to the smallest. */
  spread: number,
  /** Share of the units that took more than twice the p50. */
  stalled: number,
  /** Share of all CPUs that other programs had. */
  others: number,
  /** Turns that were measured again because the machine was slow; absent if there was none. */
  repeated: number.optional(),
});

const workload = z.strictObject({
  name: word,
  title: word,
  seconds: number,
  /** Why it was not run. */
  skipped: z.string().optional(),
  /** What it failed with; it has no figures then. */
  failed: z.string().optional(),
  /** Why its figures are not to be believed. */
  refused: z.string().optional(),
  noise: noise.optional(),
  series: z.array(series),
  figures: z.array(figure),
  charts: z.array(chart),
});

const goal = z.strictObject({
  name: word,
  /** `at most` or `at least`. */
  bound: z.enum(['at most', 'at least']),
  asked: number,
  unit: z.string(),
  /** Absent: what it is about was not measured, or refused. */
  measured: number.optional(),
  met: z.boolean().optional(),
});

const machine = z.strictObject({
  /** Of the node, in a cluster. */
  name: word.optional(),
  kernel: word,
  cpu: word,
  cpus: number.int(),
  memoryMiB: number,
  distribution: word,
  node: word,
  virtual: z.string(),
  /** Over one minute, before and after. */
  load: z.strictObject({ before: number, after: number }),
});

const results = z.strictObject({
  schema: z.literal(VERSION),
  made: z.iso.datetime(),
  version: word,
  commit: z.string(),
  mode: z.enum(['quick', 'full']),
  seed: number.int(),
  seconds: number,
  machine,
  workloads: z.array(workload),
  goals: z.array(goal),
});

export type Results = z.infer<typeof results>;
export type WorkloadResult = z.infer<typeof workload>;
export type Series = z.infer<typeof series>;
export type Figure = z.infer<typeof figure>;
export type Chart = z.infer<typeof chart>;
export type Noise = z.infer<typeof noise>;
export type GoalResult = z.infer<typeof goal>;
export type Machine = z.infer<typeof machine>;

/** Throws with field, value and what is expected; `where` names the document. */
export function parseResults(document: unknown, where: string): Results {
  const parsed = results.safeParse(document, { reportInput: true });
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const field = issue?.path.join('.') || 'the document';
  const value = JSON.stringify(issue?.input)?.slice(0, 60);
  throw new Error(`${where}: ${field}: ${value}: ${issue?.message}`);
}

/** As JSON Schema. */
export function jsonSchema(): unknown {
  return z.toJSONSchema(results);
}
