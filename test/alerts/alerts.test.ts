/** The chart's alerts and its dashboard, as Prometheus reads them. */
import assert from 'node:assert/strict';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { suite } from '../suite.ts';
import { CHART, only, render } from '../support/helm.ts';
import { runToEnd } from '../support/process.ts';
import { scratchFolder } from '../support/scratch.ts';
import { alertPrograms } from './programs.ts';

const test = suite('alerts');
test.needs('helm', 'promtool');

const folder = scratchFolder('alerts');
const TESTS = join(import.meta.dirname, 'alerts.yaml');

interface Rules {
  groups: { rules: { alert: string; expr: string }[] }[];
}

/** The rules as the chart renders them for a cluster. */
async function rendered(): Promise<Rules> {
  const rule = only(await render(['monitoring.prometheusRule.enabled=true']), 'PrometheusRule');
  return (rule as unknown as { spec: Rules }).spec;
}

/** Writes the rules beside the tests, and runs promtool there. JSON is YAML. */
async function promtool(rules: unknown, ...args: string[]): Promise<{ code: unknown; said: string }> {
  writeFileSync(join(folder, 'rules.yaml'), JSON.stringify(rules));
  cpSync(TESTS, join(folder, 'alerts.yaml'));
  const { code, stdout, stderr } = await runToEnd(alertPrograms.path('promtool'), args, { cwd: folder });
  return { code, said: stdout + stderr };
}

test('Prometheus accepts the alerts, and refuses one with a mistake', async () => {
  const rules = await rendered();
  const count = rules.groups.flatMap(({ rules }) => rules).length;
  const { code, said } = await promtool(rules, 'check', 'rules', 'rules.yaml');
  assert.equal(code, 0, said);
  assert.match(said, new RegExp(`SUCCESS: ${count} rules found`));
  const wrong = await promtool(
    { groups: [{ name: 'wrong', rules: [{ alert: 'A', expr: 'sum by (' }] }] },
    'check',
    'rules',
    'rules.yaml',
  );
  assert.equal(wrong.code, 1, wrong.said);
});

test('each alert fires at its time, and not before', async () => {
  const rules = await rendered();
  const { code, said } = await promtool(rules, 'test', 'rules', 'alerts.yaml');
  assert.equal(code, 0, said);
  const { tests } = parse(readFileSync(TESTS, 'utf8')) as {
    tests: { alert_rule_test: { alertname: string; exp_alerts?: unknown }[] }[];
  };
  const fired = tests.flatMap((each) => each.alert_rule_test).filter((each) => each.exp_alerts !== undefined);
  const named = rules.groups.flatMap((group) => group.rules).map(({ alert }) => alert);
  assert.deepEqual(new Set(fired.map(({ alertname }) => alertname)), new Set(named));
});

test('the tests fail if the threshold of an alert changes', async () => {
  const text = JSON.stringify(await rendered());
  const moved = text.replace('queue_oldest_age_seconds) > 30', 'queue_oldest_age_seconds) > 28');
  assert.notEqual(moved, text);
  const { code, said } = await promtool(JSON.parse(moved), 'test', 'rules', 'alerts.yaml');
  assert.equal(code, 1, said);
  assert.match(said, /PodNetworkControllerStuck/);
});

test('Prometheus understands every expression of the dashboard', async () => {
  const dashboard = readFileSync(join(CHART, 'files/dashboard.json'), 'utf8');
  const expressions = [...dashboard.matchAll(/"expr": ("(?:[^"\\]|\\.)*")/g)].map(
    ([, text = '']) => JSON.parse(text) as string,
  );
  assert.ok(expressions.length >= 20);
  const rules = expressions.map((expr, at) => {
    return { record: `panel:${at}`, expr: expr.replaceAll('$__rate_interval', '1m').replaceAll('$node', '.*') };
  });
  const { code, said } = await promtool({ groups: [{ name: 'dashboard', rules }] }, 'check', 'rules', 'rules.yaml');
  assert.equal(code, 0, said);
  assert.match(said, new RegExp(`SUCCESS: ${rules.length} rules found`));
});
