/** Lines over one another: latency or throughput over load. Both axes are logarithmic where that spreads the points. */
import type { Chart } from '../schema.ts';
import { escaped, linear, logarithmic, type Scale, short, words } from './scale.ts';

type Lines = Extract<Chart, { kind: 'lines' }>;

const [WIDTH, HEIGHT] = [340, 230];
const [LEFT, RIGHT, TOP, BOTTOM] = [40, 12, 12, 36];

export function linesChart({ title, x, y, lines }: Lines): string {
  const points = lines.flatMap((line) => line.points).filter((point) => point.x > 0 && point.y > 0);
  const bounds = (of: number[]) => [Math.min(...of), Math.max(...of)] as const;
  const [firstX, lastX] = bounds(points.map((point) => point.x));
  const [lowest, highest] = bounds(points.map((point) => point.y));
  const across = logarithmic(firstX, lastX, LEFT, WIDTH - RIGHT);
  const up: Scale =
    highest / lowest > 8
      ? logarithmic(lowest * 0.8, highest * 1.2, HEIGHT - BOTTOM, TOP)
      : linear(highest * 1.05, HEIGHT - BOTTOM, TOP);
  const ticks = [...new Set(lines.flatMap((line) => line.points.map((point) => point.x)))];
  const grid = [
    ...up.ticks.map((tick) => {
      const line = `<path class="grid" d="M${LEFT} ${up.at(tick).toFixed(1)}H${WIDTH - RIGHT}"/>`;
      return line + words('tick', [LEFT - 5, up.at(tick) + 4], short(tick), 'end');
    }),
    ...ticks.map((tick) => words('tick', [across.at(tick), HEIGHT - BOTTOM + 15], short(tick), 'middle')),
  ];
  const drawn = lines.map(({ points }, index) => {
    const kept = points.filter((point) => point.x > 0 && point.y > 0);
    const places = kept.map((point) => [across.at(point.x).toFixed(1), up.at(point.y).toFixed(1)] as const);
    const marks = places.map(([cx, cy], at) => {
      const told = `${short(kept[at]?.x ?? 0)}: ${short(kept[at]?.y ?? 0)}`;
      return `<circle cx="${cx}" cy="${cy}" r="3"><title>${told}</title></circle>`;
    });
    const line = places.map((place) => place.join(' ')).join('L');
    return `<g class="line c${index % 8}"><path d="M${line}"/>${marks.join('')}</g>`;
  });
  const legend = lines.map(({ name }, index) => `<li class="c${index % 8}">${escaped(name)}</li>`);
  return (
    `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escaped(`${title}: ${y} over ${x}`)}">` +
    grid.join('') +
    drawn.join('') +
    words('tick', [WIDTH - RIGHT, HEIGHT - 5], x, 'end') +
    words('tick', [LEFT + 4, TOP], y) +
    `</svg><ul class="legend">${legend.join('')}</ul>`
  );
}
