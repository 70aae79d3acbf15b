/** Numbers and tables. */

/** The p-th percentile (0 to 1) of unsorted samples. */
export function percentile(samples: readonly number[], p: number): number {
  const sorted = samples.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(p * sorted.length))] ?? Number.NaN;
}

const grouped = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** `41,214`; one decimal below 100. */
export function figure(value: number): string {
  return value < 100 ? value.toFixed(1) : grouped.format(value);
}

/** `1.37x`, `41.2x`, `355x`. */
export function ratio(value: number): string {
  return `${value < 10 ? value.toFixed(2) : figure(value)}x`;
}

/** Columns: the first to the left, the others to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
  return all
    .map((row) =>
      row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  '),
    )
    .map((line) => `  ${line.trimEnd()}\n`)
    .join('');
}
