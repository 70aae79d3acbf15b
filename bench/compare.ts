/**
 * Finds what got slower from one run to another. It compares ratios to a series that was measured in the same rounds,
 * so that the speed of the machine cancels out. A series is slower if its ratio grew by more than MARGIN, and by more
 * than SIGMAS standard errors of both runs. With that, fifty series of an unchanged tree lead to no finding.
 */
import { LEAST_ROUNDS } from './method.ts';
import type { Figure, Results, Series } from './schema.ts';
import { ratio, table } from './table.ts';

/**
 * Two runs of the same program differ by this much, because the layout of memory and the placement of threads change.
 */
const MARGIN = 1.15;
const SIGMAS = 3.3;

interface Change {
  id: string;
  name: string;
  /** Of the later ratio, or figure, to the earlier one. */
  grew: number;
  /** Below that, the growth may be chance. */
  threshold: number;
  verdict: 'slower' | 'faster' | 'same';
}

export interface Comparison {
  changes: Change[];
  /** What could not be compared, and why. */
  left: string[];
}

export function compare(before: Results, after: Results): Comparison {
  const changes: Change[] = [];
  const left: string[] = [];
  for (const earlier of before.workloads) {
    const later = after.workloads.find(({ name }) => name === earlier.name);
    const reason = (later === undefined ? 'not in the later run' : undefined) ?? unusable(earlier) ?? unusable(later);
    if (later === undefined || reason !== undefined) {
      left.push(`${earlier.name}: ${reason}`);
      continue;
    }
    for (const series of earlier.series) {
      const same = later.series.find(({ id }) => id === series.id);
      if (!series.ours || series.ratio === undefined) continue;
      if (same?.ratio === undefined || same.ratio.to !== series.ratio.to)
        left.push(`${earlier.name}, ${series.id}: only in one run`);
      else if (Math.min(series.rounds.length, same.rounds.length) < LEAST_ROUNDS)
        left.push(`${earlier.name}, ${series.id}: too few rounds to know what chance does`);
      else changes.push(seriesChange(earlier.name, series, same));
    }
    for (const figure of earlier.figures) {
      const same = later.figures.find(({ id }) => id === figure.id);
      if (figure.tolerance !== undefined && same !== undefined) changes.push(figureChange(earlier.name, figure, same));
    }
  }
  return { changes, left };
}

function unusable(workload: Results['workloads'][number] | undefined): string | undefined {
  const { skipped, failed, refused } = workload ?? {};
  if (refused !== undefined) return `refused, ${refused}`;
  if (failed !== undefined) return 'it failed';
  return skipped;
}

function seriesChange(workload: string, earlier: Series, later: Series): Change {
  const [before, after] = [earlier.ratio, later.ratio];
  if (before === undefined || after === undefined) throw new Error(`${earlier.id}: no ratio`);
  const grew = after.value / before.value;
  const threshold = MARGIN * Math.exp(SIGMAS * Math.hypot(before.logError, after.logError));
  const verdict = grew > threshold ? 'slower' : grew < 1 / threshold ? 'faster' : 'same';
  return {
    id: `${workload}/${earlier.id}`,
    name: `${workload}, ${earlier.group}, ${earlier.name}`,
    grew,
    threshold,
    verdict,
  };
}

function figureChange(workload: string, earlier: Figure, later: Figure): Change {
  const threshold = 1 + (earlier.tolerance ?? 0);
  // Of none there is no share.
  const grew = earlier.value === later.value ? 1 : later.value / earlier.value;
  const verdict = grew > threshold ? 'slower' : 'same';
  return { id: `${workload}/${earlier.id}`, name: `${workload}, ${earlier.label}`, grew, threshold, verdict };
}

export function comparisonText({ changes, left }: Comparison): string {
  const words = { slower: 'WORSE', faster: 'better', same: '' };
  const rows = changes
    .toSorted((a, b) => b.grew / b.threshold - a.grew / a.threshold)
    .map(({ name, grew, threshold, verdict }) => [name, ratio(grew), ratio(threshold), words[verdict]]);
  return [
    table(['later to earlier, each by its ratio in its own run', 'grew', 'noise', ''], rows),
    ...left.map((each) => `  not compared: ${each}\n`),
  ].join('');
}
