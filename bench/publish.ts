/**
 * A full run's figures and pictures into README.md and docs/: between markers, so that nobody copies by hand. What a pod's
 * start costs is a run of its own (`--only mesh`), and so are its tables.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isOfStarts } from './goals.ts';
import { figureRows, goalRows, machineText, seriesTables } from './print.ts';
import { LARGE, reckon } from './reckon.ts';
import { picture, startPicture } from './report/picture.ts';
import type { Results, WorkloadResult } from './schema.ts';
import { figure } from './table.ts';

/** The text that explains them is docs/performance.md, which no run changes. */
const FIGURES = 'docs/performance-figures.md';

/** `root`: the folder of README.md. Throws where a run is not fit to be quoted. */
export function publish(results: Results, root: string): string[] {
  const of = (name: string) => results.workloads.find((workload) => workload.name === name);
  const [single, mesh] = [of('single'), of('mesh')];
  // A part that was refused is reported without its figures. Without one of these two there is nothing to report.
  const unfit = results.workloads.filter(
    ({ name, refused, failed, skipped }) =>
      failed ?? skipped ?? (name === 'single' || name === 'mesh' ? refused : undefined),
  );
  if (results.mode !== 'full' || (single === undefined && mesh === undefined))
    throw new Error('--publish: the run is not a full one');
  if (unfit.length > 0)
    throw new Error(`--publish: refused, failed or skipped in this run: ${unfit.map(({ name }) => name).join(', ')}`);
  return [
    ...(single === undefined ? [] : publishInstalls(results, single, root)),
    ...(mesh === undefined ? [] : publishStarts(results, mesh, root)),
  ];
}

function publishInstalls(results: Results, single: WorkloadResult, root: string): string[] {
  const rest = { ...results, workloads: results.workloads.filter(({ name }) => name !== 'mesh') };
  const goals = results.goals.filter((goal) => !isOfStarts(goal));
  writeFileSync(join(root, 'docs/performance.svg'), picture(single));
  fill(join(root, FIGURES), {
    summary: summary(results, single),
    figures: figures(rest),
    goals: markdownTable(GOAL_HEAD, goalRows(goals)),
    cluster: cluster(results),
  });
  return ['docs/performance.svg', FIGURES];
}

function publishStarts(results: Results, mesh: WorkloadResult, root: string): string[] {
  const app = mesh.series.filter(({ id }) => id.startsWith('app/'));
  writeFileSync(join(root, 'docs/start.svg'), startPicture(app));
  const alone = app.find(({ id }) => id === 'app/none')?.summary.p50.value ?? Number.NaN;
  const rows = app.map(({ name, ours, ratio, summary: { p50, p90, p99 } }) => {
    const mark = ours ? '**' : '';
    const to = ratio === undefined ? '' : `${figure(ratio.value)}x`;
    const beyond = figure(p50.value - alone);
    return [`${mark}${name}${mark}`, to, beyond, figure(p50.value), figure(p90.value), figure(p99.value)];
  });
  const head = [
    'from created to app started',
    "to Istio's istio-init",
    'beyond no mesh, ms',
    'p50, ms',
    'p90, ms',
    'p99, ms',
  ];
  const [line, table] = [runLine(results), markdownTable(head, rows)];
  const goals = markdownTable(GOAL_HEAD, goalRows(results.goals.filter(isOfStarts)));
  fill(join(root, 'README.md'), { start: `![${START_TITLE}](docs/start.svg)\n\n${table}\n\n${line}` });
  const tables = seriesTables(mesh).map(({ head, rows }) => markdownTable(head, rows));
  fill(join(root, FIGURES), {
    start: [`![${START_TITLE}](start.svg)`, table, line, ...tables, goals].join('\n\n'),
  });
  return ['docs/start.svg', 'README.md', FIGURES];
}

const GOAL_HEAD = ['goal', 'asked', 'measured', ''];
const START_TITLE = 'From the creation of a pod to the start of its application, by each way';

function cluster(results: Results): string {
  const rows = reckon(results, LARGE).map(({ label, node, cluster }) => [label, node, cluster]);
  if (rows.length === 0) return 'Not reckoned: what the controller costs could not be told in this run.';
  return markdownTable(['', 'a node', `${figure(LARGE.nodes)} nodes`], rows);
}

/** Replaces what stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`. */
function fill(path: string, blocks: Record<string, string>): void {
  let text = readFileSync(path, 'utf8');
  for (const [name, block] of Object.entries(blocks)) {
    const [open, close] = [`<!-- bench:${name} -->`, `<!-- /bench:${name} -->`];
    const [from, to] = [text.indexOf(open), text.indexOf(close)];
    if (from < 0 || to < from) throw new Error(`${path}: the markers ${open} and ${close} are not there`);
    text = `${text.slice(0, from + open.length)}\n\n${block.trim()}\n\n${text.slice(to)}`;
  }
  writeFileSync(path, text);
}

function summary(results: Results, single: WorkloadResult): string {
  const rows = single.series.map(({ group, name, summary, id }) => {
    const ours = single.series.find((each) => each.id === `${group}/ours`)?.summary.p50.value ?? Number.NaN;
    const { p50, p99 } = summary;
    const mark = id.endsWith('/ours') ? '**' : '';
    return [`${mark}${group}: ${name}${mark}`, `${figure(p50.value / ours)}x`, figure(p50.value), figure(p99.value)];
  });
  return [
    '![What one install costs, by each way](performance.svg)\n',
    markdownTable(['one install, IPv4 and IPv6', 'to ipnc', 'p50, us', 'p99, us'], rows),
    `\n${runLine(results)}`,
  ].join('\n');
}

function figures(results: Results): string {
  const sections = results.workloads.map((workload) => {
    if (workload.refused !== undefined)
      return `### ${workload.title}\n\nRefused, too noisy to tell: ${workload.refused}.`;
    const tables = seriesTables(workload).map(({ head, rows }) => markdownTable(head, rows));
    const listed = figureRows(workload);
    return [`### ${workload.title}`, ...tables, ...(listed.length > 0 ? [markdownTable(['', ''], listed)] : [])].join(
      '\n\n',
    );
  });
  return [runLine(results), ...sections].join('\n\n');
}

function runLine(results: Results): string {
  return `${machineText(results).trim().replace('\n', '; ')}.`;
}

function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(head), `|${head.map((_, at) => (at === 0 ? '---|' : '---:|')).join('')}`, ...rows.map(line)].join('\n');
}
