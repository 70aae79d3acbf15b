/** Long lists in iptables-legacy: their chains come, change and go with the rest of our rules. */
import assert from 'node:assert/strict';
import { plan } from '../../lib/istio/plan.ts';
import { redirect } from '../../lib/istio/redirect.ts';
import { flagSource } from '../../lib/istio/sources.ts';
import { native } from '../../lib/native/addon.ts';
import { diff } from '../../lib/ruleset/diff.ts';
import { suite } from '../suite.ts';
import { assertAllAtHome, compile, Farm, formFor, INSTALL_NEEDS, identify, inside, restore } from '../support/netns.ts';

const PORTS = Array.from({ length: 40 }, (_, at) => 2 * at + 1).join();
const MANY = ['-o', PORTS];

const test = suite('trees of lists, installed');
test.needs(...INSTALL_NEEDS, 'iptables-legacy-save');
test.after.each(assertAllAtHome);

const saved = (path: string) => inside(path, ['iptables-legacy-save', '-t', 'nat']);

test('they replace the same lists as single rules, as Istio and our earlier versions install them', async () => {
  await using farm = new Farm('trees');
  const path = await farm.add();
  const target = await identify(path);
  const flags = flagSource(new Map([['istio-local-outbound-ports-exclude', PORTS]]));
  const single = plan(redirect({ flags }).spec, [4, 6]);
  await (await native().compile({ backend: 'iptables-legacy', ruleset: single })).apply(target);
  assert.match(await saved(path), /-A ISTIO_OUTPUT -p udp -m udp --dport 79 -j RETURN/);

  const trees = await compile(...MANY);
  const drift = await trees.verify(target);
  assert.deepEqual(
    drift.legacy.map(({ family, table }) => `${family} ${table}`),
    ['4 nat', '6 nat'],
  );
  assert.equal((await trees.apply(target)).changed, true);
  assert.doesNotMatch(await saved(path), /ISTIO_OUTPUT .*--dport 79/);
  assert.equal((await trees.apply(target)).changed, false);
});

test('they go when the lists are short again', async () => {
  await using farm = new Farm('trees');
  const path = await farm.add();
  const target = await identify(path);
  await (await compile(...MANY)).apply(target);
  assert.match(await saved(path), /^:ISTIO_LIST_1 /m);
  await (await compile()).apply(target);
  assert.doesNotMatch(await saved(path), /ISTIO_LIST/);
});

test('a change in one of their chains is drift, and so is a chain too many', async () => {
  await using farm = new Farm('trees');
  const path = await farm.add();
  const target = await identify(path);
  const trees = await compile(...MANY);
  await trees.apply(target);
  await restore(path, 4, '*nat\n:ISTIO_LIST_99 - [0:0]\n-I ISTIO_LIST_1 1 -p tcp -j ACCEPT\nCOMMIT\n');
  const lines = diff(formFor(MANY), await trees.verify(target)).flatMap(({ lines }) => lines);
  assert.deepEqual(
    lines.filter((line) => !line.startsWith(' ')),
    ['+:ISTIO_LIST_99 - [0:0]', '+-A ISTIO_LIST_1 -p tcp -j ACCEPT'],
  );
  await trees.apply(target);
  assert.deepEqual((await trees.verify(target)).legacy, []);
});

test("chains with similar names are others', and stay", async () => {
  await using farm = new Farm('trees');
  const path = await farm.add();
  const target = await identify(path);
  const others = ['ISTIO_LISTS', 'ISTIO_LIST_', 'ISTIO_LIST_1A'];
  await restore(path, 4, `*nat\n${others.map((name) => `:${name} - [0:0]\n`).join('')}COMMIT\n`);
  await (await compile(...MANY)).apply(target);
  await native().clean(target);
  const chains = [...(await saved(path)).matchAll(/^:(ISTIO\S*)/gm)].map(([, name]) => name);
  assert.deepEqual(chains, others);
});
