/** The configuration of `ipnc run` from flags, environment and file, and all of its errors together. */

import assert from 'node:assert/strict';
import { Command } from 'commander';
import { addRunOptions, runFlags } from '../../lib/cli/run.ts';
import { runOptionList } from '../../lib/config/options.ts';
import { type RunConfig, readConfig } from '../../lib/config/read.ts';
import { ConfigErrors } from '../../lib/errors.ts';
import { optionList } from '../../lib/istio/options.ts';
import { podRedirect } from '../../lib/istio/redirect.ts';
import { suite } from '../suite.ts';

const test = suite('config');

interface Given {
  flags?: Record<string, string | true>;
  environment?: Record<string, string>;
  file?: string;
}

/** The node's name is given, unless `environment` is. */
function config({ flags = {}, environment = { NODE_NAME: 'node-1' }, file }: Given): RunConfig {
  const all = file === undefined ? flags : { ...flags, config: '/etc/ipnc.yaml' };
  const read = (name: string) => {
    assert.equal(name, '/etc/ipnc.yaml');
    return file ?? '';
  };
  return readConfig({ flags: new Map(Object.entries(all)), environment, read });
}

function problems(given: Given): string[] {
  try {
    config(given);
  } catch (error) {
    assert.ok(error instanceof ConfigErrors);
    const { errors, message } = error as ConfigErrors;
    assert.equal(message, errors.map(({ message }) => message).join('\n'));
    return errors.map(({ message }) => message);
  }
  return [];
}

test('NRI fails closed if both options say so', () => {
  const flags = { 'runtime-events': 'nri', 'nri-fail-closed': 'true' };
  assert.equal(config({ flags }).nriFailClosed, true);
});

test('without anything but a node', () => {
  assert.deepEqual(config({}), {
    nodeName: 'node-1',
    enroll: 'both',
    excludeNamespaces: ['kube-system'],
    defaultInboundPorts: '*',
    backend: 'auto',
    counters: false,
    marks: 'all',
    resync: 30_000,
    concurrency: 8,
    hostRoot: '/',
    runtimeEvents: 'auto',
    nriFailClosed: false,
    metricsAddress: { host: undefined, port: 9464 },
    healthAddress: { host: undefined, port: 9465 },
    httpHosts: [],
    logLevel: 'info',
    redirect: {},
  });
});

/** Each option: a text, and what is read from it. */
const read: Record<string, [text: string, key: keyof RunConfig, value: unknown][]> = {
  'node-name': [['ip-10-0-0-1.eu-west-1.compute.internal', 'nodeName', 'ip-10-0-0-1.eu-west-1.compute.internal']],
  kubeconfig: [['kube.yaml', 'kubeconfig', 'kube.yaml']],
  'pod-namespace': [['ipnc', 'podNamespace', 'ipnc']],
  'pod-name': [['ipnc-x7zq', 'podName', 'ipnc-x7zq']],
  enroll: [
    ['annotation', 'enroll', 'annotation'],
    ['istio', 'enroll', 'istio'],
  ],
  'exclude-namespaces': [['kube-system, monitoring', 'excludeNamespaces', ['kube-system', 'monitoring']]],
  'default-inbound-ports': [['declared', 'defaultInboundPorts', 'declared']],
  backend: [['nftables', 'backend', 'nftables']],
  counters: [['true', 'counters', true]],
  marks: [
    ['all', 'marks', 'all'],
    ['failures', 'marks', 'failures'],
  ],
  resync: [
    ['1s', 'resync', 1000],
    ['1500ms', 'resync', 1500],
    ['5m', 'resync', 300_000],
    ['24h', 'resync', 86_400_000],
  ],
  concurrency: [['1', 'concurrency', 1]],
  'cri-socket': [
    ['/run/crio/crio.sock', 'criSocket', '/run/crio/crio.sock'],
    ['unix:///run/containerd/containerd.sock', 'criSocket', '/run/containerd/containerd.sock'],
  ],
  'host-root': [['/host', 'hostRoot', '/host']],
  'runtime-events': [['cri', 'runtimeEvents', 'cri']],
  'nri-fail-closed': [['false', 'nriFailClosed', false]],
  'metrics-address': [
    ['127.0.0.1:1', 'metricsAddress', { host: '127.0.0.1', port: 1 }],
    ['[::1]:65535', 'metricsAddress', { host: '::1', port: 65535 }],
    ['off', 'metricsAddress', 'off'],
  ],
  'health-address': [
    ['127.0.0.1:1', 'healthAddress', { host: '127.0.0.1', port: 1 }],
    ['off', 'healthAddress', 'off'],
  ],
  'http-hosts': [['metrics, metrics.istio-system.svc', 'httpHosts', ['metrics', 'metrics.istio-system.svc']]],
  'log-level': [['debug', 'logLevel', 'debug']],
};
for (const [, { flag, env }] of runOptionList) {
  for (const [text, key, value] of read[flag] ?? []) {
    test(`${flag} ${text}: by flag, environment and file`, () => {
      assert.deepEqual(config({ flags: { [flag]: text } })[key], value);
      assert.deepEqual(config({ environment: { NODE_NAME: 'node-1', [env[0]]: text } })[key], value);
      const environment = flag === 'node-name' ? {} : { NODE_NAME: 'node-1' };
      assert.deepEqual(config({ environment, file: `${flag}: ${JSON.stringify(text)}` })[key], value);
    });
  }
  test(`${flag} has a value in this table`, () => assert.ok(read[flag]));
}

for (const [key, { flag, env }] of optionList) {
  test(`${flag} is a default of the cluster`, () => {
    const values: Record<string, string> = {
      families: '4',
      dnsServers: '10.0.0.1',
      loopback: '127.0.0.0/8',
      mode: 'TPROXY',
      unservedFamilies: 'block',
    };
    const cidr = /Cidrs$/.test(key) ? '10.0.0.0/8' : undefined;
    const name = /Interfaces$/.test(key) ? 'eth1' : undefined;
    const logical = /^(redirectDns|captureAllDns|dropInvalid|dualStack)$/.test(key) ? 'true' : undefined;
    const text = values[key] ?? cidr ?? name ?? logical ?? '80';
    assert.equal(config({ flags: { [flag]: text } }).redirect[key]?.text, text);
    assert.equal(
      config({ file: `${flag}: ${JSON.stringify(text)}` }).redirect[key]?.field,
      `${flag} in /etc/ipnc.yaml`,
    );
    if (env === undefined) return;
    assert.equal(config({ environment: { NODE_NAME: 'n', [env[0] ?? '']: text } }).redirect[key]?.text, text);
  });
}

test('flags go before the environment, and that before the file', () => {
  const environment = {
    NODE_NAME: 'node-1',
    IPNC_RESYNC: '2m',
    IPNC_CONCURRENCY: '3',
    PROXY_UID: '2',
    ENVOY_PORT: '22',
  };
  const file = 'resync: 3m\nconcurrency: 4\nlog-level: warn\nproxy-uid: 3\nenvoy-port: 33\ninbound-capture-port: 333\n';
  const found = config({ flags: { resync: '1m', 'proxy-uid': '1' }, environment, file });
  assert.deepEqual([found.resync, found.concurrency, found.logLevel], [60_000, 3, 'warn']);
  const { proxyUids, proxyPort, inboundPort } = found.redirect;
  assert.deepEqual([proxyUids?.text, proxyPort?.text, inboundPort?.text], ['1', '22', '333']);
});

test('a value that does not decide is not read', () => {
  assert.equal(config({ flags: { resync: '1m' }, environment: { NODE_NAME: 'n', IPNC_RESYNC: 'x' } }).resync, 60_000);
});

test('a variable set to nothing is unset, and a list of the redirect options is empty by it', () => {
  const environment = { NODE_NAME: 'node-1', IPNC_RESYNC: '', IPNC_CONFIG: '', ISTIO_INBOUND_PORTS: '' };
  const found = config({ environment });
  assert.equal(found.resync, 30_000);
  assert.equal(found.redirect.inboundPorts?.text, '');
});

test('an empty list of excluded namespaces', () => {
  assert.deepEqual(config({ flags: { 'exclude-namespaces': '' } }).excludeNamespaces, []);
  assert.deepEqual(config({ file: 'exclude-namespaces: []' }).excludeNamespaces, []);
});

test('a file may hold lists, numbers and booleans, or nothing', () => {
  const file =
    'exclude-namespaces: [kube-system, shop]\nconcurrency: 2\ncounters: true\nistio-inbound-ports: [80, 90-99]\n';
  const found = config({ file });
  assert.deepEqual(found.excludeNamespaces, ['kube-system', 'shop']);
  assert.deepEqual([found.concurrency, found.counters], [2, true]);
  assert.equal(found.redirect.inboundPorts?.text, '80,90-99');
  assert.deepEqual(config({ file: '# nothing yet\n' }).redirect, {});
});

test('the file may be named in the environment', () => {
  const environment = { NODE_NAME: 'node-1', IPNC_CONFIG: '/etc/other.yaml' };
  const found = readConfig({
    flags: new Map(),
    environment,
    read: (name) => `log-level: ${name.includes('other') && 'warn'}`,
  });
  assert.equal(found.logLevel, 'warn');
});

test('what is configured is what pods get', () => {
  const found = config({ flags: { 'default-inbound-ports': 'declared', 'istio-service-cidr': '10.0.0.0/8' } });
  const { spec } = podRedirect({ spec: { containers: [{ ports: [{ containerPort: 80 }] }] } }, found);
  assert.deepEqual(spec.inbound.include, [{ first: 80, last: 80 }]);
  assert.deepEqual(spec.outbound.cidrs, [{ family: 4, address: '10.0.0.0', prefix: 8 }]);
});

test('the command line, and its help from the table', () => {
  const command = addRunOptions(new Command('run')).exitOverride();
  command.parse(['--node-name', 'n', '--counters', '-b', '80', '--redirect-dns=false', '--config', 'c'], {
    from: 'user',
  });
  const flags = { 'node-name': 'n', counters: true, 'istio-inbound-ports': '80', 'redirect-dns': 'false', config: 'c' };
  assert.deepEqual(Object.fromEntries(runFlags(command)), flags);
  const help = command.configureOutput({ getOutHelpWidth: () => 400 }).helpInformation();
  for (const [, { flag, help: words }] of [...runOptionList, ...optionList]) {
    assert.ok(help.includes(`--${flag}`), help);
    assert.ok(help.includes(words), words);
  }
  assert.ok(help.includes('(default: 30s, env: IPNC_RESYNC)'), help);
  assert.ok(help.includes('(default: false, env: IPNC_COUNTERS)'), help);
});

const bad: [given: Given, ...says: string[]][] = [
  [{ environment: {} }, '--node-name: missing; expected the name of this node, in NODE_NAME'],
  [{ environment: { NODE_NAME: '' } }, '--node-name: missing'],
  [{ environment: { NODE_NAME: 'Node_1' } }, 'NODE_NAME (environment): "Node_1": not the name of a node'],
  [{ flags: { 'node-name': `${'a'.repeat(254)}` } }, '(254 characters): not the name of a node'],
  [{ flags: { kubeconfig: '' } }, '--kubeconfig: "": not the path of a file'],
  [{ flags: { 'pod-namespace': 'a.b' } }, '--pod-namespace: "a.b": not the name of a namespace'],
  [{ flags: { 'pod-name': 'x/y' } }, '--pod-name: "x/y": not the name of a node or pod'],
  [{ flags: { enroll: 'all' } }, '--enroll: "all": not a known value; expected one of annotation, istio, both'],
  [{ flags: { 'exclude-namespaces': 'a,B' } }, '--exclude-namespaces: "B": not the name of a namespace'],
  [{ flags: { 'exclude-namespaces': 'a,,b' } }, '--exclude-namespaces: "a,,b": has an empty item'],
  [
    { flags: { 'default-inbound-ports': '80' } },
    '--default-inbound-ports: "80": not a known value; expected one of *, declared',
  ],
  [
    { flags: { backend: 'ebpf' } },
    '--backend: "ebpf": not a known value; expected one of auto, iptables-legacy, nftables',
  ],
  [{ flags: { counters: 'some' } }, '--counters: "some": not a boolean'],
  [{ flags: { resync: '30' } }, '--resync: "30": not a duration; expected a duration such as 500ms, 30s, 5m or 1h'],
  [{ flags: { resync: '1m30s' } }, '--resync: "1m30s": not a duration'],
  [{ flags: { resync: '0s' } }, '--resync: "0s": out of range; expected 1s to 24h'],
  [{ flags: { resync: '25h' } }, '--resync: "25h": out of range; expected 1s to 24h'],
  [{ flags: { concurrency: '0' } }, '--concurrency: "0": not a number in range; expected a number from 1 to 256'],
  [{ flags: { concurrency: '257' } }, '--concurrency: "257": not a number in range; expected a number from 1 to 256'],
  [{ flags: { concurrency: '8.0' } }, '--concurrency: "8.0": not a number in range; expected a number from 1 to 256'],
  [{ flags: { 'cri-socket': 'crio.sock' } }, '--cri-socket: "crio.sock": not an absolute path'],
  [{ flags: { 'cri-socket': 'tcp://127.0.0.1:1' } }, '--cri-socket: "tcp://127.0.0.1:1": not an absolute path'],
  [{ flags: { 'host-root': '/a\nb' } }, '--host-root: "/a\\nb": not an absolute path'],
  [
    { flags: { 'runtime-events': 'ebpf' } },
    '--runtime-events: "ebpf": not a known value; expected one of auto, nri, containerd, cri, inotify, off',
  ],
  [
    { flags: { 'nri-fail-closed': 'true' } },
    '--nri-fail-closed: "true": has no effect with --runtime-events auto; expected --runtime-events nri',
  ],
  [{ flags: { 'nri-fail-closed': 'maybe' } }, '--nri-fail-closed: "maybe": not a boolean'],
  [{ flags: { 'metrics-address': '9464' } }, '--metrics-address: "9464": not an address to listen on'],
  [{ flags: { 'metrics-address': ':65536' } }, '--metrics-address: ":65536": not an address'],
  [{ flags: { 'metrics-address': ':0' } }, '--metrics-address: ":0": not an address'],
  [{ flags: { 'metrics-address': '::1:80' } }, '--metrics-address: "::1:80": not an address'],
  [{ flags: { 'metrics-address': 'localhost:80' } }, '--metrics-address: "localhost:80": not an address'],
  [{ flags: { 'metrics-address': '[127.0.0.1]:80' } }, '--metrics-address: "[127.0.0.1]:80": not an address'],
  [{ flags: { 'http-hosts': 'metrics:9464' } }, '--http-hosts: "metrics:9464": not a host name; expected'],
  [
    { flags: { 'log-level': 'INFO' } },
    '--log-level: "INFO": not a known value; expected one of fatal, error, warn, info, debug, trace',
  ],
  [{ flags: { 'envoy-port': '0' } }, '-p, --envoy-port: "0": not a port; expected a number from 1 to 65535'],
  [{ environment: { NODE_NAME: 'n', INVALID_DROP: 'yes' } }, 'INVALID_DROP (environment): "yes": not a boolean'],
  [{ file: 'istio-service-cidr: 10.1.0.0/8' }, 'istio-service-cidr in /etc/ipnc.yaml: "10.1.0.0/8": has host bits set'],
  [{ flags: { 'proxy-gid': 'root' } }, '-g, --proxy-gid: "root": a group name, but'],
  [{ flags: { 'owner-groups': 'root' } }, '--owner-groups: "root": a group name, but'],
  [
    { flags: { 'default-inbound-ports': '*', 'istio-inbound-ports': '80' } },
    '--default-inbound-ports: "*": has no effect together with -b, --istio-inbound-ports',
  ],
  [
    { flags: { 'ip-families': '4', 'istio-service-cidr': 'fd00::/8' } },
    '-i, --istio-service-cidr: "fd00::/8": an IPv6 value, but --ip-families is 4',
  ],
  [
    { flags: { 'redirect-dns': true, 'capture-all-dns': true, 'dns-servers': '10.0.0.1' } },
    '--dns-servers: "10.0.0.1": has no effect with --capture-all-dns; expected one of the two',
  ],
  [
    { file: 'excludeNamespaces: [a]' },
    '/etc/ipnc.yaml: "excludeNamespaces": not an option of "ipnc run"; expected exclude-namespaces',
  ],
  [{ file: 'resnyc: 30s' }, '/etc/ipnc.yaml: "resnyc": not an option of "ipnc run"; expected resync'],
  [
    { file: 'ISTIO_INBOUND_PORT: 80' },
    '"ISTIO_INBOUND_PORT": not an option of "ipnc run"; expected istio-inbound-ports',
  ],
  [{ file: 'colour: red' }, '/etc/ipnc.yaml: "colour": not an option of "ipnc run"'],
  [{ file: 'istio-local-exclude-cidr: x' }, '"istio-local-exclude-cidr": not an option of "ipnc run"'],
  [
    { file: 'exclude-namespaces: [a, {b: c}]' },
    'exclude-namespaces in /etc/ipnc.yaml: "[\\"a\\",{\\"b\\":\\"c\\"}]": has the wrong type; expected a string',
  ],
  [{ file: 'config: x' }, '/etc/ipnc.yaml: "config": '],
  [{ file: 'resync:' }, 'resync in /etc/ipnc.yaml: "null": has the wrong type; expected a string, number or boolean'],
  [
    { file: 'resync: {every: 30s}' },
    'resync in /etc/ipnc.yaml: "{\\"every\\":\\"30s\\"}": has the wrong type; expected a string',
  ],
  [{ file: 'resync: 30s\nresync: 31s' }, '/etc/ipnc.yaml: not YAML: Map keys must be unique'],
  [{ file: 'resync: [' }, '/etc/ipnc.yaml: not YAML'],
  [{ file: 'a: b\n---\nc: d\n' }, '/etc/ipnc.yaml: not YAML'],
  [{ file: '- resync' }, '/etc/ipnc.yaml: "[\\"resync\\"]": not a mapping of options'],
  [{ file: `x: ${'y'.repeat(1_100_000)}` }, '/etc/ipnc.yaml: larger than a ConfigMap'],
  [
    {
      flags: { resync: 'x', concurrency: 'y', 'envoy-port': 'z' },
      environment: { IPNC_ENROLL: 'e' },
      file: 'log-level: l\nfoo: 1',
    },
    '"foo"',
    'IPNC_ENROLL (environment): "e"',
    '--resync: "x"',
    '--concurrency: "y"',
    'log-level in /etc/ipnc.yaml: "l"',
    '--node-name: missing',
    '-p, --envoy-port: "z"',
  ],
];
for (const [given, ...says] of bad) {
  test(`bad: ${says.map((text) => text.slice(0, 70)).join(' + ')}`, () => {
    const found = problems(given);
    assert.equal(found.length, says.length, found.join('\n'));
    for (const [at, text] of says.entries()) assert.ok(found[at]?.includes(text), found[at]);
    for (const message of found) assert.ok(message.length < 300, message);
  });
}

test('bad: a file that is not there', () => {
  const flags = new Map([['config', '/nonexistent/ipnc.yaml']]);
  const message = /--config: "\/nonexistent\/ipnc.yaml": cannot be read \(ENOENT\)/;
  assert.throws(() => readConfig({ flags, environment: { NODE_NAME: 'n' } }), message);
});
