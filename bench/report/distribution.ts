/** Distributions under one another on one logarithmic axis: where most samples are, p50 with its interval, p99. */
import type { Series } from '../schema.ts';
import { escaped, logarithmic, short, uprights, words } from './scale.ts';

const WIDTH = 340;
const ROW = 40;
const [LEFT, RIGHT] = [8, 12];
/** Of the axis that one bar of the density is wide. */
const BINS = 90;

export function distributionChart(series: readonly Series[]): string {
  const all = series.flatMap(({ rounds }) => rounds.flat()).filter((value) => value > 0);
  const [low, high] = [Math.min(...all) * 0.9, Math.max(...all) * 1.1];
  const scale = logarithmic(low, high, LEFT, WIDTH - RIGHT);
  const height = series.length * ROW + 28;
  const unit = series[0]?.unit ?? 'us';
  const rows = series.map((each, at) => row(each, at * ROW, scale.at, low, high));
  return (
    `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="Distributions, ${unit}, logarithmic">` +
    uprights(scale, [4, height - 22]) +
    rows.join('') +
    words('tick', [WIDTH - RIGHT, height - 24], unit, 'end') +
    '</svg>'
  );
}

function row(
  { name, ours, rounds, summary, ratio }: Series,
  top: number,
  at: (value: number) => number,
  low: number,
  high: number,
) {
  const base = top + ROW - 6;
  const samples = rounds.flat().filter((value) => value > 0);
  const counts = new Array<number>(BINS).fill(0);
  const bin = (value: number) => Math.floor((Math.log(value / low) / Math.log(high / low)) * BINS);
  for (const value of samples) {
    const index = Math.min(BINS - 1, Math.max(0, bin(value)));
    counts[index] = (counts[index] ?? 0) + 1;
  }
  const highest = Math.max(...counts);
  const width = (WIDTH - LEFT - RIGHT) / BINS;
  const points = counts.map((count, index) => {
    const x = LEFT + (index + 0.5) * width;
    return `${x.toFixed(1)} ${(base - 16 * Math.sqrt(count / highest)).toFixed(1)}`;
  });
  const { p50, p99 } = summary;
  const x = (value: number) => at(value).toFixed(1);
  const told = ratio === undefined ? '' : `${short(ratio.value)}x, `;
  const kind = ours ? 'ours' : 'other';
  return (
    `<g class="${kind}"><title>${escaped(name)}: p50 ${short(p50.value)}, p99 ${short(p99.value)}</title>` +
    words('label', [LEFT, top + 14], name) +
    words('value', [WIDTH - RIGHT, top + 14], `${told}${short(p50.value)}`, 'end') +
    `<path class="density" d="M${LEFT} ${base}L${points.join('L')}L${WIDTH - RIGHT} ${base}Z"/>` +
    `<path class="interval" d="M${x(p50.low)} ${base}H${x(p50.high)}"/>` +
    `<path class="middle" d="M${x(p50.value)} ${base - 18}V${base + 3}"/>` +
    `<path class="tail" d="M${x(p99.value)} ${base - 7}V${base + 3}"/></g>`
  );
}
