/** Whatever cannot be honoured is refused before anything is touched, in words that help. */

import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { runSync } from '../support/process.ts';

interface Bad {
  /** Flags after `plan`, or a whole command line that begins with a verb. */
  words: string[];
  /** What the message must hold: field, value, what is wrong, what is expected. */
  says: string[];
  input?: string;
  environment?: Record<string, string>;
}

const PORTS = '--istio-inbound-ports';
const RANGE = 'not a port or a range of ports; expected numbers from 1 to 65535, such as 8080 or 8000-8100';
const CIDR = 'not a CIDR; expected a CIDR such as 10.0.0.0/8 or fd00::/8';
const NAME = 'not the name of an interface';
const MEGABYTE = 1_000_000;

const flag = (words: string[], ...says: string[]): Bad => ({ words, says });
const pod = (input: string, ...says: string[]): Bad => ({ words: ['--pod', '-'], input, says });
const podWith = (rest: object, ...says: string[]): Bad => pod(JSON.stringify({ kind: 'Pod', ...rest }), ...says);
const annotated = (key: string, value: unknown, ...says: string[]): Bad =>
  podWith({ metadata: { annotations: { [key]: value } } }, key, ...says);
const init = (args: string[], ...says: string[]): Bad =>
  podWith(
    { spec: { initContainers: [{ name: 'istio-init', args: ['istio-iptables', ...args] }] } },
    'istio-init',
    ...says,
  );

const cases: Record<string, Bad> = {
  'port 0': flag(['-p', '0'], '-p, --envoy-port', '"0"', '1 to 65535'),
  'port 65536': flag(['-p', '65536'], '--envoy-port', '"65536"', '1 to 65535'),
  'negative port': flag(['--envoy-port=-1'], '--envoy-port', '"-1"', '1 to 65535'),
  'port with leading zero': flag(['-z', '080'], '--inbound-capture-port', '"080"', '1 to 65535'),
  'port with sign': flag(['-e', '+80'], '--inbound-tunnel-port', '"+80"', '1 to 65535'),
  'port in hex': flag(['-p', '0x50'], '--envoy-port', '"0x50"', '1 to 65535'),
  'fractional port': flag(['-p', '80.5'], '--envoy-port', '"80.5"', '1 to 65535'),
  'empty port': flag(['-p', ''], '--envoy-port', '""', '1 to 65535'),
  'port by name': flag(['-b', 'http'], PORTS, '"http"', RANGE),
  'open range': flag(['-q', '80-'], '-q, --istio-outbound-ports', '"80-"', RANGE),
  'range without start': flag(['-o=-80'], '--istio-local-outbound-ports-exclude', RANGE),
  'double range': flag(['-b', '1-2-3'], PORTS, '"1-2-3"', RANGE),
  'range of iptables': flag(['-b', '80:90'], PORTS, '"80:90"', RANGE),
  'backward range': flag(['-b', '90-80'], PORTS, '"90-80"', '80-90'),
  'range beyond': flag(['-b', '65000-66000'], PORTS, '"65000-66000"', RANGE),
  'one bad port of many': flag(['-b', '80,443,x,8080'], PORTS, '"x"', RANGE),
  'empty item': flag(['-b', '80,,443'], PORTS, '"80,,443"', 'single commas'),
  'trailing comma': flag(['-d', '80,'], '--istio-local-exclude-ports', '"80,"', 'single commas'),
  'ports by semicolon': flag(['-b', '80;443'], PORTS, '"80;443"', RANGE),
  'star among ports': flag(['-b', '*,80'], PORTS, '"*,80"', 'expected "*" alone'),
  'star in a list without meaning for it': flag(
    ['-d', '*'],
    '--istio-local-exclude-ports',
    '"*"',
    'is not possible in this list',
  ),
  'bare address': flag(['-i', '10.0.0.1'], '--istio-service-cidr', '"10.0.0.1"', '10.0.0.1/32'),
  'bare IPv6 address': flag(['-x', 'fd00::1'], '--istio-service-exclude-cidr', '"fd00::1"', 'fd00::1/128'),
  'host bits': flag(['-i', '10.1.2.3/8'], '--istio-service-cidr', '"10.1.2.3/8"', '10.0.0.0/8'),
  'host bits, IPv6': flag(['-x', 'fd00::1/64'], '--istio-service-exclude-cidr', '"fd00::1/64"', 'fd00::/64'),
  'prefix too long': flag(['-i', '10.0.0.0/33'], '--istio-service-cidr', '"10.0.0.0/33"', '0 to 32'),
  'prefix too long, IPv6': flag(['-i', 'fd00::/129'], '"fd00::/129"', '0 to 128'),
  'prefix as mask': flag(['-i', '10.0.0.0/255.0.0.0'], '"10.0.0.0/255.0.0.0"', '0 to 32'),
  'empty prefix': flag(['-i', '10.0.0.0/'], '"10.0.0.0/"', '0 to 32'),
  'two prefixes': flag(['-i', '10.0.0.0/8/8'], '"10.0.0.0/8/8"', CIDR),
  'short address': flag(['-i', '10/8'], '--istio-service-cidr', '"10/8"', CIDR),
  'octal address': flag(['-i', '010.0.0.0/8'], '"010.0.0.0/8"', CIDR),
  'IPv4-mapped, in hexadecimal': flag(['-i', '::ffff:7f00:35/128'], '::ffff:7f00:35/128', 'expected 127.0.0.53'),
  'IPv4-mapped': flag(['-i', '::ffff:10.0.0.1/128'], '::ffff:10.0.0.1/128', 'expected 10.0.0.1'),
  'zone id': flag(['-x', 'fe80::1%eth0/128'], 'fe80::1%eth0/128', 'address without the zone'),
  'host name': flag(['-x', 'example.com/32'], '"example.com/32"', CIDR),
  'wrong family': flag(
    ['-i', 'fd00::/8', '--ip-families', '4'],
    '--istio-service-cidr',
    '"fd00::/8"',
    'values of these families only',
  ),
  'wrong family, excluded': flag(
    ['-x', '10.0.0.0/8', '--ip-families', '6'],
    '--istio-service-exclude-cidr',
    '10.0.0.0/8',
  ),
  'star excluded': flag(['-x', '*'], '--istio-service-exclude-cidr', '"*"', CIDR),
  'interface too long': flag(['-c', 'sixteen-letters-'], '--istio-exclude-interfaces', 'sixteen', '15 characters'),
  'interface with digit first': flag(['-k', '0eth'], '--kube-virt-interfaces', '"0eth"', NAME),
  'interface with wildcard': flag(['-c', 'eth+'], '"eth+"', NAME),
  'interface with slash': flag(['-c', '../eth0'], '"../eth0"', NAME),
  'interface with blank': flag(['-c', 'eth 0'], '"eth 0"', NAME),
  'user by name': flag(['-u', 'istio-proxy'], '--proxy-uid', '"istio-proxy"', 'numeric id'),
  'uid too large': flag(['-u', '4294967295'], '--proxy-uid', '"4294967295"', '0 to 4294967294'),
  'no uid': flag(['-u', ''], '--proxy-uid', '""', 'list of uids'),
  'negative gid': flag(['--proxy-gid=-1'], '--proxy-gid', '"-1"', '0 to 4294967294'),
  'unknown group': flag(['-g', 'no-such-group-here'], '--proxy-gid', '"no-such-group-here"', '/etc/group'),
  '65 owner groups': flag(
    ['--owner-groups', Array.from({ length: 65 }, (_, at) => at).join(',')],
    '--owner-groups',
    '"0,1,2',
    'at most 64',
  ),
  'star among groups': flag(['--owner-groups', '*,5'], '--owner-groups', '"*,5"', 'expected "*" alone'),
  'mode in lower case': flag(
    ['-m', 'tproxy'],
    '--istio-inbound-interception-mode',
    '"tproxy"',
    'REDIRECT, TPROXY, NONE',
  ),
  'empty mode': flag(['-m', ''], '--istio-inbound-interception-mode', '""', 'REDIRECT, TPROXY, NONE'),
  'mark 0': flag(['-t', '0'], '--istio-inbound-tproxy-mark', '"0"', '0x1 to 0xffffffff'),
  'mark too large': flag(['-t', '0x100000000'], '"0x100000000"', '0x1 to 0xffffffff'),
  'mark with mask': flag(['-t', '1337/0xff'], '"1337/0xff"', 'without a mask'),
  'mark in use': flag(['-t', '1338'], '"1338"', 'expected another mark'),
  'the main table': flag(['-r', '254'], '--istio-inbound-tproxy-route-table', '"254"', 'expected another'),
  'table by name': flag(['-r', 'main'], '"main"', '1 to 4294967295'),
  'loopback elsewhere': flag(['--loopback-cidr', '10.0.0.0/8'], '--loopback-cidr', '"10.0.0.0/8"', '127.0.0.0/8'),
  'loopback too wide': flag(['--loopback-cidr', '126.0.0.0/7'], '"126.0.0.0/7"', '127.0.0.0/8'),
  'loopback of IPv6': flag(['--loopback-cidr', '::1/128'], '"::1/128"', '127.0.0.0/8'),
  'boolean maybe': flag(['--redirect-dns=maybe'], '--redirect-dns', '"maybe"', 'true or false'),
  'DNS server with prefix': flag(
    ['--redirect-dns', '--dns-servers', '10.0.0.1/32'],
    '--dns-servers',
    '10.0.0.1/32',
    'IP address',
  ),
  'no DNS servers': flag(['--redirect-dns', '--dns-servers', ''], '--dns-servers', '""', 'at least one'),
  'DNS servers without DNS': flag(['--dns-servers', '10.0.0.1'], '--dns-servers', '10.0.0.1', '--redirect-dns'),
  'DNS servers beside all': flag(
    ['--redirect-dns', '--capture-all-dns', '--dns-servers', '10.0.0.1'],
    '--dns-servers',
    '10.0.0.1',
    '--capture-all-dns',
  ),
  'DNS server of a family left out': flag(
    ['--redirect-dns', '--dns-servers', 'fd00::a', '--ip-families', '4'],
    '--dns-servers',
    '"fd00::a"',
    'IPv6',
  ),
  families: flag(['--ip-families', '5'], '--ip-families', '"5"', 'auto, 4, 6 and 4,6'),
  'backend of a program': flag(['--backend', 'iptables-nft'], '--backend', '"iptables-nft"', 'nftables'),
  counters: flag(['--counters=maybe'], '--counters', '"maybe"', 'true or false'),
  'unknown backend': flag(['--backend', 'ebpf'], '--backend', '"ebpf"', 'iptables-legacy'),
  'output form': flag(['--output', 'xml'], '--output', '"xml"', 'text, json'),
  'plan form': flag(['--format', 'nft'], '--format', '"nft"', 'iptables, nftables, json'),
  'control characters': flag(['-c', 'eth0\u001b[31m\u0007'], '\\u001b[31m\\u0007', NAME),
  'bidirectional override': flag(['-c', 'eth\u202e0'], '\\u{202e}', NAME),
  newline: flag(['-b', '80\n443'], '"80\\n443"', RANGE),
  'a megabyte in one item': flag(['-b', '8'.repeat(MEGABYTE)], PORTS, `(${MEGABYTE} characters)`, RANGE),
  'a megabyte of items': flag(['-b', '80,'.repeat(MEGABYTE / 3)], PORTS, 'characters)', 'at most 1000'),
  '1,001 items': flag(
    ['-i', Array.from({ length: 1001 }, (_, at) => `10.0.${at >> 8}.${at & 255}/32`).join(',')],
    'at most 1000',
  ),
  'too many reroutes': flag(
    [
      '-k',
      Array.from({ length: 101 }, (_, at) => `v${at}`).join(','),
      '-i',
      Array.from({ length: 100 }, (_, at) => `10.0.0.${at}/32`).join(','),
    ],
    '--kube-virt-interfaces',
    'leads to 10201 of 10325 rules',
    'at most 4096 rules in total',
  ),
  'too many rules of several lists': flag(
    [
      '-o',
      Array.from({ length: 1000 }, (_, at) => at + 1).join(),
      '-q',
      Array.from({ length: 1000 }, (_, at) => at + 1).join(),
      '-c',
      Array.from({ length: 700 }, (_, at) => `e${at}`).join(),
    ],
    '--istio-local-outbound-ports-exclude',
    'leads to 2000 of',
    'at most 4096 rules in total',
  ),
  'too many uids': flag(['-u', Array.from({ length: 17 }, (_, at) => at + 1).join()], '17 items', 'at most 16'),
  environment: {
    words: [],
    environment: { ISTIO_OUTBOUND_PORTS: '80-' },
    says: ['ISTIO_OUTBOUND_PORTS (environment)', '"80-"', RANGE],
  },
  'environment, second name': {
    words: [],
    environment: { INVALID_DROP: 'yes' },
    says: ['INVALID_DROP (environment)', '"yes"', 'true or false'],
  },
  'unknown flag': flag(['--envoyport', '1'], '--envoyport', '--envoy-port'),
  'unknown short flag': flag(['-y'], "'-y'"),
  'flag without value': flag(['-p'], '--envoy-port', 'argument missing'),
  'a word too many': flag(['80'], 'argument', '"80"', 'flags only', 'ipnc plan --help'),
  'dry run': flag(['-n'], '-n, --dry-run', '"plan"'),
  'clean-up only': flag(['--cleanup-only'], '--cleanup-only', '"clean"'),
  validation: flag(['--run-validation'], '--run-validation', '"verify"'),
  'probe port': flag(['--iptables-probe-port', '15002'], '--iptables-probe-port', '"verify"'),
  'native nftables': flag(['--native-nftables'], '--native-nftables', '--backend'),
  'log level': flag(['--log_output_level', 'debug'], '--log_output_level', '--output json'),
  'unknown verb': flag(['aply'], 'aply', 'apply'),
  'no target': flag(['apply'], '--netns or --pid', 'missing', 'exactly one'),
  'two targets': flag(['apply', '--netns', 'x', '--pid', '1'], '--pid', '"1"', 'exactly one'),
  'pid 0': flag(['verify', '--pid', '0'], '--pid', '"0"', 'id of a process'),
  'pid in words': flag(['clean', '--pid', 'self'], '--pid', '"self"', 'id of a process'),
  'empty netns': flag(['apply', '--netns', ''], '--netns', '""', '/run/netns'),
  'netns with newline': flag(['apply', '--netns', 'a\nb'], '--netns', '"a\\nb"', '/run/netns'),
  'apply with a bad port and a good target': flag(
    ['apply', '--netns', 'x', '-p', '0'],
    '--envoy-port',
    '"0"',
    '1 to 65535',
  ),
  'no Pod file': flag(['--pod', '/nonexistent/pod.yaml'], '--pod', '/nonexistent/pod.yaml', 'ENOENT'),
  'a folder for a Pod': flag(['--pod', '/'], '--pod', '"/"', 'EISDIR'),
  'an empty Pod': pod('', '--pod', 'empty', 'one Pod'),
  'not YAML': pod('kind: Pod\n  bad: [', '--pod', 'neither YAML nor JSON'),
  'a bare value': pod('hello', '--pod', 'expected a Pod'),
  'a list': pod('[]', '--pod', 'expected a Pod'),
  'another kind': pod('kind: Deployment', 'kind', '"Deployment"', 'expected Pod'),
  'no kind': pod('metadata: {}', 'kind', 'expected Pod'),
  'two Pods': pod('kind: Pod\n---\nkind: Pod\n', '2 documents', 'one Pod'),
  'a Pod of 2 MB': pod(`kind: Pod\nx: ${'y'.repeat(2 * MEGABYTE)}`, 'larger than the API server accepts'),
  'aliases without end': pod(
    `kind: Pod\na: &a [x,x,x,x,x,x,x,x,x]\n${['b', 'c', 'd', 'e', 'f'].map((name, at) => `${name}: &${name} [${`*${'abcde'[at]},`.repeat(9)}]`).join('\n')}`,
    'neither YAML nor JSON',
  ),
  'annotations as a list': podWith({ metadata: { annotations: ['x'] } }, 'metadata.annotations', 'expected a mapping'),
  'a number for an annotation': annotated('traffic.sidecar.istio.io/includeInboundPorts', 80, '80', 'quotes'),
  'a bad annotation': annotated('traffic.sidecar.istio.io/excludeOutboundPorts', '80-', '"80-"', RANGE),
  'a bad mode in an annotation': annotated('sidecar.istio.io/interceptionMode', 'BOTH', '"BOTH"', 'TPROXY'),
  'a bad annotation of ours': annotated('pod-network-controller.istio.io/envoy-port', 'x', '"x"', '1 to 65535'),
  'a group name in a pod': annotated('pod-network-controller.istio.io/envoy-groupid', 'root', '"root"', 'numeric id'),
  'containers as a mapping': podWith({ spec: { containers: {} } }, 'spec.containers', 'expected a list'),
  'a uid in words': podWith(
    { spec: { containers: [{ name: 'istio-proxy', securityContext: { runAsUser: 'x' } }] } },
    'runAsUser',
    '"\\"x\\""',
    'numeric id',
  ),
  'a number among args': podWith(
    { spec: { initContainers: [{ name: 'istio-init', args: [15001] }] } },
    'args',
    '15001',
    'quotes',
  ),
  'a flag of tomorrow in a pod': init(['--outbound-owner-users', '5'], '--outbound-owner-users', 'knows'),
  'a bad port in injected arguments': init(['-q', '80-'], '-q', '"80-"', RANGE),
  'a value missing in injected arguments': init(['-q'], '-q', 'missing'),
  "a socket of doctor's that is no path, by environment": {
    words: ['doctor'],
    says: ['IPNC_CRI_SOCKET', '"crio"', 'not an absolute path'],
    environment: { IPNC_CRI_SOCKET: 'crio' },
  },
  'a variable by reference': podWith(
    { spec: { containers: [{ name: 'istio-proxy', env: [{ name: 'INVALID_DROP', valueFrom: {} }] }] } },
    'INVALID_DROP',
    'istio-proxy',
    'reference',
  ),
};

const VERBS = ['apply', 'verify', 'clean', 'plan', 'aply', 'doctor'];

const test = suite('bad input');

for (const [name, { words, says, input = '', environment = {} }] of Object.entries(cases)) {
  test(name, async () => {
    const whole = VERBS.includes(words[0] ?? '') ? words : ['plan', ...words];
    const { code, stdout, stderr } = await ipnc(whole, { input, environment });
    assert.equal(code, 2, stderr);
    assert.equal(stdout, '');
    for (const part of says) assert.ok(stderr.includes(part), `${JSON.stringify(part)} is not in ${stderr}`);
    assert.ok(stderr.length < 600, `${stderr.length} characters`);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: this is what must not be there
    assert.doesNotMatch(stderr, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/);
  });
}

test('the program itself: exit code 2, nothing on standard output, the reason as JSON if asked', () => {
  const main = fileURLToPath(new URL('../../lib/main.ts', import.meta.url));
  const failed = (words: string[]) => runSync(process.execPath, [main, ...words]);
  const plain = failed(['apply', '--netns', 'x', '-q', '80-']);
  assert.deepEqual([plain.code, plain.stdout], [2, '']);
  assert.equal(plain.stderr, `error: -q, --istio-outbound-ports: "80-": ${RANGE}\n`);
  const json = failed(['apply', '--netns', 'x', '-q', '80-', '--output', 'json']);
  assert.deepEqual([json.code, json.stdout], [2, '']);
  assert.deepEqual(JSON.parse(json.stderr), {
    error: {
      code: 'ERR_CONFIG',
      message: `-q, --istio-outbound-ports: "80-": ${RANGE}`,
      field: '-q, --istio-outbound-ports',
      value: '80-',
      wrong: 'not a port or a range of ports',
      expected: 'numbers from 1 to 65535, such as 8080 or 8000-8100',
    },
  });
});

test('a missing target fails, but is not a usage error', async () => {
  const { code, stderr } = await ipnc(['apply', '--pid', '4194304']);
  assert.equal(code, 1);
  assert.ok(stderr.includes('no process 4194304'), stderr);
});
