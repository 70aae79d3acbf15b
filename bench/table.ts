/** Numbers and tables for people. */

const grouped = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** `41,214`; one decimal below 100, two below 10. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return '-';
  const size = Math.abs(value);
  return size >= 100 ? grouped.format(value) : value.toFixed(size < 10 ? 2 : 1);
}

/** `1.37x`, `41.2x`, `355x`. */
export function ratio(value: number): string {
  return `${figure(value)}x`;
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
