import assert from 'node:assert/strict';
import { plan } from '../../lib/istio/plan.ts';
import { redirect } from '../../lib/istio/redirect.ts';
import type { ActualRule, ActualTable } from '../../lib/ruleset/actual.ts';
import { diff, heading } from '../../lib/ruleset/diff.ts';
import type { Form } from '../../lib/ruleset/form.ts';
import { formOf } from '../../lib/ruleset/form.ts';
import type { Ruleset } from '../../lib/ruleset/model.ts';
import type { ActualNftTable } from '../../lib/ruleset/nftables/model.ts';
import { suite } from '../suite.ts';

const test = suite('diff');
const expected: Ruleset = plan(redirect({}).spec, [4, 6]);
const form: Form = { backend: 'iptables-legacy', ruleset: expected };
const routes = { missing: [], surplus: [] };

/** The nat table of IPv4 as it would be read back, for a test to spoil. */
function actual(): ActualTable {
  const chains = expected.tables[0]?.chains ?? [];
  const mine = (rules: ActualRule[]) => rules.filter(({ family }) => family !== 6);
  return {
    family: 4,
    table: 'nat',
    chains: chains.map(({ name, builtin, inserts, rules }) => ({ name, builtin, rules: mine([...inserts, ...rules]) })),
  };
}

function changes(table: ActualTable): string[] {
  const [section] = diff(form, { legacy: [table], nftables: [], iptablesNft: [], routes });
  return (section?.lines ?? []).filter((line) => !line.startsWith(' '));
}

const chain = (table: ActualTable, name: string) => {
  const found = table.chains.find((chain) => chain.name === name);
  if (found === undefined) throw new Error(`no chain ${name}`);
  return found;
};

test('without drift there is no section', () => {
  assert.deepEqual(diff(form, { legacy: [], nftables: [], iptablesNft: [], routes }), []);
});

test('the same rules are no change', () => assert.deepEqual(changes(actual()), []));

test('a rule missing', () => {
  const table = actual();
  chain(table, 'ISTIO_REDIRECT').rules = [];
  assert.deepEqual(changes(table), ['--A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001']);
});

test('a rule too many, of a kind not known', () => {
  const table = actual();
  const match = { kind: 'opaque', name: 'statistic', revision: 0, data: '00ff' } as const;
  const target = { kind: 'opaque', name: 'LOG', revision: 0, data: '04' } as const;
  chain(table, 'ISTIO_REDIRECT').rules.unshift({ protocol: 'tcp', matches: [match], target });
  assert.deepEqual(changes(table), [
    '+-A ISTIO_REDIRECT -p tcp -m statistic [revision 0, 00ff] -j LOG [revision 0, 04]',
  ]);
});

test('two rules in the wrong order', () => {
  const table = actual();
  chain(table, 'ISTIO_OUTPUT').rules.reverse();
  const lines = changes(table);
  assert.ok(lines.length > 0);
  for (const line of lines.filter((line) => line.startsWith('-'))) {
    assert.ok(lines.includes(`+${line.slice(1)}`), `${line} is not gone, but elsewhere`);
  }
});

test('a chain missing, a chain too many', () => {
  const table = actual();
  table.chains = table.chains.filter(({ name }) => name !== 'ISTIO_REDIRECT');
  table.chains.push({ name: 'ISTIO_DROP', builtin: false, rules: [{ matches: [], target: { kind: 'drop' } }] });
  assert.deepEqual(changes(table), [
    '-:ISTIO_REDIRECT - [0:0]',
    '+:ISTIO_DROP - [0:0]',
    '--A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001',
    '+-A ISTIO_DROP -j DROP',
  ]);
});

test('a table that should be empty', () => {
  const drop = { name: 'ISTIO_DROP', builtin: false, rules: [] };
  const [section] = diff(form, {
    legacy: [{ family: 6, table: 'mangle', chains: [drop] }],
    nftables: [],
    iptablesNft: [],
    routes,
  });
  assert.deepEqual(section, { family: 6, table: 'mangle', lines: ['+:ISTIO_DROP - [0:0]'] });
});

test('routes', () => {
  const [section] = diff(form, {
    legacy: [],
    nftables: [],
    iptablesNft: [],
    routes: { missing: ['-6 a'], surplus: ['-4 b'] },
  });
  assert.deepEqual(section, { lines: ['-ip -6 a', '+ip -4 b'] });
  assert.equal(section && heading(section), '# routes');
});

const nft: Form = formOf(expected, 'nftables', { counters: true });

/** The nat table of nftables as it would be read back, for a test to spoil. */
function actualNft(): ActualNftTable {
  const found = nft.backend === 'nftables' ? nft.ruleset.tables.find(({ name }) => name === 'nat') : undefined;
  return { table: 'nat', chains: structuredClone(found?.chains ?? []) };
}

function nftChanges(table: ActualNftTable): string[] {
  const [section] = diff(nft, { legacy: [], nftables: [table], iptablesNft: [], routes });
  return (section?.lines ?? []).filter((line) => !line.startsWith(' '));
}

const nftChain = (table: ActualNftTable, name: string) => {
  const found = table.chains.find((chain) => chain.name === name);
  if (found === undefined) throw new Error(`no chain ${name}`);
  return found;
};

test('nftables: the same rules are no change', () => assert.deepEqual(nftChanges(actualNft()), []));

test('nftables: a rule missing, and one of another making', () => {
  const table = actualNft();
  nftChain(table, 'istio-redirect').rules = [{ opaque: 'limit, counter, log' }];
  assert.deepEqual(nftChanges(table), [
    '-  meta l4proto tcp counter redirect to :15001',
    '+  # unknown to this version: limit, counter, log',
  ]);
});

test('nftables: a chain with another hook, a chain missing, a table too many', () => {
  const table = actualNft();
  const output = nftChain(table, 'output');
  output.hook = { type: 'nat', hook: 'output', priority: -99 };
  table.chains = table.chains.filter(({ name }) => name !== 'istio-in-redirect');
  const lines = nftChanges(table);
  assert.ok(lines.includes('-  type nat hook output priority -100; policy accept;'), lines.join('\n'));
  assert.ok(lines.includes('+  type nat hook output priority -99; policy accept;'), lines.join('\n'));
  assert.ok(lines.includes('-chain istio-in-redirect {'), lines.join('\n'));
  const surplus: ActualNftTable = { table: 'raw', chains: [{ name: 'istio-inbound', rules: [] }] };
  const [section] = diff(form, { legacy: [], nftables: [surplus], iptablesNft: [], routes });
  assert.equal(section && heading(section), '# table inet istio-proxy-raw');
  assert.deepEqual(section?.lines, ['+table inet istio-proxy-raw', '+chain istio-inbound {', '+}']);
});
