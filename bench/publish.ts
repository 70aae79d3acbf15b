/**
 * A full run's figures and pictures into README.md and docs/: between markers, so that nobody copies by hand. Five workloads
 * are runs of their own, with tables of their own: a pod's start (`--only mesh`), a connection (`--only connection`),
 * RunPodSandbox (`--only sandbox`), a dense node and a cluster (`--only scale`), and a cold node (`--only cold`).
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PUBLISHED_ALONE } from './cli.ts';
import { isOfColdNodes, isOfConnections, isOfSandboxes, isOfStarts } from './goals.ts';
import { figureRows, goalRows, machineText, seriesTables } from './print.ts';
import { connectionPicture, picture, startPicture } from './report/picture.ts';
import type { GoalResult, Results, WorkloadResult } from './schema.ts';
import { figure } from './table.ts';

/** The text that explains them is docs/performance.md, which no run changes. */
const FIGURES = 'docs/performance-figures.md';
/** Without the figures of one of these there is nothing to report. */
const ESSENTIAL: readonly string[] = ['single', ...PUBLISHED_ALONE];

/** `root`: the folder of README.md. Throws where a run is not fit to be quoted. */
export function publish(results: Results, root: string): string[] {
  const of = (name: string) => results.workloads.find((workload) => workload.name === name);
  const [single, mesh, connection, sandbox, scale, cold] = ESSENTIAL.map(of);
  // Another part that was refused is reported without its figures.
  const unfit = results.workloads.filter(
    ({ name, refused, failed, skipped }) => failed ?? skipped ?? (ESSENTIAL.includes(name) ? refused : undefined),
  );
  if (results.mode !== 'full' || (single ?? mesh ?? connection ?? sandbox ?? scale ?? cold) === undefined)
    throw new Error('--publish: the run is not a full one');
  if (unfit.length > 0)
    throw new Error(`--publish: refused, failed or skipped in this run: ${unfit.map(({ name }) => name).join(', ')}`);
  return [
    ...(single === undefined ? [] : publishInstalls(results, single, root)),
    ...(mesh === undefined ? [] : publishStarts(results, mesh, root)),
    ...(connection === undefined ? [] : publishConnections(results, connection, root)),
    ...(sandbox === undefined ? [] : publishSandboxes(results, sandbox, root)),
    ...(scale === undefined ? [] : publishTables(results, scale, root)),
    ...(cold === undefined ? [] : publishTables(results, cold, root, results.goals.filter(isOfColdNodes))),
  ];
}

function publishInstalls(results: Results, single: WorkloadResult, root: string): string[] {
  const rest = {
    ...results,
    workloads: results.workloads.filter(({ name }) => name === 'single' || !ESSENTIAL.includes(name)),
  };
  const apart = [isOfStarts, isOfConnections, isOfSandboxes, isOfColdNodes];
  const goals = results.goals.filter((goal) => !apart.some((isOf) => isOf(goal)));
  writeFileSync(join(root, 'docs/performance.svg'), picture(single));
  fill(join(root, FIGURES), {
    summary: summary(results, single),
    figures: figures(rest),
    goals: markdownTable(GOAL_HEAD, goalRows(goals)),
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
    'compared with istio-init',
    'more than without a mesh, ms',
    'p50, ms',
    'p90, ms',
    'p99, ms',
  ];
  const [line, table] = [runLine(results), markdownTable(head, rows)];
  const goals = markdownTable(GOAL_HEAD, goalRows(results.goals.filter(isOfStarts)));
  fill(join(root, 'README.md'), { start: `![${START_TITLE}](docs/start.svg)\n\n${table}\n\n${line}` });
  const used = mesh.figures.length === 0 ? [] : [markdownTable(['', ''], figureRows(mesh))];
  const tables = seriesTables(mesh).map(({ head, rows }) => markdownTable(head, rows));
  fill(join(root, FIGURES), {
    start: [`![${START_TITLE}](start.svg)`, table, line, ...tables, stagesTable(mesh), ...used, goals].join('\n\n'),
  });
  return ['docs/start.svg', 'README.md', FIGURES];
}

/** Ways whose stages are compared. */
const STAGED = ['app/none', 'app/istio-init', 'app/template-sidecar'];

/** A table of when each stage of a start ended, for some ways. */
function stagesTable({ series, charts }: WorkloadResult): string {
  const names = STAGED.flatMap((id) => series.filter((each) => each.id === id)).map(({ name }) => name);
  const bars = charts.flatMap((chart) => (chart.kind === 'waterfall' ? chart.bars : []));
  const ends = names.map((name) => {
    const stages = bars.find((bar) => bar.name === name)?.stages ?? [];
    return new Map(stages.map(({ name, to }) => [name, to]));
  });
  const rows = [...new Set(ends.flatMap((end) => [...end.keys()]))].map((stage) => {
    const cells = ends.map((end) => end.get(stage));
    return {
      last: Math.max(...cells.map((at) => at ?? 0)),
      row: [stage, ...cells.map((at) => (at === undefined ? '' : figure(at)))],
    };
  });
  const sorted = rows.sort((a, b) => a.last - b.last).map(({ row }) => row);
  return markdownTable(['end of each stage, ms, p50', ...names], sorted);
}

function publishConnections(results: Results, connection: WorkloadResult, root: string): string[] {
  const { series } = connection;
  const p50 = (id: string) => series.find((each) => each.id === id)?.summary.p50.value ?? Number.NaN;
  const paths = [
    ["the app's connection", 'outbound'],
    ["the proxy's own connection", 'upstream'],
  ] as const;
  const groups = paths.map(([name, path]) => {
    const at = `ports-1000/${path}/4`;
    const rows = series.filter(({ id }) => id.startsWith(`${at}/`) && id !== `${at}/none`);
    return {
      name: `${name}, with 1,000 excluded ports`,
      rows: rows.map(({ id, name, ours }) => ({ name, ours, value: p50(id) - p50(`${at}/none`) })),
    };
  });
  writeFileSync(join(root, 'docs/connection.svg'), connectionPicture(groups));
  const beyond = (path: string, form: string) => {
    return figure(p50(`ports-1000/${path}/4/${form}`) - p50(`ports-1000/${path}/4/none`));
  };
  const said = ['outbound', 'upstream'].map((path) => {
    return [beyond(path, 'ours-legacy'), beyond(path, 'ours-nftables'), beyond(path, 'istio-legacy')];
  });
  const [[legacy, nftables, istio] = [], [ownLegacy, ownNftables, ownIstio] = []] = said;
  const sentence =
    `The rules cost each new connection some time as well. With 1,000 excluded ports, a connection of the app takes ${legacy} us ` +
    `more than without rules (nftables: ${nftables} us), and with Istio's iptables rules ${istio} us more. A connection that the ` +
    `proxy itself opens takes ${ownLegacy} us more (nftables: ${ownNftables} us), and with Istio's ${ownIstio} us more.`;
  const line = runLine(results);
  fill(join(root, 'README.md'), {
    connection: `${sentence}\n\n![${CONNECTION_TITLE}](docs/connection.svg)\n\n${line}`,
  });
  const tables = seriesTables(connection).map(({ head, rows }) => markdownTable(head, rows));
  const goals = markdownTable(GOAL_HEAD, goalRows(results.goals.filter(isOfConnections)));
  fill(join(root, FIGURES), {
    connection: [
      `![${CONNECTION_TITLE}](connection.svg)`,
      line,
      goals,
      markdownTable(['', ''], figureRows(connection)),
      ...tables,
    ].join('\n\n'),
  });
  return ['docs/connection.svg', 'README.md', FIGURES];
}

/** With its heading: until the first run there is nothing between the markers. */
function publishSandboxes(results: Results, sandbox: WorkloadResult, root: string): string[] {
  const goals = markdownTable(GOAL_HEAD, goalRows(results.goals.filter(isOfSandboxes)));
  const figures = markdownTable(['', ''], figureRows(sandbox));
  const tables = seriesTables(sandbox).map(({ head, rows }) => markdownTable(head, rows));
  const parts = ['## RunPodSandbox, with NRI and without', runLine(results), goals, figures, ...tables];
  fill(join(root, FIGURES), { sandbox: parts.join('\n\n') });
  return [FIGURES];
}

/** Into the block of the workload's name. */
function publishTables(results: Results, workload: WorkloadResult, root: string, goals: GoalResult[] = []): string[] {
  const tables = seriesTables(workload).map(({ head, rows }) => markdownTable(head, rows));
  const figures = markdownTable(['', ''], figureRows(workload));
  const checked = goals.length === 0 ? [] : [markdownTable(GOAL_HEAD, goalRows(goals))];
  fill(join(root, FIGURES), { [workload.name]: [runLine(results), ...checked, ...tables, figures].join('\n\n') });
  return [FIGURES];
}

const CONNECTION_TITLE = 'What the rules add to a new connection, by each form of the rules';
const GOAL_HEAD = ['goal', 'asked', 'measured', ''];
const START_TITLE = 'From the creation of a pod to the start of its application, by each way';

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
