/** Stages one after the other, a bar for each way, on one axis of milliseconds. */
import type { Chart } from '../schema.ts';
import { escaped, linear, short } from './scale.ts';

type Waterfall = Extract<Chart, { kind: 'waterfall' }>;

const WIDTH = 340;
const ROW = 42;
const [LEFT, RIGHT] = [8, 24];

export function waterfallChart({ title, bars }: Waterfall): string {
  const height = bars.length * ROW + 26;
  // What waits by polling is longer than all else by far: its bar is cut off, and says how long it is.
  const ends = bars.map(({ stages }) => stages.at(-1)?.to ?? 0);
  const limit = Math.min(Math.max(...ends), 2.5 * Math.min(...ends));
  const scale = linear(limit, LEFT, WIDTH - RIGHT);
  const names = [...new Set(bars.flatMap(({ stages }) => stages.map(({ name }) => name)))];
  const edge = WIDTH - RIGHT + 10;
  const grid = scale.ticks.map((tick) => {
    const x = scale.at(tick).toFixed(1);
    return `<path class="grid" d="M${x} 4V${height - 22}"/><text class="tick" x="${x}" y="${height - 8}" text-anchor="middle">${short(tick)}</text>`;
  });
  const rows = bars.map(({ name, stages }, at) => {
    const top = at * ROW;
    const parts = stages.map((stage) => {
      const [from, to] = [Math.min(edge, scale.at(stage.from)), Math.min(edge, scale.at(stage.to))];
      const color = names.indexOf(stage.name) % 8;
      const told = `${stage.name}: ${short(stage.from)} to ${short(stage.to)} ms`;
      return `<rect class="c${color}" x="${from.toFixed(1)}" y="${top + 20}" width="${Math.max(0.6, to - from).toFixed(1)}" height="14"><title>${escaped(told)}</title></rect>`;
    });
    return (
      `<text class="label" x="${LEFT}" y="${top + 15}">${escaped(name)}</text>` +
      `<text class="value" x="${WIDTH - RIGHT}" y="${top + 15}" text-anchor="end">${short(stages.at(-1)?.to ?? 0)} ms</text>${parts.join('')}`
    );
  });
  const legend = names.map((name, index) => `<li class="c${index % 8}">${escaped(name)}</li>`);
  return (
    `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escaped(title)}, ms">${grid.join('')}${rows.join('')}</svg>` +
    `<ul class="legend">${legend.join('')}</ul>`
  );
}
