/** Istio's redirect rules, written by Istio's own program of today and as versions wrote them that cannot be run here. */
import type { Family } from '../../lib/ruleset/model.ts';
import { meshPrograms } from '../mesh/programs.ts';
import { inside } from './netns.ts';
import { run } from './process.ts';

export interface Wanted {
  mode: 'REDIRECT' | 'TPROXY';
  /** All DNS, or that to these servers, as istio-init does with those of /etc/resolv.conf. */
  dns?: boolean | readonly string[];
  excludeInterfaces?: string[];
  rerouteInterfaces?: string[];
  dropInvalid?: boolean;
}

export interface Writer {
  /** As the table in docs/migrate.md names it. */
  version: string;
  form: 'iptables-nft' | 'iptables-legacy' | 'nftables';
  /** Writes the rules of both families into the netns. */
  write(netns: string, wanted: Wanted): Promise<void>;
}

export const WRITERS: readonly Writer[] = [
  { version: '1.30 to today', form: 'iptables-nft', write: today(['--force-iptables-binary', 'nft']) },
  { version: '1.30 to today', form: 'iptables-legacy', write: today(['--force-iptables-binary', 'legacy']) },
  { version: '1.27 to today', form: 'nftables', write: today(['--native-nftables']) },
  { version: '1.24.3 to 1.29', form: 'iptables-nft', write: old('nft', ['dns', 'raw', 'drop', 'jump']) },
  { version: '1.24.3 to 1.29', form: 'iptables-legacy', write: old('legacy', ['dns', 'raw', 'drop', 'jump']) },
  { version: '1.23 to 1.24.2', form: 'iptables-nft', write: old('nft', ['dns', 'raw']) },
  { version: '1.23 to 1.24.2', form: 'iptables-legacy', write: old('legacy', ['dns', 'raw']) },
  { version: '1.20 to 1.22', form: 'iptables-nft', write: old('nft') },
  { version: '1.20 to 1.22', form: 'iptables-legacy', write: old('legacy') },
];

/** `-m`, `-c` and so on, as `ipnc` and istio-iptables take them. */
export function flagsOf({ mode, dns, excludeInterfaces = [], rerouteInterfaces = [], dropInvalid }: Wanted): string[] {
  return [
    ...['-m', mode],
    ...(dns ? ['--redirect-dns'] : []),
    ...(typeof dns === 'object' ? ['--dns-servers', dns.join()] : dns ? ['--capture-all-dns'] : []),
    ...(excludeInterfaces.length > 0 ? ['-c', excludeInterfaces.join()] : []),
    ...(rerouteInterfaces.length > 0 ? ['-k', rerouteInterfaces.join()] : []),
    ...(dropInvalid ? ['--drop-invalid'] : []),
  ];
}

function today(form: string[]): Writer['write'] {
  return async (netns, wanted) => {
    const usual = ['-p', '15001', '-z', '15006', '-u', '1337', '-g', '1337', '-i', '*', '-b', '*'];
    const excluded = ['-d', '15020,15021,15090', '--dual-stack'];
    const program = [meshPrograms.path('pilot-agent'), 'istio-iptables'];
    await run('nsenter', [`--net=${netns}`, ...program, ...usual, ...excluded, ...flagsOf(wanted), ...form], {
      env: { PATH: process.env.PATH ?? '' },
    });
  };
}

/**
 * What Istio changed after 1.22: istio/istio#50915, #53066, #53998, and after it. Istio's golden file
 * cni/pkg/plugin/testdata/dns.txt.golden shows the text after #53998, which the release notes of 1.24.3 list.
 */
export const CHANGES = [
  /** In nat, UDP to DNS goes through ISTIO_OUTPUT. */
  'dns',
  /** In raw, the zones of DNS have chains. */
  'raw',
  /** Invalid packets are dropped in a chain. */
  'drop',
  /** OUTPUT jumps with every packet, and DNS has a chain of its own. */
  'jump',
  /** The chain of DNS has no returns for the owners, because ISTIO_OUTPUT returned before. */
  'returns',
] as const;
type Change = (typeof CHANGES)[number];

/** Writes the rules of both families as 1.20 to 1.22 wrote them, with these later changes. */
export function old(form: 'nft' | 'legacy', changes: readonly Change[] = []): Writer['write'] {
  return async (netns, wanted) => {
    for (const family of [4, 6] as const) {
      const program = `ip${family === 6 ? '6' : ''}tables-${form}-restore`;
      await inside(netns, [program, '--noflush'], oldText(family, wanted, new Set(changes)));
    }
    await inside(netns, ['ip', '-6', 'address', 'replace', '::6/128', 'dev', 'lo']);
    if (wanted.mode === 'REDIRECT') return;
    for (const family of [4, 6]) {
      await inside(netns, ['ip', `-${family}`, 'rule', 'add', 'fwmark', '1337', 'lookup', '133']);
      const route = ['route', 'add', 'local', 'default', 'dev', 'lo', 'table', '133'];
      await inside(netns, ['ip', `-${family}`, ...route]);
    }
  };
}

/**
 * As istio-iptables of 1.20 to 1.22 and istio-cni of that time wrote them (tools/istio-iptables/pkg/capture/run.go and
 * its goldens): DNS and dropped packets have no chains of their own, unless `changes` say so.
 */
function oldText(
  family: Family,
  { mode, dns, excludeInterfaces = [], rerouteInterfaces = [], dropInvalid }: Wanted,
  changes: ReadonlySet<Change>,
): string {
  const [loopback, passthrough] = family === 4 ? ['127.0.0.1/32', '127.0.0.6/32'] : ['::1/128', '::6/128'];
  const tproxy = mode === 'TPROXY';
  const owners = ['--uid-owner 1337', '--gid-owner 1337'];
  const excludes = excludeInterfaces.flatMap((name) => [
    `-A PREROUTING -i ${name} -j RETURN`,
    `-A OUTPUT -o ${name} -j RETURN`,
  ]);
  const inbound = ['15020', '15021', '15090'].map((port) => `-A ISTIO_INBOUND -p tcp --dport ${port} -j RETURN`);
  const butDns = dns ? '-p tcp ! --dport 53 ' : '';
  const toItself = (owner: string) =>
    dns && owner.startsWith('--uid') ? '-m multiport ! --dports 53,15008' : '! --dport 15008';
  const jump = changes.has('jump');
  const tcpChain = jump ? 'ISTIO_OUTPUT_DNS' : 'ISTIO_OUTPUT';
  const udpChain = changes.has('dns') ? tcpChain : 'OUTPUT';
  const servers = typeof dns === 'object' ? dns.filter((server) => server.includes(':') === (family === 6)) : [];
  /** The matches of `flag` for each server, or none if all DNS is captured. */
  const ofServers = (flag: '-d' | '-s') =>
    typeof dns === 'object' ? servers.map((server) => `${flag} ${server} `) : dns ? [''] : [];
  const toAgent = (chain: string, protocol: string) =>
    ofServers('-d').map((server) => `-A ${chain} -p ${protocol} --dport 53 ${server}-j REDIRECT --to-ports 15053`);
  const udp = [
    ...(changes.has('returns')
      ? []
      : owners.map((owner) => `-A ${udpChain} -p udp --dport 53 -m owner ${owner} -j RETURN`)),
    ...toAgent(udpChain, 'udp'),
  ];
  const nat = [
    ...['ISTIO_INBOUND', 'ISTIO_REDIRECT', 'ISTIO_IN_REDIRECT', 'ISTIO_OUTPUT'].map((chain) => `:${chain} - [0:0]`),
    ...excludes,
    ...rerouteInterfaces.map((name) => `-I PREROUTING 1 -i ${name} -j RETURN`),
    '-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN',
    '-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001',
    '-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006',
    ...(tproxy
      ? []
      : ['-A PREROUTING -p tcp -j ISTIO_INBOUND', ...inbound, '-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT']),
    `-A OUTPUT ${jump ? '' : '-p tcp '}-j ISTIO_OUTPUT`,
    `-A ISTIO_OUTPUT -o lo -s ${passthrough} -j RETURN`,
    ...owners.flatMap((owner) => [
      `-A ISTIO_OUTPUT -o lo ! -d ${loopback} -p tcp ${toItself(owner)} -m owner ${owner} -j ISTIO_IN_REDIRECT`,
      `-A ISTIO_OUTPUT -o lo ${butDns}-m owner ! ${owner} -j RETURN`,
      `-A ISTIO_OUTPUT -m owner ${owner} -j RETURN`,
    ]),
    ...(dns && jump ? [':ISTIO_OUTPUT_DNS - [0:0]', '-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS'] : []),
    ...toAgent(tcpChain, 'tcp'),
    ...(dns && udpChain !== 'OUTPUT' ? udp : []),
    `-A ISTIO_OUTPUT -d ${loopback} -j RETURN`,
    '-A ISTIO_OUTPUT -j ISTIO_REDIRECT',
    ...rerouteInterfaces.map((name) => `-I PREROUTING 1 -i ${name} -j ISTIO_REDIRECT`),
    ...(dns && udpChain === 'ISTIO_OUTPUT' ? ['-A OUTPUT -p udp --dport 53 -j ISTIO_OUTPUT'] : []),
    ...(dns && udpChain === 'OUTPUT' ? udp : []),
  ];
  const mangle = [
    ...(tproxy ? ['ISTIO_DIVERT', 'ISTIO_TPROXY', 'ISTIO_INBOUND'].map((chain) => `:${chain} - [0:0]`) : []),
    ...(tproxy ? excludes : []),
    ...(dropInvalid && changes.has('drop') ? [':ISTIO_DROP - [0:0]', '-A ISTIO_DROP -j DROP'] : []),
    ...(dropInvalid
      ? [`-A PREROUTING -m conntrack --ctstate INVALID -j ${changes.has('drop') ? 'ISTIO_DROP' : 'DROP'}`]
      : []),
    ...(tproxy
      ? [
          '-A ISTIO_DIVERT -j MARK --set-mark 1337',
          '-A ISTIO_DIVERT -j ACCEPT',
          `-A ISTIO_TPROXY ! -d ${loopback} -p tcp -j TPROXY --tproxy-mark 1337/0xffffffff --on-port 15006`,
          '-A PREROUTING -p tcp -j ISTIO_INBOUND',
          ...inbound,
          '-A ISTIO_INBOUND -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT',
          '-A ISTIO_INBOUND -p tcp -j ISTIO_TPROXY',
          '-A PREROUTING -p tcp -m mark --mark 1337 -j CONNMARK --save-mark',
          '-A OUTPUT -p tcp -o lo -m mark --mark 1337 -j RETURN',
          ...owners.map((owner) => `-A OUTPUT ! -d ${loopback} -p tcp -o lo -m owner ${owner} -j MARK --set-mark 1338`),
          '-A OUTPUT -p tcp -m connmark --mark 1337 -j CONNMARK --restore-mark',
          '-I ISTIO_INBOUND 1 -p tcp -m mark --mark 1337 -j RETURN',
          `-I ISTIO_INBOUND 2 -p tcp -s ${passthrough} -i lo -j RETURN`,
          '-I ISTIO_INBOUND 3 -p tcp -i lo -m mark ! --mark 1338 -j RETURN',
        ]
      : []),
  ];
  const [output, input] = changes.has('raw') ? [tcpChain, 'ISTIO_INBOUND'] : ['OUTPUT', 'PREROUTING'];
  const raw = dns
    ? [
        ...(changes.has('raw') ? [`:${output} - [0:0]`, `:${input} - [0:0]`] : []),
        ...(changes.has('raw') ? [`-A OUTPUT -j ${output}`, `-A PREROUTING -j ${input}`] : []),
        ...owners.flatMap((owner) => [
          `-A ${output} -p udp --dport 53 -m owner ${owner} -j CT --zone 1`,
          `-A ${output} -p udp --sport 15053 -m owner ${owner} -j CT --zone 2`,
        ]),
        ...ofServers('-d').map((server) => `-A ${output} -p udp --dport 53 ${server}-j CT --zone 2`),
        ...ofServers('-s').map((server) => `-A ${input} -p udp --sport 53 ${server}-j CT --zone 1`),
      ]
    : [];
  const table = (name: string, lines: string[]) => (lines.length > 0 ? `*${name}\n${lines.join('\n')}\nCOMMIT\n` : '');
  return table('nat', nat) + table('mangle', mangle) + table('raw', raw);
}
