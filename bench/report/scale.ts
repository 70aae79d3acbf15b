/** Axes, and the words on a chart. */
export interface Scale {
  at(value: number): number;
  /** Where lines are drawn and numbers written. */
  ticks: number[];
}

/** From `low` to `high`, both above 0, onto `from` to `to`. */
export function logarithmic(low: number, high: number, from: number, to: number): Scale {
  const [first, last] = [Math.log10(low), Math.log10(high)];
  const span = last - first || 1;
  const ticks: number[] = [];
  for (let decade = Math.floor(first); decade <= Math.ceil(last); decade++) {
    for (const step of span < 1.5 ? [1, 2, 5] : [1]) {
      const tick = Number((step * 10 ** decade).toPrecision(3));
      if (tick >= low && tick <= high) ticks.push(tick);
    }
  }
  return { at: (value) => from + ((Math.log10(value) - first) / span) * (to - from), ticks };
}

/** From 0 to a round number that is at least `high`, onto `from` to `to`. */
export function linear(high: number, from: number, to: number): Scale {
  const rough = (high || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 2.5, 5, 10].find((each) => each * power >= rough) ?? 10) * power;
  const count = Math.ceil((high || 1) / step);
  const ticks = Array.from({ length: count + 1 }, (_, at) => Number((at * step).toPrecision(6)));
  return { at: (value) => from + (value / (step * count)) * (to - from), ticks };
}

/** `1.5k`, `250`, `0.5` */
export function short(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e3) return `${Number((value / 1e3).toPrecision(3))}k`;
  return String(Number(value.toPrecision(3)));
}

export function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}

/** A word on a chart, of a class of style.css, at a place. */
export function words(kind: string, [x, y]: readonly [number, number], text: string, anchor = 'start'): string {
  return `<text class="${kind}" x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}">${escaped(text)}</text>`;
}

/** Upright lines from `top` to `bottom` with their numbers below. */
export function uprights({ at, ticks }: Scale, [top, bottom]: readonly [number, number], told = short): string {
  return ticks
    .map((tick) => {
      const line = `<path class="grid" d="M${at(tick).toFixed(1)} ${top}V${bottom}"/>`;
      return line + words('tick', [at(tick), bottom + 14], told(tick), 'middle');
    })
    .join('');
}
