/** Configurations for tests that compare what one way of installing leaves in the kernel with what another does. */

export interface Case {
  name: string;
  /** Redirect flags, as on the command line. */
  args: string[];
}

const DNS_ALL = ['--redirect-dns', '--capture-all-dns'];
const TPROXY = ['-m', 'TPROXY'];
const CIDRS4 = '10.0.0.0/8,172.16.0.0/12';
const CIDRS6 = 'fd00::/8,2001:db8:1::/48';
const MIXED = '10.0.0.0/8,fd00::/8,192.168.1.0/24,2001:db8::1/128';

const list = (length: number, item: (at: number) => string) => Array.from({ length }, (_, at) => item(at)).join();
const count = (from: number, length: number) => list(length, (at) => String(from + at));

/** Each knob alone, each of its shapes. */
const alone: Record<string, string[]> = {
  'no flags': [],
  'mode REDIRECT': ['-m', 'REDIRECT'],
  'mode TPROXY': TPROXY,
  'mode NONE': ['-m', 'NONE'],
  'envoy port': ['-p', '16001'],
  'inbound capture port': ['-z', '16006'],
  'inbound tunnel port': ['-e', '16008'],
  'one uid': ['-u', '2000'],
  'several uids': ['-u', '1337,2000,0'],
  'largest uid': ['-u', '4294967294'],
  'one gid': ['-g', '2000'],
  'several gids': ['-g', '1337,2000,0'],
  'no inbound': ['-b', ''],
  'one inbound port': ['-b', '8080'],
  'inbound ports': ['-b', '80,443,8080'],
  'inbound ranges': ['-b', '8000-8100,9000,1-2'],
  'inbound port bounds': ['-b', '1,65535,1-65535'],
  'inbound excludes': ['-d', '22,9100-9200'],
  'no inbound excludes': ['-d', ''],
  'outbound ports': ['-q', '9042,27017'],
  'outbound port range': ['-q', '30000-32767'],
  'outbound excluded ports': ['-o', '3306,5432'],
  'outbound excluded range': ['-o', '6000-6010'],
  'no outbound': ['-i', ''],
  'IPv4 ranges': ['-i', CIDRS4],
  'IPv6 ranges': ['-i', CIDRS6],
  'mixed ranges': ['-i', MIXED],
  'range of everything': ['-i', '0.0.0.0/0,::/0'],
  'captured loopback, IPv4': ['-i', '127.1.2.3/32,10.0.0.0/8'],
  'captured loopback, IPv6': ['-i', '::1/128'],
  'excluded IPv4 ranges': ['-x', CIDRS4],
  'excluded IPv6 ranges': ['-x', CIDRS6],
  'excluded mixed ranges': ['-x', MIXED],
  'excluded everything': ['-x', '0.0.0.0/0,::/0'],
  'old IPv4-compatible addresses': ['-x', '::1:2/128,::ffff:0:0:0/96'],
  'one owner group': ['--owner-groups', '3000'],
  'owner groups': ['--owner-groups', '3000,3001,0'],
  '64 owner groups': ['--owner-groups', count(3000, 64)],
  'no owner groups': ['--owner-groups', ''],
  'excluded owner groups': ['--owner-groups-exclude', '4000,4001'],
  'one excluded interface': ['-c', 'net1'],
  'excluded interfaces': ['-c', 'net1,a.b-c_d,fifteen-letters'],
  'one virtual interface': ['-k', 'vm0'],
  'virtual interfaces': ['-k', 'vm0,vm1,vm2'],
  'all DNS': DNS_ALL,
  'DNS without all and servers named, IPv4': ['--redirect-dns', '--dns-servers', '10.96.0.10,10.96.0.11'],
  'DNS without all and servers named, IPv6': ['--redirect-dns', '--dns-servers', 'fd00::a'],
  'DNS servers of both families': ['--redirect-dns', '--dns-servers', '10.96.0.10,fd00::a,10.96.0.11,fd00::b'],
  'capture-all without redirect': ['--capture-all-dns'],
  'drop invalid': ['--drop-invalid'],
  'dual stack': ['--dual-stack'],
  'wide loopback': ['--loopback-cidr', '127.0.0.0/8'],
  'other loopback': ['--loopback-cidr', '127.0.0.0/24'],
  'mark and table without TPROXY': ['-t', '7', '-r', '7'],
  'IPv4 only': ['--ip-families', '4'],
  'IPv6 only': ['--ip-families', '6'],
  'both families': ['--ip-families', '4,6'],
};

const combined: Record<string, string[]> = {
  'TPROXY, other mark and table': [...TPROXY, '-t', '0xcafe', '-r', '1000'],
  'TPROXY, largest mark': [...TPROXY, '-t', '0xffffffff', '-r', '4294967295'],
  'TPROXY, inbound list': [...TPROXY, '-b', '80,8000-8010'],
  'TPROXY, no inbound': [...TPROXY, '-b', ''],
  'TPROXY, excludes': [...TPROXY, '-d', '22,9100-9200'],
  'TPROXY, excluded interfaces': [...TPROXY, '-c', 'net1,net2'],
  'TPROXY, several owners': [...TPROXY, '-u', '1337,2000', '-g', '1337,3000'],
  'TPROXY, drop invalid': [...TPROXY, '--drop-invalid'],
  'TPROXY, drop invalid, excluded interface': [...TPROXY, '--drop-invalid', '-c', 'net1'],
  'TPROXY, DNS': [...TPROXY, ...DNS_ALL],
  'TPROXY, wide loopback': [...TPROXY, '--loopback-cidr', '127.0.0.0/8'],
  'TPROXY, other port': [...TPROXY, '-z', '16006'],
  'TPROXY, IPv4 only': [...TPROXY, '--ip-families', '4'],
  'TPROXY, IPv6 only': [...TPROXY, '--ip-families', '6'],
  'TPROXY, virtual interfaces': [...TPROXY, '-k', 'vm0,vm1', '-i', MIXED],
  'virtual interfaces and mixed ranges': ['-k', 'vm0,vm1', '-i', MIXED],
  'virtual interfaces and no outbound': ['-k', 'vm0,vm1', '-i', ''],
  'virtual and excluded interfaces': ['-k', 'vm0', '-c', 'net1,net2'],
  'included and excluded ranges': ['-i', MIXED, '-x', '10.1.0.0/16,fd00:1::/32'],
  'everything but some': ['-i', '*', '-x', MIXED, '-o', '22', '-d', '22'],
  'ports beside no ranges': ['-i', '', '-q', '80,443,8000-8999'],
  'included and excluded outbound ports': ['-q', '80-90', '-o', '85'],
  'all DNS, several uids and gids': [...DNS_ALL, '-u', '1337,2000', '-g', '1337,3000'],
  'all DNS, other tunnel port': [...DNS_ALL, '-e', '16008'],
  'all DNS, owner groups': [...DNS_ALL, '--owner-groups', '3000,3001'],
  'all DNS, excluded owner groups': [...DNS_ALL, '--owner-groups-exclude', '4000'],
  'all DNS, captured loopback': [...DNS_ALL, '-i', '127.0.0.1/32,10.0.0.0/8'],
  'all DNS, IPv4 only': [...DNS_ALL, '--ip-families', '4'],
  'all DNS, IPv6 only': [...DNS_ALL, '--ip-families', '6'],
  'DNS servers, several uids': ['--redirect-dns', '--dns-servers', '10.96.0.10,fd00::a', '-u', '1337,2000'],
  'DNS servers of IPv6, TPROXY': [...TPROXY, '--redirect-dns', '--dns-servers', 'fd00::a'],
  'owner groups and ranges': ['--owner-groups', '3000', '-i', CIDRS4],
  'owner groups, both kinds': ['--owner-groups', '3000,3001', '--owner-groups-exclude', '3001'],
  'drop invalid and DNS': ['--drop-invalid', ...DNS_ALL],
  'duplicates everywhere': ['-b', '80,80', '-i', '10.0.0.0/8,10.0.0.0/8', '-u', '1,1', '-k', 'a,a', '-o', '5,5'],
  'duplicates of always excluded ports': ['-d', '15090,15020,15090,15021'],
  'all ports other than usual': ['-p', '1', '-z', '2', '-e', '3'],
  'gids other than uids, no inbound': ['-u', '5', '-g', '6', '-b', ''],
  'a hundred of each': ['-b', count(1000, 100), '-o', count(2000, 100), '-q', count(3000, 100)],
  'many excluded ranges of both families': [
    ...[
      '-x',
      list(70, (at) => `10.${at}.0.0/${at % 7 === 0 ? 16 : 24},fd00:${at.toString(16)}::/${at % 7 === 0 ? 32 : 64}`),
    ],
  ],
  'many ranges, virtual interfaces': ['-k', 'vm0,vm1', '-i', list(40, (at) => `10.${3 * at}.0.0/16`)],
  'many DNS servers': ['--redirect-dns', '--dns-servers', list(70, (at) => `10.0.${at}.53`)],
  'TPROXY, many inbound ports': ['-m', 'TPROXY', '-b', list(40, (at) => `${at * 7 + 1}-${at * 7 + (at % 3) + 1}`)],
  'all DNS, many excluded ports': [...DNS_ALL, '-o', `53,${count(2000, 20)}`, '-d', list(60, (at) => `${at * 2 + 1}`)],
  'the whole lot': [
    ...TPROXY,
    ...DNS_ALL,
    '--drop-invalid',
    ...['-u', '1337,2000', '-g', '1337,3000', '-b', '*', '-d', '22,9100-9200', '-i', MIXED, '-x', '10.1.0.0/16'],
    ...['-q', '9042', '-o', '3306,6000-6010', '-c', 'net1,net2', '-k', 'vm0,vm1', '--owner-groups-exclude', '4000'],
    ...['-p', '16001', '-z', '16006', '-e', '16008', '-t', '99', '-r', '99', '--loopback-cidr', '127.0.0.0/8'],
  ],
};

export const cases: readonly Case[] = Object.entries({ ...alone, ...combined }).map(([name, args]) => ({ name, args }));
