/** The sources of a pod's settings, and their precedence. */
import assert from 'node:assert/strict';
import { DOMAIN, NETNS, RULES, STATUS } from '../../lib/istio/names.ts';
import { annotationNames, isUnknownOption } from '../../lib/istio/options.ts';
import { type Pod, readPod } from '../../lib/istio/pod.ts';
import { redirect } from '../../lib/istio/redirect.ts';
import { environmentSource, flagSource } from '../../lib/istio/sources.ts';
import { toPodRecord } from '../../lib/kube/pods.ts';
import { suite } from '../suite.ts';

const test = suite('redirect');

const flags = (given: Record<string, string | true>) => flagSource(new Map(Object.entries(given)));
const port = (first: number, last = first) => ({ first, last });
const none = (): string[] => {
  throw new Error('resolv.conf was read');
};
const ofPod = (pod: Pod, given: Record<string, string | true> = {}) =>
  redirect({ flags: flags(given), pod }, none).spec;

/** As Istio's injector writes it (manifests/charts/istio-control/istio-discovery/files/injection-template.yaml). */
function injected(args: string[], extra: Pod['spec'] = {}, annotations: Record<string, string> = {}): Pod {
  return {
    metadata: { annotations },
    spec: { initContainers: [{ name: 'istio-init', args: ['istio-iptables', ...args] }], containers: [], ...extra },
  };
}
const USUAL = ['-p', '15001', '-z', '15006', '-u', '1337', '-m', 'REDIRECT', '-i', '*', '-x', '', '-b', '*'];
const EXCLUDED = ['-d', '15090,15021,15020', '--log_output_level=default:info'];

test('without anything it is what Istio injects', () => {
  assert.deepEqual(redirect({}, none), {
    spec: {
      mode: 'REDIRECT',
      proxyPort: 15001,
      inboundPort: 15006,
      tunnelPort: 15008,
      proxyUids: [1337],
      proxyGids: [1337],
      inbound: { include: '*', exclude: [port(15090), port(15021), port(15020)] },
      outbound: { cidrs: '*', excludeCidrs: [], ports: [], excludePorts: [] },
      ownerGroups: { include: '*', exclude: [] },
      excludeInterfaces: [],
      rerouteInterfaces: [],
      dns: 'off',
      dropInvalid: false,
      loopback: { family: 4, address: '127.0.0.1', prefix: 32 },
      tproxy: { mark: 1337, table: 133 },
    },
    families: 'auto',
    dualStack: true,
    unserved: 'leave',
    warnings: [],
  });
});

test('a pod injected with the defaults is the same', () => {
  assert.deepEqual(ofPod(injected([...USUAL, ...EXCLUDED])), redirect({}, none).spec);
  assert.deepEqual(ofPod({}), redirect({}, none).spec);
});

for (const words of [
  ['--log_as_json'],
  ['--log_of_tomorrow'],
  ['--log_of_tomorrow', 'value'],
  ['--log_of_tomorrow=value'],
  ['--vklog', '9'],
]) {
  test(`${words.join(' ')} in an init container does not swallow the flag after it`, () => {
    assert.equal(ofPod(injected([...words, '-z', '15016'])).inboundPort, 15016);
    assert.equal(ofPod(injected(['-z', '15016', ...words])).inboundPort, 15016);
  });
}

test("a pod that waits for Istio's CNI leaves out outbound port 15020, unless something says otherwise", () => {
  const waiting = (args: string[], annotations = {}) => ({
    metadata: { annotations },
    spec: {
      initContainers: [{ name: 'istio-validation', args: ['istio-iptables', ...args] }],
      containers: [{ name: 'istio-proxy' }],
    },
  });
  assert.deepEqual(ofPod(waiting(USUAL)).outbound.excludePorts, [port(15020)]);
  assert.deepEqual(ofPod(waiting([...USUAL, '-o', ''])).outbound.excludePorts, []);
  const annotated = { 'traffic.sidecar.istio.io/excludeOutboundPorts': '3306' };
  assert.deepEqual(ofPod(waiting(USUAL, annotated)).outbound.excludePorts, [port(3306)]);
  assert.deepEqual(ofPod(injected(USUAL)).outbound.excludePorts, []);
  // As the template for istiod's injector makes it: the gate under the name of the container that it replaces.
  const gated = waiting(USUAL);
  const [validation] = gated.spec.initContainers;
  const gate = { ...validation, command: ['/pod-network-gate'] };
  assert.deepEqual(ofPod({ spec: { ...gated.spec, initContainers: [gate] } }).outbound.excludePorts, []);
});

test("a container with the proxy's uid or gid is warned of, in the record of a pod as well", () => {
  const warningsOf = (ofPod: object | undefined, ...contexts: (object | undefined)[]) => {
    const containers = contexts.map((securityContext, at) => ({ name: `app${at}`, securityContext }));
    const whole = { spec: { securityContext: ofPod, containers: [{ name: 'istio-proxy' }, ...containers] } } as Pod;
    const record = toPodRecord({ metadata: { name: 'web', uid: 'u' }, spec: whole.spec });
    const { warnings } = redirect({ pod: whole });
    assert.deepEqual(redirect({ pod: record }).warnings, warnings);
    return warnings.map((line) => line.replace(/,.*/, ''));
  };
  assert.deepEqual(warningsOf(undefined, undefined, { runAsUser: 1000, runAsGroup: 1000 }), []);
  assert.deepEqual(warningsOf(undefined, { runAsUser: 7 }, { runAsUser: 1337 }, { runAsUser: 1337 }), [
    "container app1 has the proxy's uid 1337",
  ]);
  assert.deepEqual(warningsOf({ runAsGroup: 1337 }, { runAsGroup: 5 }, { runAsUser: 5 }), [
    "container app1 has the proxy's gid 1337",
  ]);
  const many = Array.from({ length: 1000 }, (_, at) => ({ runAsUser: at + 2000 }));
  assert.deepEqual(warningsOf(undefined, { runAsUser: 1337 }, ...many), ["container app0 has the proxy's uid 1337"]);
});

test('a warning names each annotation that looks like an option and is none, also from the record of a pod', () => {
  const warningsOf = (annotations: Record<string, string>) => {
    const metadata = { name: 'web', uid: 'u', annotations };
    const { warnings } = redirect({ pod: { metadata } });
    assert.deepEqual(redirect({ pod: toPodRecord({ metadata }) }).warnings, warnings);
    return warnings;
  };
  const line = (what: string) => [
    `annotations that are not options and have no effect: ${what}; docs/cli.md lists all options`,
  ];
  const meant = 'traffic.sidecar.istio.io/excludeOutboundPorts';
  for (const wrong of [
    'excludeOutboundPort',
    'excludeoutboundports',
    'exclude-outbound-ports',
    'excludeOutbuondPorts',
  ]) {
    const name = `traffic.sidecar.istio.io/${wrong}`;
    assert.deepEqual(warningsOf({ [name]: '80' }), line(`${name} (did you mean ${meant}?)`));
  }
  for (const [wrong, right] of [
    ['traffic.sidecar.istio.io/interceptionMode', 'sidecar.istio.io/interceptionMode'],
    ['traffic.sidecar.istio.io/rerouteVirtualInterfaces', 'istio.io/reroute-virtual-interfaces'],
    ['sidecar.istio.io/excludeOutboundPorts', meant],
    ['istio.io/excludeOutboundPorts', meant],
    [`${DOMAIN}/excludeOutboundPorts`, meant],
    ['istio.io/envoy-port', `${DOMAIN}/envoy-port`],
  ] as const)
    assert.deepEqual(warningsOf({ [wrong]: '80' }), line(`${wrong} (did you mean ${right}?)`));
  const own = `${DOMAIN}/envoy-user-ids`;
  const far = 'traffic.sidecar.istio.io/nothing-like-it';
  const both = `${own} (did you mean ${DOMAIN}/envoy-userid?), ${far}`;
  assert.deepEqual(warningsOf({ [own]: '5', [far]: '80' }), line(both));
  assert.deepEqual(warningsOf({ [`traffic.sidecar.istio.io/${'x'.repeat(500_000)}`]: '80' }), []);
  const marks = { [STATUS]: 'initialized', [NETNS]: 'x:1', [RULES]: 'y' };
  const others = {
    'sidecar.istio.io/proxyCPU': '1',
    'proxy.istio.io/config': '{}',
    'sidecar.istio.io/interceptionModes': '',
    'example.com/excludeOutboundPorts': '80',
    'notistio.io/excludeOutboundPorts': '80',
  };
  assert.deepEqual(warningsOf({ ...marks, ...others, [meant]: '80', [`${DOMAIN}/envoy-port`]: '15001' }), []);
  assert.deepEqual(annotationNames.filter(isUnknownOption), []);
  const many = Object.fromEntries(Array.from({ length: 1000 }, (_, at) => [`traffic.sidecar.istio.io/n${at}`, '1']));
  assert.equal(warningsOf(many)[0]?.match(/\/n\d/g)?.length, 4);
});

test('the gate in front of the proxy has the flags before "--"', () => {
  const gate = ['/opt/pod-network-gate/pod-network-gate', 'istio-iptables', '-z', '15016', '-u', '1000650000'];
  const proxy = {
    name: 'istio-proxy',
    restartPolicy: 'Always',
    args: ['proxy', 'sidecar', '-z', '1', '--log_as_json'],
  };
  const pod = { spec: { initContainers: [{ ...proxy, command: [...gate, '--', '/usr/local/bin/pilot-agent'] }] } };
  const { inboundPort, proxyUids } = ofPod(pod);
  assert.deepEqual({ inboundPort, proxyUids }, { inboundPort: 15016, proxyUids: [1000650000] });
});

test('flags go before the environment', () => {
  const environment = environmentSource({ PROXY_UID: '5', ISTIO_INBOUND_PORTS: '80', ENVOY_PORT: '9' });
  const { spec } = redirect({ flags: flags({ 'proxy-uid': '6' }), environment }, none);
  assert.deepEqual(spec.proxyUids, [6]);
  assert.deepEqual(spec.inbound.include, [port(80)]);
  assert.equal(spec.proxyPort, 9);
});

test('only what decides is parsed', () => {
  const environment = environmentSource({ PROXY_UID: 'nobody at all' });
  assert.deepEqual(redirect({ flags: flags({ 'proxy-uid': '6' }), environment }, none).spec.proxyUids, [6]);
});

test("a Service named envoy does not set the proxy's port", () => {
  const environment = environmentSource({ ENVOY_PORT: 'tcp://10.0.0.1:80' });
  assert.equal(redirect({ environment }, none).spec.proxyPort, 15001);
});

test('an empty variable is an empty list, and unset for anything else', () => {
  const { spec } = redirect(
    {
      environment: environmentSource({
        ISTIO_INBOUND_PORTS: '',
        ISTIO_SERVICE_CIDR: '',
        PROXY_UID: '',
        ENVOY_PORT: '',
      }),
    },
    none,
  );
  assert.deepEqual(spec.inbound.include, []);
  assert.deepEqual(spec.outbound.cidrs, []);
  assert.deepEqual(spec.proxyUids, [1337]);
  assert.equal(spec.proxyPort, 15001);
});

test('the gid follows the uid', () => {
  assert.deepEqual(redirect({ flags: flags({ 'proxy-uid': '5,6' }) }, none).spec.proxyGids, [5, 6]);
  assert.deepEqual(redirect({ flags: flags({ 'proxy-uid': '5', 'proxy-gid': '7' }) }, none).spec.proxyGids, [7]);
});

test('group names are those of this machine', () => {
  assert.deepEqual(redirect({ flags: flags({ 'proxy-gid': 'root,7' }) }, none).spec.proxyGids, [0, 7]);
});

test('duplicates keep their first place', () => {
  const { spec } = redirect({ flags: flags({ 'istio-inbound-ports': '80,8000-8100,80,8000-8100,79' }) }, none);
  assert.deepEqual(spec.inbound.include, [port(80), port(8000, 8100), port(79)]);
});

test("the agent's ports are always excluded", () => {
  const exclude = (text: string) =>
    redirect({ flags: flags({ 'istio-local-exclude-ports': text }) }, none).spec.inbound.exclude;
  assert.deepEqual(exclude('22'), [port(22), port(15020), port(15021), port(15090)]);
  assert.deepEqual(exclude('15021,22'), [port(15021), port(22), port(15020), port(15090)]);
  assert.deepEqual(exclude(''), [port(15020), port(15021), port(15090)]);
});

test('an IPv4-compatible address is not an IPv4-mapped one', () => {
  for (const text of ['::127.0.0.53/128', '::7f00:35/128']) {
    const { spec } = redirect({ flags: flags({ 'istio-service-cidr': text }) }, none);
    assert.deepEqual(spec.outbound.cidrs, [{ family: 6, address: '::7f00:35', prefix: 128 }]);
  }
});

test('white space around items is ignored, also the line break of a YAML block', () => {
  const { spec } = redirect(
    { flags: flags({ 'istio-outbound-ports': '80,\t443\n', 'istio-service-cidr': ' *\n' }) },
    none,
  );
  assert.deepEqual([spec.outbound.ports, spec.outbound.cidrs], [[port(80), port(443)], '*']);
});

test('addresses are canonical', () => {
  const { spec } = redirect({ flags: flags({ 'istio-service-cidr': ' FD00:0:0::/8 , 10.0.0.0/8' }) }, none);
  assert.deepEqual(spec.outbound.cidrs, [
    { family: 6, address: 'fd00::', prefix: 8 },
    { family: 4, address: '10.0.0.0', prefix: 8 },
  ]);
});

test("Istio's annotations", () => {
  const pod: Pod = {
    metadata: {
      annotations: {
        'sidecar.istio.io/interceptionMode': 'TPROXY',
        'traffic.sidecar.istio.io/includeInboundPorts': '80,9000-9100',
        'traffic.sidecar.istio.io/excludeInboundPorts': '15020',
        'traffic.sidecar.istio.io/includeOutboundIPRanges': '10.0.0.0/8',
        'traffic.sidecar.istio.io/excludeOutboundIPRanges': '10.1.0.0/16',
        'traffic.sidecar.istio.io/includeOutboundPorts': '443',
        'traffic.sidecar.istio.io/excludeOutboundPorts': '3306',
        'traffic.sidecar.istio.io/excludeInterfaces': 'net1',
        'traffic.sidecar.istio.io/kubevirtInterfaces': 'old0',
      },
    },
  };
  const spec = ofPod(pod);
  assert.equal(spec.mode, 'TPROXY');
  assert.deepEqual(spec.inbound, {
    include: [port(80), port(9000, 9100)],
    exclude: [port(15020), port(15021), port(15090)],
  });
  assert.deepEqual(spec.outbound, {
    cidrs: [{ family: 4, address: '10.0.0.0', prefix: 8 }],
    excludeCidrs: [{ family: 4, address: '10.1.0.0', prefix: 16 }],
    ports: [port(443)],
    excludePorts: [port(3306)],
  });
  assert.deepEqual(spec.excludeInterfaces, ['net1']);
  assert.deepEqual(spec.rerouteInterfaces, ['old0']);
  Object.assign(pod.metadata?.annotations ?? {}, { 'istio.io/reroute-virtual-interfaces': 'new0' });
  assert.deepEqual(ofPod(pod).rerouteInterfaces, ['new0']);
});

test("the injected arguments go before Istio's annotations, ours before both, flags before all", () => {
  const annotations = {
    'traffic.sidecar.istio.io/includeInboundPorts': '1',
    'traffic.sidecar.istio.io/includeOutboundPorts': '443',
    'pod-network-controller.istio.io/envoy-port': '16001',
    'pod-network-controller.istio.io/envoy-userid': '2000',
    'pod-network-controller.istio.io/envoy-groupid': '2001',
  };
  const pod = injected(['-b', '80', '-p', '15001', '--proxy-uid=1337', '-z=16006'], {}, annotations);
  const spec = ofPod(pod, { 'proxy-uid': '3000' });
  assert.deepEqual(spec.inbound.include, [port(80)]);
  assert.deepEqual(spec.outbound.ports, [port(443)]);
  assert.equal(spec.proxyPort, 16001);
  assert.equal(spec.inboundPort, 16006);
  assert.deepEqual(spec.proxyUids, [3000]);
  assert.deepEqual(spec.proxyGids, [2001]);
});

test('the validation container is as good as istio-init, and what is not istio-iptables says nothing', () => {
  const words = [
    '-b',
    '80',
    '--run-validation',
    '--skip-rule-apply',
    '--iptables-probe-port',
    '15002',
    '--force-apply',
  ];
  const container = { name: 'istio-validation', command: ['/usr/local/bin/istio-iptables'], args: words };
  assert.deepEqual(ofPod({ spec: { initContainers: [container] } }).inbound.include, [port(80)]);
  const other = { name: 'istio-init', command: ['sh', '-c', 'true'], args: ['-b', '80'] };
  assert.equal(ofPod({ spec: { initContainers: [other] } }).inbound.include, '*');
});

test('what the proxy runs as', () => {
  const as = (runAsUser?: number, runAsGroup?: number, args?: string[]): [number[], number[]] => {
    const securityContext = {
      ...(runAsUser !== undefined && { runAsUser }),
      ...(runAsGroup !== undefined && { runAsGroup }),
    };
    const spec = { containers: [{ name: 'istio-proxy', securityContext }] };
    const { proxyUids, proxyGids } = ofPod(args === undefined ? { spec } : injected(args, spec));
    return [proxyUids, proxyGids];
  };
  assert.deepEqual(as(), [[1337], [1337]]);
  assert.deepEqual(as(0, 0), [[1337], [1337]]);
  assert.deepEqual(as(5000), [[5000], [1337]]);
  assert.deepEqual(as(5000, 6000), [[5000], [6000]]);
  assert.deepEqual(as(5000, 6000, ['-u', '7000']), [[7000], [6000]]);
  assert.deepEqual(as(5000, undefined, ['-u', '7000']), [[7000], [7000]]);
  assert.deepEqual(as(5000, 6000, ['-u', '7000', '-g', '8000']), [[7000], [8000]]);
  const whole = { securityContext: { runAsUser: 4000, runAsGroup: 4001 }, initContainers: [{ name: 'istio-proxy' }] };
  assert.deepEqual(ofPod({ spec: whole }).proxyUids, [4000]);
  assert.deepEqual(ofPod({ spec: whole }).proxyGids, [4001]);
});

test("the proxy's environment", () => {
  const env = (name: string, value: string) => ({
    spec: { containers: [{ name: 'istio-proxy', env: [{ name, value }] }] },
  });
  assert.equal(ofPod(env('ISTIO_META_DNS_CAPTURE', 'true')).dns, 'all');
  assert.equal(ofPod(env('ISTIO_META_DNS_CAPTURE', 'false')).dns, 'off');
  assert.equal(ofPod(env('INVALID_DROP', 'true')).dropInvalid, true);
  assert.deepEqual(
    ofPod(env('PROXY_UID', '5')).proxyUids,
    [1337],
    'the application may call its variables as it likes',
  );
});

test('whether the proxy serves both families: its environment, what Istio passed, the cluster', () => {
  const dual = (given: object) => redirect(given, none).dualStack;
  const proxy = (value: string) => ({
    spec: { containers: [{ name: 'istio-proxy', env: [{ name: 'ISTIO_DUAL_STACK', value }] }] },
  });
  const yes = { 'dual-stack': 'true' };
  assert.equal(dual({ pod: {} }), false);
  assert.equal(dual({ pod: proxy('true') }), true);
  assert.equal(dual({ pod: injected(['--dual-stack']) }), true);
  assert.equal(dual({ pod: {}, defaults: flags(yes) }), true);
  assert.equal(dual({ pod: proxy('false'), defaults: flags(yes) }), false);
});

test("what becomes of a family that is not served is the administrator's choice; a pod can only make it stricter", () => {
  const choice = (admin: string | undefined, pod: Pod) =>
    redirect({ pod, defaults: admin === undefined ? {} : flags({ 'unserved-families': admin }) }, none).unserved;
  const variable = [{ name: 'IPNC_UNSERVED_FAMILIES', value: 'leave' }];
  const gate = (...args: string[]): Pod => ({
    spec: { initContainers: [{ name: 'pod-network-gate', args, env: variable }] },
  });
  const after = (what: string) => gate('istio-iptables', `--unserved-families=${what}`);
  const before = (what: string) => gate(`--unserved-families=${what}`, 'istio-iptables');
  assert.equal(choice(undefined, {}), 'leave');
  for (const admin of ['leave', 'capture', 'block']) {
    assert.equal(choice(admin, {}), admin);
    for (const what of ['leave', 'capture', 'block']) assert.equal(choice(admin, after(what)), admin);
    assert.equal(choice(admin, before('leave')), admin);
    assert.equal(choice(admin, before('block')), 'block');
  }
  assert.equal(choice('leave', before('capture')), 'capture');
});

test('the defaults of the cluster that a gate was given are those of its pod', () => {
  const pod: Pod = {
    spec: {
      initContainers: [
        {
          name: 'pod-network-gate',
          command: ['/usr/local/bin/pod-network-gate', '--timeout=5m', '--envoy-port=16001', '--proxy-uid=2102'],
          args: ['istio-iptables', '-u', '2103'],
        },
      ],
      containers: [{ name: 'istio-proxy' }],
    },
  };
  const { spec } = redirect({ pod, defaults: flags({ 'envoy-port': '17001', 'inbound-capture-port': '17006' }) }, none);
  assert.deepEqual([spec.proxyPort, spec.inboundPort, spec.proxyUids], [16001, 17006, [2103]]);
});

test('DNS servers are asked for only where they count', () => {
  const dns = { 'redirect-dns': true } as const;
  const server = { family: 4, address: '10.96.0.10', prefix: 32 };
  assert.deepEqual(redirect({ flags: flags(dns) }, () => ['10.96.0.10']).spec.dns, { servers: [server] });
  assert.deepEqual(redirect({ flags: flags({ ...dns, 'dns-servers': '10.96.0.10' }) }, none).spec.dns, {
    servers: [server],
  });
  assert.equal(redirect({ flags: flags({ ...dns, 'capture-all-dns': true }) }, none).spec.dns, 'all');
  assert.equal(redirect({ flags: flags({ 'capture-all-dns': true }) }, none).spec.dns, 'off');
  assert.equal(ofPod({}, dns).dns, 'all');
  assert.deepEqual(ofPod(injected(['--redirect-dns']), { 'dns-servers': '10.96.0.10' }).dns, { servers: [server] });
  const without = redirect({ flags: flags(dns) }, () => []);
  assert.equal(without.spec.dns, 'off');
  assert.equal(without.warnings.length, 1);
});

test('CIDRs of a missing family are not an error with automatic families, nor in a pod', () => {
  assert.equal(redirect({ flags: flags({ 'istio-service-cidr': 'fd00::/8' }) }, none).families, 'auto');
  const pod = injected(['-i', '10.0.0.0/8,fd00::/8']);
  assert.deepEqual(redirect({ flags: flags({ 'ip-families': '4' }), pod }, none).families, [4]);
});

test('a Pod is read from YAML and from JSON', () => {
  const pod = { kind: 'Pod', metadata: { annotations: { 'sidecar.istio.io/interceptionMode': 'NONE' } } };
  const yaml = 'kind: Pod\nmetadata:\n  annotations:\n    sidecar.istio.io/interceptionMode: NONE\n';
  for (const text of [yaml, `---\n${yaml}`, JSON.stringify(pod)]) assert.equal(ofPod(readPod(text, 'x')).mode, 'NONE');
});
