/** The pictures of README.md and docs/: each by itself, light and dark. */
import type { Series, WorkloadResult } from '../schema.ts';
import { figure, ratio } from '../table.ts';
import { linear, logarithmic, short, uprights, words } from './scale.ts';

const WIDTH = 760;
const ROW = 26;
const [LEFT, RIGHT, TOP] = [245, 155, 34];
/** Between two groups. */
const GAP = 34;

const STYLE = `
text { font: 13px system-ui, sans-serif; fill: #1c1b19 }
.back { fill: #fcfcfb }
.tick { fill: #66645e; font-size: 12px }
.ours { fill: #1f6feb } .other { fill: #a8a59c } .grid { stroke: #e4e2dc }
.own { font-weight: 600 }
@media (prefers-color-scheme: dark) {
  .back { fill: #161614 }
  text { fill: #eceae4 } .tick { fill: #a5a299 }
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
    const what = `${group}, one install for IPv4 and IPv6: p50 to ipnc, and in microseconds; logarithmic`;
    parts.push(words('tick', [12, top - 8], what));
    for (const each of rows) {
      parts.push(bar(each, ours, top, scale.at));
      top += ROW;
    }
    top += GAP;
  }
  const height = top - GAP + 26;
  const told = (us: number) => (us < 1000 ? `${short(us)} us` : `${short(us / 1000)} ms`);
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" ` +
    `role="img" aria-label="What one install costs, by each way"><style>${STYLE}</style>\n` +
    `<path class="back" d="M0 0H${WIDTH}V${height}H0Z"/>\n${uprights(scale, [TOP - 4, height - 20], told)}\n` +
    `${parts.join('\n')}\n</svg>\n`
  );
}

/** From created to app started, in each way. `starts` are series in milliseconds with a ratio to Istio's own way. */
export function startPicture(starts: readonly Series[]): string {
  const left = 330;
  const scale = linear(Math.max(...starts.map(({ summary }) => summary.p50.value)), left, WIDTH - RIGHT);
  const height = TOP + starts.length * ROW + 26;
  const bars = starts.map(({ name, ours, summary, ratio: to }, at) => {
    const { value } = summary.p50;
    const top = TOP + at * ROW;
    const [kind, fill] = ours ? ['own', 'ours'] : ['their', 'other'];
    const width = Math.max(1, scale.at(value) - left).toFixed(1);
    const told = `${figure(value)} ms${to === undefined ? '' : `, ${ratio(to.value)}`}`;
    return (
      words(kind, [left - 10, top + 15], name, 'end') +
      `<rect class="${fill}" x="${left}" y="${top + 3}" width="${width}" height="${ROW - 9}" rx="2"/>` +
      words(kind, [scale.at(value) + 7, top + 15], told)
    );
  });
  const title = "From created to app started: p50 in milliseconds, and to Istio's istio-init";
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" ` +
    `role="img" aria-label="${title}"><style>${STYLE}</style>\n` +
    `<path class="back" d="M0 0H${WIDTH}V${height}H0Z"/>\n${words('tick', [12, TOP - 8], title)}\n` +
    `${uprights(scale, [TOP - 4, height - 20])}\n${bars.join('\n')}\n</svg>\n`
  );
}

/** What each form of the rules adds to a connection, in microseconds. */
export function connectionPicture(
  groups: readonly { name: string; rows: readonly { name: string; ours: boolean; value: number }[] }[],
): string {
  const most = Math.max(...groups.flatMap(({ rows }) => rows.map(({ value }) => value)));
  const scale = linear(most, LEFT, WIDTH - RIGHT);
  const parts: string[] = [];
  let top = TOP;
  for (const { name, rows } of groups) {
    parts.push(words('tick', [12, top - 8], `${name}: p50 in microseconds, beyond no rules`));
    for (const { name, ours, value } of rows) {
      const [kind, fill] = ours ? ['own', 'ours'] : ['their', 'other'];
      const width = Math.max(1, scale.at(Math.max(0, value)) - LEFT).toFixed(1);
      parts.push(
        words(kind, [LEFT - 10, top + 15], name, 'end') +
          `<rect class="${fill}" x="${LEFT}" y="${top + 3}" width="${width}" height="${ROW - 9}" rx="2"/>` +
          words(kind, [LEFT + Number(width) + 7, top + 15], `${figure(value)} us`),
      );
      top += ROW;
    }
    top += GAP;
  }
  const height = top - GAP + 26;
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" ` +
    `role="img" aria-label="What the rules add to a new connection"><style>${STYLE}</style>\n` +
    `<path class="back" d="M0 0H${WIDTH}V${height}H0Z"/>\n${uprights(scale, [TOP - 4, height - 20])}\n` +
    `${parts.join('\n')}\n</svg>\n`
  );
}

function bar({ name, ours: own, summary }: Series, ours: number, top: number, at: (value: number) => number): string {
  const { value } = summary.p50;
  const width = Math.max(1, at(value) - LEFT).toFixed(1);
  const kind = own ? 'own' : 'their';
  return (
    words(kind, [LEFT - 10, top + 15], name, 'end') +
    `<rect class="${own ? 'ours' : 'other'}" x="${LEFT}" y="${top + 3}" width="${width}" height="${ROW - 9}" rx="2"/>` +
    words(kind, [at(value) + 7, top + 15], `${ratio(value / ours)}, ${figure(value)} us`)
  );
}
