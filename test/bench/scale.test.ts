/** The model of a cluster's costs (bench/scale/model.ts). */
import assert from 'node:assert/strict';
import { errorOf, fit, type Measured, type Model, meansOf, type Point, predict } from '../../bench/scale/model.ts';
import { suite } from '../suite.ts';

const test = suite('bench, model of a cluster');

const MODEL: Model = { base: 0.05, node: 0.0004, pod: 0.02, watched: 0.004, mark: 0.006, event: 0.003 };
const POINTS: Point[] = [
  [0, 0, 'all'] as const,
  [0, 30, 'all'] as const,
  [25, 0, 'all'] as const,
  [25, 30, 'all'] as const,
  [50, 0, 'all'] as const,
  [50, 15, 'all'] as const,
  [50, 30, 'all'] as const,
  [50, 30, 'failures'] as const,
  [25, 30, 'failures'] as const,
  [1, 30, 'all'] as const,
].map(([nodes, startsPerSecond, marks]) => ({
  nodes,
  startsPerSecond,
  marks,
  events: marks === 'all' ? Math.min(nodes, startsPerSecond) : 0,
}));
const measured = (wrong = 0): Measured[] =>
  POINTS.map((point, at) => ({ ...point, value: predict(MODEL, point) * (1 + (at % 2 === 0 ? wrong : -wrong)) }));

test('its parts are found again, and it predicts a cluster that was not measured', () => {
  const found = fit(measured());
  for (const part of ['base', 'node', 'pod', 'watched', 'mark', 'event'] as const)
    assert.ok(Math.abs(found[part] - MODEL[part]) < 1e-9, `${part}: ${found[part]}`);
  const large: Point = { nodes: 5000, startsPerSecond: 50_000, marks: 'all', events: 5000 };
  assert.ok(Math.abs(predict(found, large) - (0.05 + 2 + 50_000 * 0.03 + 15)) < 1e-6);
  const without = predict(found, large) - predict(found, { ...large, marks: 'failures', events: 0 });
  assert.ok(Math.abs(without - 315) < 1e-6, `${without}`);
});

test('a large cost that is a little wrong does not hide a small one', () => {
  const points = measured().map((point) =>
    point.startsPerSecond === 30 ? { ...point, value: 1.03 * point.value } : point,
  );
  const { node } = fit(points);
  assert.ok(Math.abs(node / MODEL.node - 1) < 0.02, `${node}`);
});

test('no part is negative, whatever the machine did between two points', () => {
  // Without controllers the API server was slower, so watching a pod seems to save CPU.
  const points = measured().map((point) => (point.nodes === 0 ? { ...point, value: 1.5 * point.value } : point));
  const found = fit(points);
  for (const [part, value] of Object.entries(found)) assert.ok(value >= 0, `${part}: ${value}`);
  assert.equal(found.watched, 0);
  assert.ok(found.pod > MODEL.pod && found.mark > 0, JSON.stringify(found));
  assert.equal(fit(measured().map((point) => ({ ...point, value: 0 }))).pod, 0);
});

test('the measurements of a point in several rounds count as their mean', () => {
  const other = { nodes: 50, startsPerSecond: 30, marks: 'all' as const, events: 20, value: 1 };
  const means = meansOf([
    { ...other, value: 3 },
    { ...other, marks: 'failures', events: 0, value: 8 },
    { ...other, events: 40, value: 5 },
  ]);
  assert.deepEqual(means, [
    { ...other, events: 30, value: 4 },
    { ...other, marks: 'failures', events: 0, value: 8 },
  ]);
});

test('its error is that of points that it was not made of', () => {
  assert.ok(errorOf(measured()) < 1e-9);
  const error = errorOf(measured(0.05));
  assert.ok(error > 0.01 && error < 0.5, `${error}`);
});

test('too few points are refused', () => {
  assert.throws(() => fit(measured().slice(0, 4)), /do not determine the model/);
  assert.throws(() => fit(measured().filter(({ marks }) => marks === 'all')), /do not determine the model/);
});
