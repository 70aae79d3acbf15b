/**
 * What must be captured and what must not, as a table that holds for any backend: which flags, who calls whom, and who
 * is to answer. An answer counts only if the one who gives it knows where the caller wanted to go.
 */
import type { Family } from '../../lib/ruleset/model.ts';
import type { Call, Place, Who } from './world.ts';

type Callee = `${Call['protocol']} ${Place}:${number}`;
type Answerer = `${'app' | 'proxy' | 'world'}:${number}` | 'ECONNREFUSED' | 'ECONNRESET' | typeof SILENCE;
/** Who calls, whom, who answers, and from which source if it matters. */
export type Line = [who: Who, callee: Callee, answers: Answerer, from?: Place];

/** Nobody answers. */
export const SILENCE = 'ETIMEDOUT';

export interface TrafficCase {
  name: string;
  /** As for `apply`. */
  flags: string[];
  transparent?: true;
  /** The same for both families, or each its own. */
  traffic: Line[] | Record<Family, Line[]>;
}

/** With no flags, and whatever the mode of inbound capture. */
const byDefault: Line[] = [
  ['app', 'tcp world:80', 'proxy:15001'],
  ['app', 'tcp world:443', 'proxy:15001'],
  ['root', 'tcp world:80', 'proxy:15001'],
  ['app', 'tcp second:80', 'proxy:15001'],
  ['app', 'udp world:5000', 'world:5000'],
  ['app', 'udp world:53', 'world:53'],
  ['app', 'tcp loopback:8080', 'app:8080'],
  ['app', 'tcp pod:8080', 'app:8080'],
  ['proxy', 'tcp world:80', 'world:80'],
  ['agent', 'tcp world:80', 'world:80'],
  ['proxy', 'tcp loopback:8080', 'app:8080'],
  ['proxy', 'tcp pod:8080', 'app:8080', 'passthrough'],
  ['world', 'tcp pod:8080', 'proxy:15006'],
  ['world', 'tcp pod:80', 'proxy:15006'],
  ['world', 'tcp pod2:80', 'proxy:15006'],
  ['world', 'tcp beyond:80', 'proxy:15006'],
  ['world', 'tcp pod:15020', 'app:15020'],
  ['world', 'tcp pod:15021', 'app:15021'],
  ['world', 'tcp pod:15090', 'app:15090'],
];

const everyDns = ['--redirect-dns', '--capture-all-dns'];
/** Of a family that has rules with `everyDns`, and of one that has none. */
const captured: Line[] = [
  ['app', 'tcp world:80', 'proxy:15001'],
  ['app', 'udp dns:53', 'proxy:15053'],
  ['world', 'tcp pod:8080', 'proxy:15006'],
];
const untouched: Line[] = [
  ['app', 'tcp world:80', 'world:80'],
  ['app', 'tcp world:53', 'world:53'],
  ['app', 'udp dns:53', 'world:53'],
  ['world', 'tcp pod:8080', 'app:8080'],
  ['world', 'stray pod:8080', 'ECONNRESET'],
];

/** 200 ports, every other one from `first` on. */
const odd = (first: number) => Array.from({ length: 200 }, (_, at) => first + 2 * at).join();
/** CIDRs of both families where nobody is. */
const elsewhere = (length: number) =>
  Array.from({ length }, (_, at) =>
    at % 2 === 0 ? `10.${100 + (at >> 1)}.0.0/16` : `fd99:${at.toString(16)}::/32`,
  ).join();

export const cases: TrafficCase[] = [
  {
    name: "Istio's defaults",
    flags: [],
    traffic: [
      ...byDefault,
      ['proxy', 'tcp pod:8080', 'proxy:15006'],
      // The rules of the uid come first, and let any other uid's loopback traffic be.
      ['agent', 'tcp pod:8080', 'app:8080'],
      ['proxy', 'tcp pod:15008', 'proxy:15008'],
      ['world', 'tcp pod:15008', 'proxy:15008'],
    ],
  },
  {
    name: 'TPROXY',
    flags: ['-m', 'TPROXY'],
    transparent: true,
    traffic: [
      ...byDefault,
      ['proxy', 'tcp pod:8080', 'proxy:15006'],
      // Istio spares its tunnel port in nat alone.
      ['proxy', 'tcp pod:15008', 'proxy:15006'],
      ['world', 'tcp pod:15008', 'proxy:15006'],
    ],
  },
  {
    name: 'TPROXY with a mark and a table of its own, on some ports',
    flags: ['-m', 'TPROXY', '-t', '4242', '-r', '77', '-b', '8080,9000-9100'],
    transparent: true,
    traffic: [
      ['world', 'tcp pod:8080', 'proxy:15006'],
      ['world', 'tcp pod:9050', 'proxy:15006'],
      ['world', 'tcp beyond:9050', 'proxy:15006'],
      ['world', 'tcp pod:9101', 'app:9101'],
      ['world', 'tcp pod:80', 'app:80'],
      ['app', 'tcp world:80', 'proxy:15001'],
    ],
  },
  {
    name: 'TPROXY with excluded ports',
    flags: ['-m', 'TPROXY', '-d', '8080,9000-9100'],
    transparent: true,
    traffic: [
      ['world', 'tcp pod:80', 'proxy:15006'],
      ['world', 'tcp pod:8080', 'app:8080'],
      ['world', 'tcp pod:9050', 'app:9050'],
      ['world', 'tcp pod:9101', 'proxy:15006'],
    ],
  },
  {
    name: 'NONE',
    flags: ['-m', 'NONE'],
    traffic: [
      ['app', 'tcp world:80', 'world:80'],
      ['world', 'tcp pod:8080', 'app:8080'],
    ],
  },
  {
    name: 'inbound ports and ranges',
    flags: ['-b', '8080,9000-9100'],
    traffic: [
      ['world', 'tcp pod:8080', 'proxy:15006'],
      ['world', 'tcp pod:9050', 'proxy:15006'],
      ['world', 'tcp pod:9101', 'app:9101'],
      ['world', 'tcp pod:80', 'app:80'],
      ['app', 'tcp world:80', 'proxy:15001'],
    ],
  },
  {
    name: 'no inbound capture',
    flags: ['-b', ''],
    traffic: [
      ['world', 'tcp pod:8080', 'app:8080'],
      ['app', 'tcp world:80', 'proxy:15001'],
    ],
  },
  {
    name: 'excluded inbound ports and ranges',
    flags: ['-d', '8080,9000-9100'],
    traffic: [
      ['world', 'tcp pod:80', 'proxy:15006'],
      ['world', 'tcp pod:8080', 'app:8080'],
      ['world', 'tcp pod:9050', 'app:9050'],
      ['world', 'tcp pod:9101', 'proxy:15006'],
      ['world', 'tcp pod:15020', 'app:15020'],
    ],
  },
  {
    name: 'excluded outbound ports and ranges',
    flags: ['-o', '443,5000-5010'],
    traffic: [
      ['app', 'tcp world:443', 'world:443'],
      ['app', 'tcp world:5001', 'world:5001'],
      ['app', 'tcp world:80', 'proxy:15001'],
      ['app', 'tcp world:8443', 'proxy:15001'],
      ['app', 'udp world:5000', 'world:5000'],
    ],
  },
  {
    name: 'outbound CIDRs',
    flags: ['-i', '10.10.0.0/24,fd10::/64'],
    traffic: [
      ['app', 'tcp world:80', 'proxy:15001'],
      ['app', 'tcp dns:80', 'proxy:15001'],
      ['app', 'tcp second:80', 'world:80'],
      ['app', 'tcp pod:8080', 'app:8080'],
    ],
  },
  {
    name: 'outbound ports are captured whatever the CIDRs',
    flags: ['-i', '10.10.0.0/24,fd10::/64', '-q', '8443,5000-5010'],
    traffic: [
      ['app', 'tcp second:80', 'world:80'],
      ['app', 'tcp second:8443', 'proxy:15001'],
      ['app', 'tcp second:5001', 'proxy:15001'],
      ['proxy', 'tcp second:8443', 'world:8443'],
    ],
  },
  {
    name: 'no outbound capture, but for a port',
    flags: ['-i', '', '-q', '443'],
    traffic: [
      ['app', 'tcp world:80', 'world:80'],
      ['app', 'tcp world:443', 'proxy:15001'],
      ['world', 'tcp pod:80', 'proxy:15006'],
    ],
  },
  {
    name: 'excluded CIDRs',
    flags: ['-x', '10.10.0.53/32,fd10::53/128,10.20.0.0/24,fd20::/64'],
    traffic: [
      ['app', 'tcp world:80', 'proxy:15001'],
      ['app', 'tcp dns:80', 'world:80'],
      ['app', 'tcp second:80', 'world:80'],
    ],
  },
  {
    name: 'many excluded ports',
    flags: ['-o', `443,${odd(4801)}`, '-d', `8080,${odd(9001)}`],
    traffic: [
      ...byDefault.filter(([, callee]) => !/tcp (\w+:443|pod:8080)/.test(callee)),
      ['app', 'tcp world:443', 'world:443'],
      ['app', 'udp world:443', 'world:443'],
      ['app', 'tcp world:5001', 'world:5001'],
      ['app', 'tcp world:8443', 'proxy:15001'],
      ['proxy', 'tcp world:5001', 'world:5001'],
      ['proxy', 'tcp world:8443', 'world:8443'],
      ['proxy', 'tcp pod:8080', 'proxy:15006'],
      ['world', 'tcp pod:8080', 'app:8080'],
      ['world', 'tcp pod:9101', 'app:9101'],
      ['world', 'tcp pod:9050', 'proxy:15006'],
    ],
  },
  {
    name: 'many excluded ports, of which the proxy reaches its own pod by one',
    flags: ['-o', `${odd(8901)}`],
    traffic: [
      ['proxy', 'tcp pod:9101', 'app:9101'],
      ['proxy', 'tcp pod:9050', 'proxy:15006'],
    ],
  },
  {
    name: 'many excluded ports, with TPROXY and DNS',
    flags: ['-m', 'TPROXY', '-o', `53,${odd(4801)}`, '-d', odd(9001), '--redirect-dns', '--capture-all-dns'],
    transparent: true,
    traffic: [
      ['app', 'udp dns:53', 'world:53'],
      ['app', 'tcp dns:53', 'world:53'],
      ['app', 'tcp world:5001', 'world:5001'],
      ['app', 'tcp world:8443', 'proxy:15001'],
      ['world', 'tcp pod:9101', 'app:9101'],
      ['world', 'tcp pod:9050', 'proxy:15006'],
    ],
  },
  {
    name: 'many ports, in and out',
    flags: ['-b', odd(9001), '-q', odd(4801), '-i', ''],
    traffic: [
      ['app', 'tcp world:80', 'world:80'],
      ['app', 'tcp world:5001', 'proxy:15001'],
      ['app', 'tcp world:8443', 'world:8443'],
      ['world', 'tcp pod:9101', 'proxy:15006'],
      ['world', 'tcp pod:9050', 'app:9050'],
    ],
  },
  {
    name: 'many inbound ports, with TPROXY',
    flags: ['-m', 'TPROXY', '-b', odd(9001)],
    transparent: true,
    traffic: [
      ['world', 'tcp pod:9101', 'proxy:15006'],
      ['world', 'tcp beyond:9101', 'proxy:15006'],
      ['world', 'tcp pod:9050', 'app:9050'],
    ],
  },
  {
    name: 'many excluded CIDRs',
    flags: ['-x', `10.10.0.53/32,fd10::53/128,10.20.0.0/24,fd20::/64,${elsewhere(200)}`],
    traffic: [
      ['app', 'tcp world:80', 'proxy:15001'],
      ['app', 'tcp dns:80', 'world:80'],
      ['app', 'tcp second:80', 'world:80'],
      ['app', 'tcp loopback:8080', 'app:8080'],
      ['proxy', 'tcp world:80', 'world:80'],
      ['proxy', 'tcp pod:8080', 'proxy:15006'],
    ],
  },
  {
    name: 'many CIDRs, with virtual interfaces',
    flags: ['-k', 'vm0,vm1', '-i', `10.20.0.0/24,fd20::/64,${elsewhere(200)}`],
    traffic: [
      ['vm', 'tcp second:443', 'proxy:15001'],
      ['vm', 'tcp gateway:8080', 'app:8080'],
      ['app', 'tcp second:443', 'proxy:15001'],
      ['app', 'tcp world:80', 'world:80'],
    ],
  },
  {
    name: 'loopback among the CIDRs',
    flags: ['-i', '127.0.0.1/32,::1/128,10.10.0.2/32,fd10::2/128'],
    traffic: [
      ['app', 'tcp pod:8080', 'proxy:15001'],
      ['app', 'tcp world:80', 'world:80'],
    ],
  },
  {
    name: 'excluded interfaces',
    flags: ['-c', 'eth1'],
    traffic: [
      ['app', 'tcp second:80', 'world:80'],
      ['world', 'tcp pod2:8080', 'app:8080'],
      ['app', 'tcp world:80', 'proxy:15001'],
      ['world', 'tcp pod:8080', 'proxy:15006'],
    ],
  },
  {
    name: 'excluded interfaces with TPROXY',
    flags: ['-m', 'TPROXY', '-c', 'eth1'],
    transparent: true,
    traffic: [
      ['app', 'tcp second:80', 'world:80'],
      ['world', 'tcp pod2:8080', 'app:8080'],
      ['app', 'tcp world:80', 'proxy:15001'],
      ['world', 'tcp pod:8080', 'proxy:15006'],
    ],
  },
  {
    name: 'virtual interfaces',
    flags: ['-k', 'vm0'],
    traffic: [
      ['vm', 'tcp world:80', 'proxy:15001'],
      ['vm', 'tcp second:443', 'proxy:15001'],
      ['app', 'tcp world:80', 'proxy:15001'],
      ['world', 'tcp pod:80', 'proxy:15006'],
    ],
  },
  {
    name: 'virtual interfaces and CIDRs',
    flags: ['-k', 'vm0', '-i', '10.20.0.0/24,fd20::/64'],
    traffic: [
      ['vm', 'tcp second:443', 'proxy:15001'],
      ['vm', 'tcp gateway:8080', 'app:8080'],
      ['app', 'tcp world:80', 'world:80'],
    ],
  },
  {
    name: 'virtual interfaces, TPROXY',
    flags: ['-m', 'TPROXY', '-k', 'vm0'],
    transparent: true,
    traffic: [
      ['vm', 'tcp world:80', 'proxy:15001'],
      ['vm', 'tcp gateway:8080', 'proxy:15001'],
      ['world', 'tcp pod:80', 'proxy:15006'],
    ],
  },
  {
    name: 'virtual interfaces, with exclusions',
    flags: ['-k', 'vm0', '-o', '8080', '-x', '10.10.0.0/24,fd10::/64'],
    traffic: [
      ['vm', 'tcp second:80', 'proxy:15001'],
      ['vm', 'tcp gateway:9050', 'proxy:15001'],
      ['vm', 'tcp gateway:8080', 'app:8080'],
      ['vm', 'tcp pod:9050', 'app:9050'],
    ],
  },
  {
    name: 'virtual interfaces, TPROXY, with a list of ports',
    flags: ['-m', 'TPROXY', '-k', 'vm0', '-i', '', '-q', '9050'],
    transparent: true,
    traffic: [
      ['vm', 'tcp gateway:9050', 'proxy:15001'],
      ['vm', 'tcp gateway:8080', 'app:8080'],
    ],
  },
  {
    name: 'without virtual interfaces that traffic is inbound',
    flags: [],
    traffic: [['vm', 'tcp gateway:8080', 'proxy:15006']],
  },
  {
    name: 'owner groups',
    flags: ['--owner-groups', '2000,3000'],
    traffic: [
      ['member', 'tcp world:80', 'proxy:15001'],
      ['app', 'tcp world:80', 'world:80'],
      ['proxy', 'tcp world:80', 'world:80'],
    ],
  },
  {
    name: 'excluded owner groups',
    flags: ['--owner-groups-exclude', '2000'],
    traffic: [
      ['member', 'tcp world:80', 'world:80'],
      ['app', 'tcp world:80', 'proxy:15001'],
    ],
  },
  {
    name: 'several proxy uids and gids',
    flags: ['-u', '1337,1338', '-g', '1337,2000'],
    traffic: [
      ['proxy', 'tcp world:80', 'world:80'],
      ['proxy2', 'tcp world:80', 'world:80'],
      ['member', 'tcp world:80', 'world:80'],
      ['app', 'tcp world:80', 'proxy:15001'],
    ],
  },
  {
    name: 'custom ports',
    flags: ['-p', '16001', '-z', '16006', '-e', '16008'],
    traffic: [
      ['app', 'tcp world:80', 'proxy:16001'],
      ['world', 'tcp pod:8080', 'proxy:16006'],
      ['world', 'tcp pod:16008', 'proxy:16008'],
      ['world', 'tcp pod:15008', 'proxy:16006'],
    ],
  },
  {
    name: 'the loopback CIDR, as it is',
    flags: [],
    traffic: {
      4: [
        ['proxy', 'tcp loopback2:8080', 'proxy:15006'],
        ['app', 'tcp loopback2:8080', 'app:8080'],
      ],
      6: [],
    },
  },
  {
    name: 'a wider loopback CIDR',
    flags: ['--loopback-cidr', '127.0.0.0/8'],
    traffic: {
      4: [
        ['proxy', 'tcp loopback2:8080', 'app:8080'],
        ['proxy', 'tcp pod:8080', 'proxy:15006'],
      ],
      6: [['proxy', 'tcp pod:8080', 'proxy:15006']],
    },
  },
  {
    name: 'all DNS',
    flags: ['--redirect-dns', '--capture-all-dns'],
    traffic: [
      ['app', 'udp world:53', 'proxy:15053'],
      ['app', 'tcp world:53', 'proxy:15053'],
      ['app', 'udp dns:53', 'proxy:15053'],
      ['app', 'udp loopback:53', 'proxy:15053'],
      ['app', 'tcp loopback:53', 'proxy:15053'],
      ['proxy', 'udp world:53', 'world:53'],
      ['proxy', 'tcp world:53', 'world:53'],
      ['app', 'udp world:5000', 'world:5000'],
      ...byDefault.filter(([, callee]) => !callee.endsWith(':53')),
    ],
  },
  {
    name: 'DNS of one server',
    flags: ['--redirect-dns', '--dns-servers', '10.10.0.53,fd10::53'],
    traffic: [
      ['app', 'udp dns:53', 'proxy:15053'],
      ['app', 'tcp dns:53', 'proxy:15053'],
      ['app', 'udp world:53', 'world:53'],
      ['app', 'tcp world:53', 'proxy:15001'],
      ['proxy', 'udp dns:53', 'world:53'],
      ['proxy', 'tcp dns:53', 'world:53'],
    ],
  },
  {
    name: 'what conntrack finds invalid is let through',
    flags: [],
    traffic: [['world', 'stray pod:8080', 'ECONNRESET']],
  },
  {
    name: 'drop-invalid, and what is valid is let through',
    flags: ['--drop-invalid'],
    traffic: [['world', 'stray pod:8080', SILENCE], ...byDefault],
  },
  {
    name: 'drop-invalid with TPROXY',
    flags: ['--drop-invalid', '-m', 'TPROXY'],
    transparent: true,
    traffic: [['world', 'stray pod:8080', SILENCE], ...byDefault],
  },
  {
    name: 'a proxy that does not listen: nothing gets past it',
    flags: ['-p', '15999', '-z', '15998'],
    traffic: [
      ['app', 'tcp world:80', 'ECONNREFUSED'],
      ['world', 'tcp pod:8080', 'ECONNREFUSED'],
      ['world', 'tcp pod:15020', 'app:15020'],
    ],
  },
  {
    name: 'a proxy that does not listen, with TPROXY: nothing gets past it',
    flags: ['-m', 'TPROXY', '-z', '15998'],
    transparent: true,
    traffic: [
      ['world', 'tcp pod:8080', SILENCE],
      ['world', 'tcp beyond:80', SILENCE],
      ['world', 'tcp pod:15020', 'app:15020'],
    ],
  },
  {
    name: 'a proxy that cannot take what TPROXY sends: nothing gets past it',
    flags: ['-m', 'TPROXY'],
    traffic: [
      ['world', 'tcp pod:8080', SILENCE],
      ['world', 'tcp pod:15020', 'app:15020'],
    ],
  },
  {
    name: 'IPv4 alone',
    flags: ['--ip-families', '4', ...everyDns, '--drop-invalid'],
    traffic: { 4: captured, 6: untouched },
  },
  {
    name: 'IPv6 alone',
    flags: ['--ip-families', '6', ...everyDns, '--drop-invalid'],
    traffic: { 4: untouched, 6: captured },
  },
  {
    name: 'TPROXY of IPv4 alone',
    flags: ['--ip-families', '4', ...everyDns, '-m', 'TPROXY'],
    transparent: true,
    traffic: { 4: captured, 6: untouched },
  },
  {
    name: 'TPROXY of IPv6 alone',
    flags: ['--ip-families', '6', ...everyDns, '-m', 'TPROXY'],
    transparent: true,
    traffic: { 4: untouched, 6: captured },
  },
];
