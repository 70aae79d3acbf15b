/** A run as one page that needs nothing else: no script, no network; light or dark as the reader has it. */
import { readFileSync } from 'node:fs';
import { figureRows, goalRows, machineText, seriesTables } from '../print.ts';
import type { Chart, Results, WorkloadResult } from '../schema.ts';
import { distributionChart } from './distribution.ts';
import { linesChart } from './lines.ts';
import { escaped } from './scale.ts';
import { waterfallChart } from './waterfall.ts';

export function reportPage(results: Results): string {
  const style = readFileSync(new URL('style.css', import.meta.url), 'utf8');
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What pod initialisation costs, ${results.made.slice(0, 10)}</title>
<style>
${style}</style>
<h1>What pod initialisation costs</h1>
${machineText(results)
  .trim()
  .split('\n')
  .map((line) => `<p>${escaped(line)}</p>`)
  .join('\n')}
<p>Absolute figures are this machine's; ratios, to what was measured beside them in the same rounds, are what counts. A
distribution's thick line is the interval in which its p50 lies with 95 % confidence, the short one its p99.</p>
${results.workloads.map(section).join('\n')}
${goalSection(results)}
</html>
`;
}

function section(workload: WorkloadResult): string {
  const { title, skipped, failed, refused } = workload;
  const head = `<h2>${escaped(title)}</h2>`;
  if (skipped !== undefined) return `${head}\n<p>Skipped: ${escaped(skipped)}</p>`;
  if (failed !== undefined) return `${head}\n<p class="bad">Failed: ${escaped(failed.split('\n')[0] ?? '')}</p>`;
  const charts = workload.charts.map(
    (chart) => `<div class="card"><h3>${escaped(chart.title)}</h3>${chartOf(chart, workload)}</div>`,
  );
  const tables = seriesTables(workload).map(({ head, rows }) => htmlTable(head, rows));
  const figures = figureRows(workload);
  if (figures.length > 0) tables.push(htmlTable([], figures));
  return [
    head,
    refused === undefined ? '' : `<p class="bad">Refused, the machine was too noisy to tell: ${escaped(refused)}</p>`,
    charts.length > 0 ? `<div class="charts">${charts.join('\n')}</div>` : '',
    `<details${charts.length > 0 ? '' : ' open'}><summary>Figures</summary>${tables.join('\n')}</details>`,
  ].join('\n');
}

function chartOf(chart: Chart, { series }: WorkloadResult): string {
  if (chart.kind === 'lines') return linesChart(chart);
  if (chart.kind === 'waterfall') return waterfallChart(chart);
  return distributionChart(series.filter(({ id }) => chart.series.includes(id)));
}

function goalSection({ goals }: Results): string {
  const rows = goalRows(goals).map((cells) => {
    const verdict = cells.at(-1) ?? '';
    const kind = verdict === 'met' ? 'good' : verdict === 'MISSED' ? 'bad' : '';
    const last = kind === '' ? '' : ` class="${kind}"`;
    return `<tr>${cells.map((cell, at) => `<td${at === 3 ? last : ''}>${escaped(cell)}</td>`).join('')}</tr>`;
  });
  const head = '<tr><th>goal<th>asked<th>measured<th></tr>';
  return `<h2>Goals</h2>\n<div class="scroll"><table>${head}${rows.join('')}</table></div>`;
}

function htmlTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (row: readonly string[], kind: string) =>
    row.map((cell) => `<${kind}>${escaped(cell)}</${kind}>`).join('');
  const heading = head.length > 0 ? `<tr>${cells(head, 'th')}</tr>` : '';
  return `<div class="scroll"><table>${heading}${rows.map((row) => `<tr>${cells(row, 'td')}</tr>`).join('')}</table></div>`;
}
