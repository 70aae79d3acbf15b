/** The number of rules is known before they are made. */
import assert from 'node:assert/strict';
import { argumentsSource } from '../../lib/istio/arguments.ts';
import { plan } from '../../lib/istio/plan.ts';
import { redirect } from '../../lib/istio/redirect.ts';
import { MAX_RULES, rulesByOption } from '../../lib/istio/rule-count.ts';
import type { Ruleset } from '../../lib/ruleset/model.ts';
import { cases } from '../cases.ts';
import { suite } from '../suite.ts';

const test = suite('number of rules');

/** Jumps, exceptions for loopback and the proxy's own addresses, and what TPROXY adds: of no list. */
const FIXED = 50;

const rulesOf = ({ tables }: Ruleset) =>
  tables.flatMap(({ chains }) => chains.flatMap(({ inserts, rules }) => [...inserts, ...rules])).length;
const specOf = (args: readonly string[]) =>
  redirect({ flags: argumentsSource(args, 'flags') }, () => ['10.96.0.10']).spec;
const countOf = (args: readonly string[]) => rulesByOption(specOf(args)).reduce((sum, [, rules]) => sum + rules, 0);
const list = (length: number, item: (at: number) => string) => Array.from({ length }, (_, at) => item(at)).join();

for (const { name, args } of cases.filter(({ args }) => !args.some((word) => /^[a-z]+:/.test(word)))) {
  test(`is not too low, and not far too high: ${name}`, () => {
    const [counted, made] = [countOf(args), rulesOf(plan(specOf(args), [4, 6]))];
    assert.ok(made <= counted + FIXED, `${made} rules, counted ${counted}`);
    assert.ok(counted <= 2 * made + FIXED, `${made} rules, counted ${counted}`);
  });
}

test('the count grows with each list like the number of rules', () => {
  const lists: [flag: string, item: (at: number) => string, ...more: string[]][] = [
    ['-b', String],
    ['-d', String],
    ['-o', String],
    ['-q', String],
    ['-c', (at) => `e${at}`],
    ['-i', (at) => `10.0.${at}.0/24`],
    ['-x', (at) => `10.0.${at}.0/24`],
    ['-k', (at) => `k${at}`, '-i', '10.1.0.0/16,10.2.0.0/16,10.3.0.0/16'],
    ['--dns-servers', (at) => `10.0.0.${at}`, '--redirect-dns'],
    ['--owner-groups-exclude', String],
  ];
  for (const mode of ['REDIRECT', 'TPROXY']) {
    for (const [flag, item, ...more] of lists) {
      const args = (length: number) => ['-m', mode, ...more, flag, list(length, (at) => item(at + 1))];
      const [few, many] = [args(10), args(110)];
      const made = rulesOf(plan(specOf(many), [4, 6])) - rulesOf(plan(specOf(few), [4, 6]));
      assert.equal(countOf(many) - countOf(few), made, `${mode} ${flag}`);
    }
  }
});

test('a spec of too many rules is refused, in time that does not depend on how many it would make', () => {
  const ranges = list(1000, (at) => `10.${at >> 8}.${at & 255}.0/24`);
  const args = ['-i', ranges, '-k', list(1000, (at) => `k${at}`)];
  assert.throws(() => specOf(args), {
    code: 'ERR_CONFIG',
    message: /^flags args -k: .*: leads to 1001000 of 1002\d\d\d rules; expected at most 4096 rules in total/,
  });
  assert.ok(rulesOf(plan(specOf(['-o', list(1000, (at) => `${at + 1}`), '-i', ranges]), [4, 6])) < MAX_RULES);
});
