/** Which backend a netns gets: the order of reasons, and what is refused. */
import assert from 'node:assert/strict';
import { plan } from '../../lib/istio/plan.ts';
import { redirect } from '../../lib/istio/redirect.ts';
import type { Probe } from '../../lib/native/addon.ts';
import { chooseBackend, ORDINARY } from '../../lib/native/backend.ts';
import type { Backend } from '../../lib/ruleset/form.ts';
import type { Ruleset } from '../../lib/ruleset/model.ts';
import { suite } from '../suite.ts';

const test = suite('backend');

const tables = { nat: true, mangle: true, raw: true } as const;
const both: Probe = {
  legacy: { 4: tables, 6: tables },
  nftables: true,
  netns: true,
  missingExtensions: [],
  missingExpressions: [],
};
const withoutLegacy: Probe = {
  ...both,
  legacy: { 4: { ...tables, nat: 'ENOPROTOOPT' }, 6: { ...tables, nat: 'ENOPROTOOPT' } },
};
const withoutRaw: Probe = { ...both, legacy: { ...both.legacy, 6: { ...tables, raw: 'ENOENT' } } };
const neither: Probe = { ...withoutLegacy, nftables: 'EPROTONOSUPPORT' };
const elsewhere = { ...ORDINARY, path: '/run/netns/pod', foreignUserns: true };
const standing = (...forms: Backend[]) => ({ ...ORDINARY, installedBackends: forms });

const defaults = plan(redirect({}).spec, [4, 6]);
const dns = plan(redirect({ flags: flagsOf('redirect-dns', 'capture-all-dns') }).spec, [4, 6]);
const dns4 = plan(redirect({ flags: flagsOf('redirect-dns', 'capture-all-dns') }).spec, [4]);

function flagsOf(...names: ('redirect-dns' | 'capture-all-dns')[]) {
  const keys = { 'redirect-dns': 'redirectDns', 'capture-all-dns': 'captureAllDns' } as const;
  return Object.fromEntries(
    names.map((name) => [keys[name], { text: 'true', field: `--${name}`, source: 'flag' as const }]),
  );
}

type Question = [Parameters<typeof chooseBackend>[0], Parameters<typeof chooseBackend>[1], Ruleset, Probe];

const auto: Record<string, [Question, Backend, RegExp]> = {
  'nothing stands, the kernel has both': [['auto', ORDINARY, defaults, both], 'iptables-legacy', /faster/],
  'another user namespace': [['auto', elsewhere, defaults, both], 'nftables', /user namespace/],
  'another user namespace, legacy rules stand': [
    ['auto', { ...elsewhere, installedBackends: ['iptables-legacy'] }, defaults, both],
    'nftables',
    /user namespace/,
  ],
  'no legacy nat': [
    ['auto', ORDINARY, defaults, withoutLegacy],
    'nftables',
    /no legacy IPv4 nat table \(ENOPROTOOPT\)/,
  ],
  'no legacy nat, but legacy rules are said to stand': [
    ['auto', standing('iptables-legacy'), defaults, withoutLegacy],
    'nftables',
    /no legacy IPv4 nat/,
  ],
  'no legacy table that the rules need': [['auto', ORDINARY, dns, withoutRaw], 'nftables', /no legacy IPv6 raw/],
  'no legacy table of another family': [['auto', ORDINARY, dns4, withoutRaw], 'iptables-legacy', /faster/],
  'no legacy table that no rule needs': [['auto', ORDINARY, defaults, withoutRaw], 'iptables-legacy', /faster/],
  'neither legacy nor nf_tables': [['auto', ORDINARY, defaults, neither], 'iptables-legacy', /no legacy IPv4 nat/],
  'nftables stands': [['auto', standing('nftables'), defaults, both], 'nftables', /installed rules use it/],
  'legacy stands': [['auto', standing('iptables-legacy'), defaults, both], 'iptables-legacy', /installed rules use it/],
  'both stand': [['auto', standing('iptables-legacy', 'nftables'), defaults, both], 'iptables-legacy', /faster/],
  'legacy by name where nftables stands': [
    ['iptables-legacy', standing('nftables'), defaults, both],
    'iptables-legacy',
    /chosen by name/,
  ],
  'nftables by name': [['nftables', ORDINARY, defaults, both], 'nftables', /chosen by name/],
  'nftables by name in another user namespace': [['nftables', elsewhere, defaults, both], 'nftables', /chosen by name/],
};

for (const [name, [question, backend, reason]] of Object.entries(auto)) {
  test(name, async () => {
    const [wanted, place, ruleset, probe] = question;
    const choice = await chooseBackend(wanted, place, ruleset, () => probe);
    assert.equal(choice.backend, backend);
    assert.match(choice.reason, reason);
  });
}

test('legacy by name in another user namespace is refused, with the reason', async () => {
  await assert.rejects(
    chooseBackend('iptables-legacy', elsewhere, defaults, () => both),
    { code: 'ERR_USERNS', message: /^\/run\/netns\/pod belongs to another user namespace/ },
  );
});

test('the kernel is asked only where it decides', async () => {
  const never = () => {
    throw new Error('asked');
  };
  await chooseBackend('nftables', ORDINARY, defaults, never);
  await chooseBackend('iptables-legacy', ORDINARY, defaults, never);
  await chooseBackend('auto', elsewhere, defaults, never);
  await assert.rejects(chooseBackend('auto', ORDINARY, defaults, never), /asked/);
});
