/** Stages one after the other, a bar for each way, on one axis of milliseconds. */
import type { Chart } from '../schema.ts';
import { escaped, linear, short, uprights, words } from './scale.ts';

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
  const rows = bars.map(({ name, stages }, at) => {
    const top = at * ROW;
    const parts = stages.map((stage) => {
      const [from, to] = [Math.min(edge, scale.at(stage.from)), Math.min(edge, scale.at(stage.to))];
      const color = names.indexOf(stage.name) % 8;
      const told = `${stage.name}: ${short(stage.from)} to ${short(stage.to)} ms`;
      const width = Math.max(0.6, to - from).toFixed(1);
      const place = `x="${from.toFixed(1)}" y="${top + 20}" width="${width}" height="14"`;
      return `<rect class="c${color}" ${place}><title>${escaped(told)}</title></rect>`;
    });
    return (
      words('label', [LEFT, top + 15], name) +
      words('value', [WIDTH - RIGHT, top + 15], `${short(stages.at(-1)?.to ?? 0)} ms`, 'end') +
      parts.join('')
    );
  });
  const legend = names.map((name, index) => `<li class="c${index % 8}">${escaped(name)}</li>`);
  return (
    `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escaped(title)}, ms">` +
    uprights(scale, [4, height - 22]) +
    `${rows.join('')}</svg>` +
    `<ul class="legend">${legend.join('')}</ul>`
  );
}
