/** A full run's figures and picture into README.md and docs/: between markers, so that nobody copies by hand. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { figureRows, goalRows, machineText, seriesTables } from './print.ts';
import { LARGE, reckon } from './reckon.ts';
import { picture } from './report/picture.ts';
import type { Results, WorkloadResult } from './schema.ts';
import { figure } from './table.ts';

/** `root`: the folder of README.md. Throws where a run is not fit to be quoted. */
export function publish(results: Results, root: string): string[] {
  const single = results.workloads.find(({ name }) => name === 'single');
  // A part that was refused is told of without its figures; without this one there is nothing to tell.
  const unfit = results.workloads.filter(
    ({ name, refused, failed, skipped }) => failed ?? skipped ?? (name === 'single' ? refused : undefined),
  );
  if (results.mode !== 'full' || single === undefined) throw new Error('--publish: the run is not a full one');
  if (unfit.length > 0)
    throw new Error(`--publish: refused, failed or skipped in this run: ${unfit.map(({ name }) => name).join(', ')}`);
  writeFileSync(join(root, 'docs/performance.svg'), picture(single));
  fill(join(root, 'README.md'), { summary: summary(results, single) });
  fill(join(root, 'docs/performance.md'), {
    figures: figures(results),
    goals: markdownTable(['goal', 'asked', 'measured', ''], goalRows(results.goals)),
    cluster: cluster(results),
  });
  return ['docs/performance.svg', 'README.md', 'docs/performance.md'];
}

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
    '![What one install costs, by each way](docs/performance.svg)\n',
    markdownTable(['one install, IPv4 and IPv6', 'to ours', 'p50, us', 'p99, us'], rows),
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
