/** The tests written in C++, each of whose lines is a test here: `ok   name`, `FAIL name: why`. */

import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { lacking } from '../needs.ts';
import { suite } from '../suite.ts';
import { runSync } from '../support/process.ts';
import { testSeed } from '../support/random.ts';

const build = process.env.IPNC_BUILD ?? 'Release';
const program = fileURLToPath(new URL(`../../build/${build}/native_test`, import.meta.url));

const test = suite('native');
const needs = ['netns', 'ipv6', 'native_test', 'nft'];
test.needs(...needs);

if (needs.every((need) => lacking(need) === undefined)) {
  const { code, stdout, stderr } = runSync(program, [], {
    timeout: 540_000,
    env: { ...process.env, ASAN_OPTIONS: 'detect_leaks=1', IPNC_TEST_SEED: String(testSeed()) },
  });
  for (const [, verdict, name = ''] of stdout.matchAll(/^(ok {2}|FAIL) (.*)$/gm)) {
    test(name, () => assert.equal(verdict, 'ok  ', stderr));
  }
  test('runs to its end, and leaks nothing where a sanitizer looks', () => {
    assert.match(stdout, /\d+ passed, 0 failed\n$/, `${stdout.slice(-2000)}${stderr}`);
    assert.equal(code, 0, stderr);
  });
} else {
  test('all of them', () => {});
}
