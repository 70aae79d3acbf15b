/** A run's results in the terminal: ratios first. */
import type { GoalResult, Noise, Results, Series, WorkloadResult } from './schema.ts';
import type { Estimate } from './statistics.ts';
import { figure, ratio, table } from './table.ts';

export function workloadText(workload: WorkloadResult): string {
  const { title, seconds, skipped, failed, refused, noise } = workload;
  const head = `\n${title}${skipped === undefined ? `  (${workload.name}, ${seconds.toFixed(0)} s)` : ''}\n`;
  if (skipped !== undefined) return `${head}\n  skipped: ${skipped}\n`;
  if (failed !== undefined) return `${head}\n  FAILED: ${failed}\n`;
  const figures = figureRows(workload);
  return [
    head,
    ...seriesTables(workload).map(({ head, rows }) => `\n${table(head, rows)}`),
    figures.length > 0 ? `\n${table(['', ''], figures).replace(/^.*\n/, '')}` : '',
    noise === undefined ? '' : `\n  machine: ${noiseText(noise)}\n`,
    refused === undefined ? '' : `\n  REFUSED, the machine was too noisy to tell: ${refused}\n`,
  ].join('');
}

function noiseText({ quarters, stalled, others, repeated }: Noise): string {
  const work = `fixed work ${quarters.map(figure).join(', ')} us by quarter, ${percent(stalled)} stalled`;
  const again = repeated === undefined ? '' : `; turns measured again: ${repeated}`;
  return `${work}; others had ${percent(others)} of the CPUs${again}`;
}

const percent = (share: number) => `${(100 * share).toFixed(1)} %`;

/** `1.37x 1.31-1.44` */
function ratioCells(series: Series): string[] {
  if (series.ratio === undefined) return ['', ''];
  const { value, low, high } = series.ratio;
  return [ratio(value), `${figure(low)}-${figure(high)}`];
}

/** One for each group of series, as cells. */
export function seriesTables({ series }: WorkloadResult): { head: string[]; rows: string[][] }[] {
  const groups = [...new Set(series.map(({ group }) => group))];
  return groups.map((group) =>
    seriesRows(
      group,
      series.filter((each) => each.group === group),
    ),
  );
}

/** What is measured once: its name, and value with unit. */
export function figureRows({ figures }: WorkloadResult): string[][] {
  return figures.map(({ label, value, unit }) => [label, `${figure(value)} ${unit}`.trim()]);
}

function seriesRows(group: string, series: readonly Series[]): { head: string[]; rows: string[][] } {
  const units = [...new Set(series.map(({ unit }) => unit))];
  const has = (pick: (each: Series) => unknown) => series.some((each) => pick(each) !== undefined);
  const [ratios, cpu, rss] = [has((each) => each.ratio), has((each) => each.cpu), has((each) => each.rss)];
  const within = ({ low, high }: Estimate) => `${figure(low)}-${figure(high)}`;
  return {
    head: [
      `${group}, ${units.join(', ')}`,
      ...(ratios ? ['to base', '95 %'] : []),
      'p50',
      '95 %',
      'p90',
      'p99',
      'max',
      ...(cpu ? ['cpu, us'] : []),
      ...(rss ? ['rss, MiB'] : []),
      'n',
    ],
    rows: series.map((each) => [
      each.name,
      ...(ratios ? ratioCells(each) : []),
      figure(each.summary.p50.value),
      within(each.summary.p50),
      figure(each.summary.p90.value),
      figure(each.summary.p99.value),
      figure(each.summary.max),
      ...(cpu ? [each.cpu === undefined ? '' : figure(each.cpu)] : []),
      ...(rss ? [each.rss === undefined ? '' : figure(each.rss)] : []),
      String(each.summary.n),
    ]),
  };
}

export function goalsText(goals: readonly GoalResult[]): string {
  return `\n${table(['goal', 'asked', 'measured', ''], goalRows(goals))}`;
}

export function goalRows(goals: readonly GoalResult[]): string[][] {
  return goals.map(({ name, bound, asked, measured, met, unit }) => [
    name,
    `${bound} ${grouped(asked)}${unit}`,
    measured === undefined ? '-' : `${figure(measured)}${unit}`,
    met === undefined ? 'not measured' : met ? 'met' : 'MISSED',
  ]);
}

/** As it was asked, without decimals that nobody asked for. */
function grouped(value: number): string {
  return value.toLocaleString('en');
}

export function machineText({ machine, seed, made, commit, mode }: Results): string {
  const { name = '', kernel, cpu, cpus, memoryMiB, distribution, node, virtual, load } = machine;
  const where = [
    name,
    distribution,
    `Linux ${kernel}`,
    `${cpus} x ${cpu}`,
    `${figure(memoryMiB)} MiB`,
    virtual,
    `Node ${node}`,
  ];
  return (
    `${mode} run of ${made.slice(0, 16).replace('T', ' ')}${commit && `, ${commit}`}, ` +
    `seed ${seed}, load ${figure(load.before)}\n` +
    `${where.filter(Boolean).join(', ')}\n`
  );
}
