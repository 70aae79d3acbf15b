/** Rulesets that no plan would make: few values, so that rules overlap, and every target anywhere. */
import type { Chain, Cidr, Match, Rule, Ruleset, Target } from '../../lib/ruleset/model.ts';

const CIDRS: Cidr[] = [
  { family: 4, address: '127.0.0.1', prefix: 32 },
  { family: 4, address: '127.0.0.0', prefix: 8 },
  { family: 6, address: '::1', prefix: 128 },
  { family: 6, address: '::', prefix: 0 },
];
const MATCHES: Match[] = [
  ...[false, true].flatMap((not): Match[] => [
    { kind: 'mark', value: 7, not },
    { kind: 'mark', value: 8, not },
    { kind: 'connmark', value: 7, not },
  ]),
  { kind: 'owner', uid: 1, not: false },
  { kind: 'owner', uid: 2, not: false },
  { kind: 'owner', gid: 1, not: false },
  { kind: 'conntrack', states: ['ESTABLISHED', 'RELATED'] },
  { kind: 'conntrack', states: ['NEW'] },
];
const TARGETS: Target[] = [
  { kind: 'accept' },
  { kind: 'drop' },
  { kind: 'return' },
  { kind: 'return' },
  { kind: 'return' },
  { kind: 'set-mark', value: 7 },
  { kind: 'save-mark' },
  { kind: 'restore-mark' },
  { kind: 'ct-zone', zone: 1 },
  { kind: 'ct-zone', zone: 2 },
];

/** `lists`: some rules come in lists of ports or CIDRs, which may overlap. */
export function randomRuleset(random: () => number, { lists = false } = {}): Ruleset {
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
  const perhaps = (chance: number) => random() < chance;
  const rule = (below: readonly string[]): Rule => {
    const port = perhaps(0.4);
    const cidr = perhaps(0.3) ? pick(CIDRS) : undefined;
    const family = cidr?.family ?? (perhaps(0.1) ? pick([4, 6] as const) : undefined);
    const protocol = port || perhaps(0.3) ? pick(['tcp', 'udp'] as const) : undefined;
    const first = pick([80, 81]);
    const range = { first, last: pick([first, 81]) };
    const jumps = below.map((chain): Target => ({ kind: 'jump', chain }));
    const redirects: Target[] =
      protocol === 'tcp'
        ? [
            { kind: 'redirect', port: 1 },
            { kind: 'tproxy', port: 2, mark: 8 },
          ]
        : [];
    return {
      ...(family && { family }),
      ...(cidr && { [pick(['source', 'destination'])]: { cidr, not: perhaps(0.4) } }),
      ...(perhaps(0.2) && { outInterface: 'lo' }),
      ...(protocol && { protocol }),
      matches: [
        ...(port ? [{ kind: 'port', side: 'destination', range, not: perhaps(0.3) } as const] : []),
        ...(perhaps(0.6) ? [pick(MATCHES)] : []),
      ],
      target: pick([...TARGETS, ...redirects, ...jumps, ...jumps]),
    };
  };
  const list = (below: readonly string[]): Rule[] => {
    const { target, outInterface } = rule(below);
    const ports = perhaps(0.6);
    const known =
      target.kind === 'redirect' || target.kind === 'tproxy' ? (['tcp'] as const) : (['tcp', 'udp'] as const);
    const rules = [pick<Target>([target, { kind: 'return' }]), ...(perhaps(0.2) ? [rule(below).target] : [])].map(
      (target): Pick<Rule, 'matches' | 'target' | 'outInterface'> => ({
        ...(perhaps(0.2) && outInterface !== undefined && { outInterface }),
        matches: perhaps(0.2) ? [pick(MATCHES)] : [],
        target,
      }),
    );
    const needsTcp = rules.some(({ target: { kind } }) => kind === 'redirect' || kind === 'tproxy');
    return Array.from({ length: 1 + Math.floor(random() * 12) }).flatMap(() => {
      const first = Math.floor(random() * 40);
      const range = { first, last: first + (perhaps(0.3) ? Math.floor(random() * 6) : 0) };
      const protocol = needsTcp ? 'tcp' : pick(known);
      const port: Match = { kind: 'port', side: 'destination', range, not: false };
      const cidr = pick([randomCidr4(random), randomCidr4(random), pick(CIDRS.filter(({ prefix }) => prefix > 0))]);
      return rules.map(({ matches, ...others }) =>
        ports
          ? { ...others, protocol, matches: [port, ...matches] }
          : {
              ...others,
              ...(needsTcp && { protocol: 'tcp' as const }),
              family: cidr.family,
              destination: { cidr, not: false },
              matches,
            },
      );
    });
  };
  const owner = pick(['uid', 'gid']);
  const allButSome: Rule = {
    matches: [{ kind: 'owner', [owner]: pick([1, 2]), not: true }],
    target: { kind: 'return' },
  };
  const chain = (name: string, builtin: boolean, below: readonly string[]): Chain => {
    const rules = Array.from({ length: 1 + Math.floor(random() * 7) }, () =>
      lists && perhaps(0.4) ? list(below) : [rule(below)],
    ).flat();
    if (!builtin && perhaps(0.2)) rules.splice(Math.floor(random() * rules.length), 0, allButSome);
    return { name, builtin, inserts: [], rules };
  };
  const chains = [
    chain('PREROUTING', true, ['ISTIO_INBOUND', 'ISTIO_DIVERT']),
    chain('OUTPUT', true, ['ISTIO_INBOUND', 'ISTIO_DIVERT']),
    chain('ISTIO_INBOUND', false, ['ISTIO_DIVERT']),
    chain('ISTIO_DIVERT', false, []),
  ];
  return { families: pick([[4, 6], [4]]), tables: [{ name: 'mangle', chains }], routes: { loopback6: false } };
}

function randomCidr4(random: () => number): Cidr {
  const prefix = 24 + Math.floor(random() * 9);
  const host = Math.floor(random() * 256) & (0x100 - (1 << (32 - prefix)));
  return { family: 4, address: `10.0.0.${host}`, prefix };
}
