/**
 * What a cluster costs its API server, as a linear model of measured points: a part for each node, one for each pod that
 * starts and ends, one for each of these that gets a mark, and one for each Event.
 */

/** One measurement, or a question to the model. */
export interface Point {
  nodes: number;
  /** Pods of the mesh that start in a second, in the whole cluster, and as many that end. */
  startsPerSecond: number;
  marks: 'all' | 'failures';
  /** Events that the controllers create in a second. */
  events: number;
}

export interface Measured extends Point {
  value: number;
}

/** One point for all measurements of the same nodes, starts and marks. Each of its numbers is the mean of theirs. */
export function meansOf<T extends Point>(points: readonly T[]): T[] {
  const same = ({ nodes, startsPerSecond, marks }: Point) => `${nodes} ${startsPerSecond} ${marks}`;
  return Object.values(Object.groupBy(points, same)).map((group = []) => {
    const [first] = group as [T, ...T[]];
    const mean = ([name, value]: [string, unknown]) =>
      typeof value === 'number'
        ? [name, group.reduce((sum, point) => sum + Number(point[name as keyof T]), 0) / group.length]
        : [name, value];
    return Object.fromEntries(Object.entries(first).map(mean)) as T;
  });
}

/** The value is the sum of these. */
export interface Model {
  base: number;
  node: number;
  /** A pod's start and end, whether controllers watch or not. */
  pod: number;
  /** In addition, if a controller watches the pod. */
  watched: number;
  /** In addition, if the pod gets a mark. */
  mark: number;
  event: number;
}

/** All values below this share of the largest one weigh the same, because the error of a value near zero is not relative. */
const LEAST_SHARE = 0.01;

const PARTS = ['base', 'node', 'pod', 'watched', 'mark', 'event'] as const;

function termsOf({ nodes, startsPerSecond, marks, events }: Point): number[] {
  const watched = nodes > 0 ? startsPerSecond : 0;
  return [1, nodes, startsPerSecond, watched, marks === 'all' ? watched : 0, events];
}

/**
 * Least squares of relative errors, because a machine that is slow for a while makes every cost larger by the same share. A
 * part that would be negative is left out, because nothing has a negative cost. Such a part comes from the machine, which
 * differs a little between two points. Throws if the points do not determine the model.
 */
export function fit(points: readonly Measured[]): Model {
  const parts = PARTS.map((_, at) => at);
  for (;;) {
    const found = leastSquares(points, parts);
    const least = Math.min(...found);
    if (least >= 0) {
      const [base = 0, node = 0, pod = 0, watched = 0, mark = 0, event = 0] = PARTS.map(
        (_, at) => found[parts.indexOf(at)] ?? 0,
      );
      return { base, node, pod, watched, mark, event };
    }
    parts.splice(found.indexOf(least), 1);
  }
}

/** The values of these parts, by their places in PARTS. */
function leastSquares(points: readonly Measured[], parts: readonly number[]): number[] {
  const size = parts.length;
  const largest = Math.max(...points.map(({ value }) => Math.abs(value)));
  const matrix = Array.from({ length: size }, () => Array.from({ length: size + 1 }, () => 0));
  for (const point of points) {
    const all = termsOf(point);
    const weight = 1 / (Math.max(Math.abs(point.value), LEAST_SHARE * largest) || 1);
    const terms = parts.map((at) => weight * (all[at] ?? 0));
    for (const [at, row] of matrix.entries()) {
      for (const [column, term] of terms.entries()) row[column] = (row[column] ?? 0) + (terms[at] ?? 0) * term;
      row[size] = (row[size] ?? 0) + (terms[at] ?? 0) * weight * point.value;
    }
  }
  return solved(matrix);
}

/** Gauss and Jordan, with the largest pivot of each column. Changes `matrix`. */
function solved(matrix: number[][]): number[] {
  const scale = Math.max(...matrix.flat().map(Math.abs));
  for (let column = 0; column < matrix.length; column++) {
    const rest = matrix.slice(column);
    const pivot = rest.reduce((best, row) => (Math.abs(row[column] ?? 0) > Math.abs(best[column] ?? 0) ? row : best));
    const divisor = pivot[column] ?? 0;
    if (Math.abs(divisor) <= 1e-12 * scale) throw new Error('these points do not determine the model');
    const at = matrix.indexOf(pivot);
    [matrix[column], matrix[at]] = [pivot, matrix[column] ?? pivot];
    for (const [other, row] of matrix.entries()) {
      const factor = (row[column] ?? 0) / divisor;
      if (other !== column)
        for (const [place, value] of pivot.entries()) row[place] = (row[place] ?? 0) - factor * value;
    }
    for (const [place, value] of pivot.entries()) pivot[place] = value / divisor;
  }
  return matrix.map((row) => row.at(-1) ?? 0);
}

export function predict(model: Model, point: Point): number {
  return PARTS.reduce((sum, part, at) => sum + model[part] * (termsOf(point)[at] ?? 0), 0);
}

/**
 * Leaves out each point in turn, and predicts it from the others. Returns the largest error, as a share of the largest
 * measured value. A point without which the others do not determine the model does not count.
 */
export function errorOf(points: readonly Measured[]): number {
  const largest = Math.max(...points.map(({ value }) => value));
  const errors = points.flatMap((point) => {
    try {
      const model = fit(points.filter((other) => other !== point));
      return [Math.abs(predict(model, point) - point.value) / largest];
    } catch {
      return [];
    }
  });
  return Math.max(...errors);
}
