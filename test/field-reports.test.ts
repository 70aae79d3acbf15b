/**
 * Public bug reports of other programs that redirect a pod's traffic, tried on this one. docs/field-reports.md lists them, with
 * those that other tests already try.
 */
import assert from 'node:assert/strict';
import { suite } from './suite.ts';
import { ipnc } from './support/command-line.ts';
import { Farm, INSTALL_NEEDS, inside } from './support/netns.ts';

const test = suite('field reports');
test.needs('ipv6', ...INSTALL_NEEDS);

let farm: Farm;
test.before(() => {
  farm = new Farm('reports');
});
test.after(() => farm?.[Symbol.asyncDispose]());

async function podNetns(...commands: string[]): Promise<string> {
  const netns = await farm.add();
  const link = ['ip link add eth0 type veth peer name peer0', 'ip link set peer0 up', 'ip link set eth0 up'];
  await inside(netns, ['sh', '-ec', [...link, ...commands].join('\n')]);
  return netns;
}

const V4 = 'ip address add 192.0.2.7/24 dev eth0';
const V6 = 'ip address add 2001:db8::7/64 dev eth0 nodad';
const POD = (spec: object = {}, annotations: Record<string, string> = {}) =>
  JSON.stringify({ kind: 'Pod', metadata: { annotations }, spec: { containers: [{ name: 'istio-proxy' }], ...spec } });

async function apply(netns: string, words: string[] = [], pod = POD()): Promise<void> {
  const command = ['--netns', netns, '--pod', '-', ...words];
  for (const verb of ['apply', 'verify']) {
    const { code, stdout, stderr } = await ipnc([verb, ...command], { input: pod });
    assert.equal(code, 0, `${verb}: ${stdout}${stderr}`);
  }
}

const rules = (netns: string, family: 4 | 6) =>
  inside(netns, [family === 4 ? 'iptables-legacy-save' : 'ip6tables-legacy-save']);

/** The rules as `ipnc plan` prints them, of one family. */
async function planned(words: string[], family: 4 | 6): Promise<string> {
  const { code, stdout, stderr } = await ipnc(['plan', ...words]);
  assert.equal(code, 0, stderr);
  const [four = '', six = ''] = stdout.split('# IPv6:');
  return family === 4 ? four : six;
}

test('istio#37410, #39963: a pod of IPv6 alone gets rules of IPv6, and none of IPv4 are needed', async () => {
  const netns = await podNetns(V6);
  await apply(netns);
  assert.match(await rules(netns, 6), /--to-ports 15006/);
  assert.doesNotMatch(await rules(netns, 4), /ISTIO_/);
});

test('istio#48677: EKS gives a pod of IPv6 a link-local address of IPv4', async () => {
  const netns = await podNetns('ip address add 169.254.172.7/22 dev eth0', V6);
  await apply(netns);
  assert.match(await rules(netns, 6), /--to-ports 15006/);
});

for (const [report, name] of [
  ['istio#15895, IPv6 off everywhere', 'all'],
  ['kuma#11207, IPv6 off on lo', 'lo'],
]) {
  test(`${report}: IPv4 is redirected`, async () => {
    const netns = await podNetns(V4, `echo 1 >/proc/sys/net/ipv6/conf/${name}/disable_ipv6`);
    await apply(netns);
    assert.match(await rules(netns, 4), /--to-ports 15006/);
  });
}

test('istio#33566: two proxy users, "1337,1338"', async () => {
  const netns = await podNetns(V4);
  await apply(netns, ['-u', '1337,1338', '-g', '1337,1338']);
  for (const id of [1337, 1338]) assert.match(await rules(netns, 4), new RegExp(`--uid-owner ${id} -j RETURN`));
});

test('linkerd2#7767, #9267, istio#23661: chains of the same name are there already, from an attempt that was interrupted', async () => {
  const netns = await podNetns(V4);
  const stale = [
    '-N ISTIO_REDIRECT',
    '-N ISTIO_OUTPUT',
    '-A ISTIO_OUTPUT -p tcp -j ACCEPT',
    '-A OUTPUT -j ISTIO_OUTPUT',
  ];
  for (const rule of stale) await inside(netns, ['iptables-legacy', '-t', 'nat', ...rule.split(' ')]);
  await apply(netns);
  assert.doesNotMatch(await rules(netns, 4), /-j ACCEPT/);
  await apply(netns);
  assert.equal((await rules(netns, 4)).match(/-A OUTPUT -j ISTIO_OUTPUT/g)?.length, 1);
});

test("linkerd2#2768: rules of somebody else's in the same tables stay", async () => {
  const netns = await podNetns(V4);
  await inside(netns, ['iptables-legacy', '-t', 'nat', '-N', 'PROXY_INIT_REDIRECT']);
  await apply(netns);
  assert.match(await rules(netns, 4), /:PROXY_INIT_REDIRECT/);
});

test('kuma#10799: DNS capture with servers of IPv4 alone redirects no DNS of IPv6', async () => {
  const words = ['--redirect-dns', '--dns-servers', '198.19.248.200'];
  assert.match(await planned(words, 4), /-d 198\.19\.248\.200\/32 -p udp .*--to-ports 15053/);
  assert.doesNotMatch(await planned(words, 6), /15053$/m);
});

test('istio#33469: DNS of the application and of the agent are in two conntrack zones', async () => {
  const text = await planned(['--redirect-dns', '--capture-all-dns'], 4);
  assert.match(text, /--dport 53 -m owner --uid-owner 1337 -j CT --zone 1/);
  assert.match(text, /-p udp -m udp --dport 53 -j CT --zone 2/);
});

test('istio#46935, #37660: answers of name servers are matched by their source', async () => {
  const text = await planned(['--redirect-dns', '--dns-servers', '10.19.0.2'], 4);
  assert.match(text, /-A ISTIO_INBOUND -s 10\.19\.0\.2\/32 -p udp -m udp --sport 53 -j CT --zone 1/);
});

test("istio#23970: excluding a port of one's own keeps the agent's ports excluded", async () => {
  const netns = await podNetns(V4);
  await apply(netns, [], POD({}, { 'traffic.sidecar.istio.io/excludeInboundPorts': '8080' }));
  for (const port of [8080, 15020, 15021, 15090])
    assert.match(await rules(netns, 4), new RegExp(`--dport ${port} -j RETURN`));
});

test('istio#11660: an exclusion beside a list of inbound ports has no effect, and that is said', async () => {
  const words = ['-b', '8080,9090', '-d', '9090'];
  const { code, stderr } = await ipnc(['plan', ...words]);
  assert.equal(code, 0);
  assert.match(
    stderr,
    /warning: -d, --istio-local-exclude-ports: "9090" has no effect: .* only if all inbound ports are captured/,
  );
  assert.doesNotMatch((await ipnc(['plan', '-b', '8080'])).stderr, /warning/);
});

test('istio#38415, #20307: an annotation with a typing error has no effect, and a warning says so', async () => {
  const pod = POD({}, { 'traffic.sidecar.istio.io/excludeOutboundPort': '9300' });
  const { code, stdout, stderr } = await ipnc(['plan', '--pod', '-'], { input: pod });
  assert.equal(code, 0);
  assert.doesNotMatch(stdout, /9300/);
  assert.match(
    stderr,
    /warning: annotations that are not options .*excludeOutboundPort \(did you mean \S+excludeOutboundPorts\?\)/,
  );
});

test("istio#22893: Istio's annotations have the same effect whoever writes the rules", async () => {
  const ports = { excludeOutboundPorts: '9300', excludeInboundPorts: '9300' };
  const annotations = Object.fromEntries(
    Object.entries(ports).map(([key, value]) => [`traffic.sidecar.istio.io/${key}`, value]),
  );
  const netns = await podNetns(V4);
  await apply(netns, [], POD({}, annotations));
  const text = await rules(netns, 4);
  for (const chain of ['INBOUND', 'OUTPUT'])
    assert.match(text, new RegExp(`-A ISTIO_${chain} -p tcp -m tcp --dport 9300 -j RETURN`));
});

test('linkerd2#4851, #13171, kuma#5137: the default rules need neither multiport nor a program, and what lacks is named', async () => {
  assert.doesNotMatch(await planned([], 4), /multiport/);
  const { stdout } = await ipnc(['doctor']);
  assert.match(stdout, /legacy IPv4 nat/);
});
