/** One install by each way, as one picture for a README: by itself, light and dark. */
import type { Series, WorkloadResult } from '../schema.ts';
import { figure, ratio } from '../table.ts';
import { escaped, logarithmic, short } from './scale.ts';

const WIDTH = 760;
const ROW = 26;
const [LEFT, RIGHT, TOP] = [245, 155, 34];
/** Between two groups. */
const GAP = 34;

const STYLE = `
text { font: 13px system-ui, sans-serif; fill: #1c1b19 }
.back { fill: #fcfcfb }
.soft { fill: #66645e; font-size: 12px }
.ours { fill: #1f6feb } .other { fill: #a8a59c } .grid { stroke: #e4e2dc }
.own { font-weight: 600 }
@media (prefers-color-scheme: dark) {
  .back { fill: #161614 }
  text { fill: #eceae4 } .soft { fill: #a5a299 }
  .ours { fill: #6ea8ff } .other { fill: #77746b } .grid { stroke: #37362f }
}`;

/** Of the workload `single`. On a ground of its own: the page it is shown on may be dark while the reader is not. */
export function picture({ series }: WorkloadResult): string {
  const groups = [...new Set(series.map(({ group }) => group))];
  const values = series.map(({ summary }) => summary.p50.value);
  const scale = logarithmic(Math.min(...values) / 2, Math.max(...values) * 1.1, LEFT, WIDTH - RIGHT);
  const parts: string[] = [];
  let top = TOP;
  for (const group of groups) {
    const rows = series.filter((each) => each.group === group);
    const ours = rows.find(({ id }) => id.endsWith('/ours'))?.summary.p50.value ?? Number.NaN;
    parts.push(
      `<text class="soft" x="12" y="${top - 8}">${escaped(group)}, one install for IPv4 and IPv6: p50 to ours, and in microseconds; logarithmic</text>`,
    );
    for (const each of rows) {
      parts.push(bar(each, ours, top, scale.at));
      top += ROW;
    }
    top += GAP;
  }
  const height = top - GAP + 26;
  const grid = scale.ticks.map((tick) => {
    const x = scale.at(tick).toFixed(1);
    return `<path class="grid" d="M${x} ${TOP - 4}V${height - 22}"/><text class="soft" x="${x}" y="${height - 6}" text-anchor="middle">${tick < 1000 ? `${short(tick)} us` : `${short(tick / 1000)} ms`}</text>`;
  });
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="What one install costs, by each way">` +
    `<style>${STYLE}</style>\n<path class="back" d="M0 0H${WIDTH}V${height}H0Z"/>\n${grid.join('')}\n${parts.join('\n')}\n</svg>\n`
  );
}

function bar({ name, ours: own, summary }: Series, ours: number, top: number, at: (value: number) => number): string {
  const { value } = summary.p50;
  const width = Math.max(1, at(value) - LEFT).toFixed(1);
  const bold = own ? ' class="own"' : '';
  return (
    `<text${bold} x="${LEFT - 10}" y="${top + 15}" text-anchor="end">${escaped(name)}</text>` +
    `<rect class="${own ? 'ours' : 'other'}" x="${LEFT}" y="${top + 3}" width="${width}" height="${ROW - 9}" rx="2"/>` +
    `<text${bold} x="${(at(value) + 7).toFixed(1)}" y="${top + 15}">${ratio(value / ours)}, ${figure(value)} us</text>`
  );
}
