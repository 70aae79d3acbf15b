/** Rules, in Istio's order, in iptables-save syntax. Numbers in names are the steps of Istio's own program. */
import assert from 'node:assert/strict';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';

const test = suite('plan');

/** The rules of one chain, or of one table, of a plan for both families. */
async function rules(family: 4 | 6, table: string, args: string[], chain = '\\w+'): Promise<string[]> {
  const [four = '', six = ''] = (await plan(args)).split('# IPv6:');
  const text = family === 4 ? four : six;
  const body = new RegExp(`^\\*${table}\n([^*]*)COMMIT\n`, 'm').exec(text)?.[1] ?? '';
  return body.split('\n').filter((line) => new RegExp(`^-[AI] ${chain} `).test(line));
}

async function plan(args: string[]): Promise<string> {
  const { code, stdout, stderr } = await ipnc(['plan', ...args]);
  assert.equal(code, 0, stderr);
  return stdout;
}

const COMMENT = '-m comment --comment istio-pod-network-controller';

test('the defaults, whole', async () => {
  assert.equal(
    await plan([]),
    `# IPv4: iptables-legacy-restore --noflush
*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT

# IPv6: ip6tables-legacy-restore --noflush
*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -s ::6/128 -o lo -j RETURN
-A ISTIO_OUTPUT ! -d ::1/128 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT ! -d ::1/128 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d ::1/128 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT

# routes
# ip -6 addr add ::6/128 dev lo
`,
  );
});

test('the mangle table of TPROXY, whole, and its routes', async () => {
  assert.deepEqual(await rules(4, 'mangle', ['-m', 'TPROXY', '-g', '9', '-c', 'net1', '--drop-invalid']), [
    `-A PREROUTING -i net1 ${COMMENT} -j RETURN`,
    '-A PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP',
    '-A PREROUTING -p tcp -j ISTIO_INBOUND',
    `-A PREROUTING -p tcp -m mark --mark 0x539 ${COMMENT} -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff`,
    `-A OUTPUT -o net1 ${COMMENT} -j RETURN`,
    `-A OUTPUT -o lo -p tcp -m mark --mark 0x539 ${COMMENT} -j RETURN`,
    `-A OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 1337 ${COMMENT} -j MARK --set-xmark 0x53a/0xffffffff`,
    `-A OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --gid-owner 9 ${COMMENT} -j MARK --set-xmark 0x53a/0xffffffff`,
    `-A OUTPUT -p tcp -m connmark --mark 0x539 ${COMMENT} -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff`,
    '-A ISTIO_DIVERT -j MARK --set-xmark 0x539/0xffffffff',
    '-A ISTIO_DIVERT -j ACCEPT',
    '-A ISTIO_DROP -j DROP',
    '-A ISTIO_INBOUND -p tcp -m mark --mark 0x539 -j RETURN',
    '-A ISTIO_INBOUND -s 127.0.0.6/32 -i lo -p tcp -j RETURN',
    '-A ISTIO_INBOUND -i lo -p tcp -m mark ! --mark 0x53a -j RETURN',
    '-A ISTIO_INBOUND -p tcp -m tcp --dport 15090 -j RETURN',
    '-A ISTIO_INBOUND -p tcp -m tcp --dport 15021 -j RETURN',
    '-A ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN',
    '-A ISTIO_INBOUND -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT',
    '-A ISTIO_INBOUND -p tcp -j ISTIO_TPROXY',
    '-A ISTIO_TPROXY ! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff',
  ]);
  assert.ok(
    (await plan(['-m', 'TPROXY', '-t', '7', '-r', '8'])).includes(`# routes
# ip -6 addr add ::6/128 dev lo
# ip -4 rule add fwmark 7 lookup 8
# ip -4 route add local default dev lo table 8
# ip -6 rule add fwmark 7 lookup 8
# ip -6 route add local default dev lo table 8
`),
    await plan(['-m', 'TPROXY', '-t', '7', '-r', '8']),
  );
});

test('the raw table and the DNS chain, whole', async () => {
  const all = ['--redirect-dns', '--capture-all-dns', '-g', '9'];
  assert.deepEqual(await rules(6, 'raw', all), [
    '-A PREROUTING -p udp -j ISTIO_INBOUND',
    '-A OUTPUT -p udp -j ISTIO_OUTPUT_DNS',
    '-A ISTIO_INBOUND -p udp -m udp --sport 53 -j CT --zone 1',
    '-A ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1',
    '-A ISTIO_OUTPUT_DNS -p udp -m udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2',
    '-A ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -m owner --gid-owner 9 -j CT --zone 1',
    '-A ISTIO_OUTPUT_DNS -p udp -m udp --sport 15053 -m owner --gid-owner 9 -j CT --zone 2',
    '-A ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -j CT --zone 2',
  ]);
  assert.deepEqual(await rules(6, 'nat', all, 'ISTIO_OUTPUT_DNS'), [
    '-A ISTIO_OUTPUT_DNS -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053',
    '-A ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053',
  ]);
  const servers = ['--redirect-dns', '--dns-servers', '10.0.0.1,10.0.0.2'];
  assert.deepEqual(await rules(4, 'nat', servers, 'ISTIO_OUTPUT_DNS'), [
    '-A ISTIO_OUTPUT_DNS -d 10.0.0.1/32 -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053',
    '-A ISTIO_OUTPUT_DNS -d 10.0.0.2/32 -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053',
    '-A ISTIO_OUTPUT_DNS -d 10.0.0.1/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053',
    '-A ISTIO_OUTPUT_DNS -d 10.0.0.2/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053',
  ]);
  assert.deepEqual((await rules(4, 'raw', servers)).slice(0, 4), [
    '-A PREROUTING -p udp -j ISTIO_INBOUND',
    '-A OUTPUT -p udp -j ISTIO_OUTPUT_DNS',
    '-A ISTIO_INBOUND -s 10.0.0.1/32 -p udp -m udp --sport 53 -j CT --zone 1',
    '-A ISTIO_INBOUND -s 10.0.0.2/32 -p udp -m udp --sport 53 -j CT --zone 1',
  ]);
});

test('servers of one family leave the other without jumps, but for the zones of the owners', async () => {
  const text = await plan(['--redirect-dns', '--dns-servers', 'fd00::a']);
  const [four = '', six = ''] = text.split('# IPv6:');
  assert.ok(!four.includes('-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS'), four);
  assert.ok(!four.includes('-A PREROUTING -p udp -j ISTIO_INBOUND'), four);
  assert.ok(four.includes('-A OUTPUT -p udp -j ISTIO_OUTPUT_DNS'), four);
  assert.ok(six.includes('-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS'), six);
  assert.ok(six.includes('-A PREROUTING -p udp -j ISTIO_INBOUND'), six);
});

test('1, 2 and 17: interfaces, the last inserted topmost', async () => {
  assert.deepEqual(await rules(4, 'nat', ['-c', 'x,y', '-k', 'a,b', '-i', '10.0.0.0/8,11.0.0.0/8'], 'PREROUTING'), [
    '-I PREROUTING 1 -d 11.0.0.0/8 -i b -j ISTIO_REDIRECT',
    '-I PREROUTING 2 -d 11.0.0.0/8 -i a -j ISTIO_REDIRECT',
    '-I PREROUTING 3 -d 10.0.0.0/8 -i b -j ISTIO_REDIRECT',
    '-I PREROUTING 4 -d 10.0.0.0/8 -i a -j ISTIO_REDIRECT',
    `-I PREROUTING 5 -i b ${COMMENT} -j RETURN`,
    `-I PREROUTING 6 -i a ${COMMENT} -j RETURN`,
    `-A PREROUTING -i x ${COMMENT} -j RETURN`,
    `-A PREROUTING -i y ${COMMENT} -j RETURN`,
    '-A PREROUTING -p tcp -j ISTIO_INBOUND',
  ]);
  assert.deepEqual((await rules(4, 'nat', ['-k', 'a,b'], 'PREROUTING')).slice(0, 2), [
    '-I PREROUTING 1 -i b -j ISTIO_REDIRECT',
    '-I PREROUTING 2 -i a -j ISTIO_REDIRECT',
  ]);
  assert.deepEqual(await rules(4, 'nat', ['-c', 'x'], 'OUTPUT'), [
    `-A OUTPUT -o x ${COMMENT} -j RETURN`,
    '-A OUTPUT -j ISTIO_OUTPUT',
  ]);
});

test('3: drop-invalid', async () => {
  assert.deepEqual(await rules(6, 'mangle', ['--drop-invalid']), [
    '-A PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP',
    '-A ISTIO_DROP -j DROP',
  ]);
});

test('4 to 6: inbound', async () => {
  assert.deepEqual(await rules(4, 'nat', ['-b', '80,90-99', '-d', '22', '-e', '1'], 'ISTIO_INBOUND'), [
    '-A ISTIO_INBOUND -p tcp -m tcp --dport 1 -j RETURN',
    '-A ISTIO_INBOUND -p tcp -m tcp --dport 80 -j ISTIO_IN_REDIRECT',
    '-A ISTIO_INBOUND -p tcp -m tcp --dport 90:99 -j ISTIO_IN_REDIRECT',
  ]);
  assert.deepEqual(await rules(4, 'nat', ['-b', ''], 'PREROUTING'), []);
  assert.deepEqual(await rules(4, 'nat', ['-b', ''], 'ISTIO_INBOUND'), [
    '-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN',
  ]);
  const tproxy = ['-m', 'TPROXY', '-b', '80-81'];
  assert.deepEqual((await rules(6, 'mangle', tproxy, 'ISTIO_INBOUND')).slice(-2), [
    '-A ISTIO_INBOUND -p tcp -m tcp --dport 80:81 -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT',
    '-A ISTIO_INBOUND -p tcp -m tcp --dport 80:81 -j ISTIO_TPROXY',
  ]);
  assert.deepEqual(await rules(6, 'nat', tproxy, 'PREROUTING'), []);
});

test('TPROXY without inbound capture has the last rules, but no routes', async () => {
  const args = ['-m', 'TPROXY', '-b', ''];
  assert.deepEqual(await rules(4, 'mangle', args, 'ISTIO_INBOUND'), [
    '-A ISTIO_INBOUND -p tcp -m mark --mark 0x539 -j RETURN',
    '-A ISTIO_INBOUND -s 127.0.0.6/32 -i lo -p tcp -j RETURN',
    '-A ISTIO_INBOUND -i lo -p tcp -m mark ! --mark 0x53a -j RETURN',
  ]);
  assert.ok(!(await plan(args)).includes('fwmark'), await plan(args));
});

test('8 to 17: outbound, all options together', async () => {
  const args = ['-o', '22,30-39', '-u', '1,2', '-g', '3', '-x', '10.1.0.0/16,fd00:1::/32', '-q', '443,8000-8001'];
  args.push('-i', '10.0.0.0/8,fd00::/8', '--owner-groups-exclude', '7,8', '--redirect-dns', '--capture-all-dns');
  args.push('--loopback-cidr', '127.0.0.0/8');
  assert.deepEqual(await rules(4, 'nat', args, 'ISTIO_OUTPUT'), [
    '-A ISTIO_OUTPUT -p tcp -m tcp --dport 22 -j RETURN',
    '-A ISTIO_OUTPUT -p udp -m udp --dport 22 -j RETURN',
    '-A ISTIO_OUTPUT -p tcp -m tcp --dport 30:39 -j RETURN',
    '-A ISTIO_OUTPUT -p udp -m udp --dport 30:39 -j RETURN',
    '-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN',
    '-A ISTIO_OUTPUT ! -d 127.0.0.0/8 -o lo -p tcp -m multiport ! --dports 53,15008 -m owner --uid-owner 1 -j ISTIO_IN_REDIRECT',
    '-A ISTIO_OUTPUT -o lo -p tcp -m tcp ! --dport 53 -m owner ! --uid-owner 1 -j RETURN',
    '-A ISTIO_OUTPUT -m owner --uid-owner 1 -j RETURN',
    '-A ISTIO_OUTPUT ! -d 127.0.0.0/8 -o lo -p tcp -m multiport ! --dports 53,15008 -m owner --uid-owner 2 -j ISTIO_IN_REDIRECT',
    '-A ISTIO_OUTPUT -o lo -p tcp -m tcp ! --dport 53 -m owner ! --uid-owner 2 -j RETURN',
    '-A ISTIO_OUTPUT -m owner --uid-owner 2 -j RETURN',
    '-A ISTIO_OUTPUT ! -d 127.0.0.0/8 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 3 -j ISTIO_IN_REDIRECT',
    '-A ISTIO_OUTPUT -o lo -p tcp -m tcp ! --dport 53 -m owner ! --gid-owner 3 -j RETURN',
    '-A ISTIO_OUTPUT -m owner --gid-owner 3 -j RETURN',
    '-A ISTIO_OUTPUT -m owner --gid-owner 7 -j RETURN',
    '-A ISTIO_OUTPUT -m owner --gid-owner 8 -j RETURN',
    '-A ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS',
    '-A ISTIO_OUTPUT -d 127.0.0.0/8 -j RETURN',
    '-A ISTIO_OUTPUT -d 10.1.0.0/16 -j RETURN',
    '-A ISTIO_OUTPUT -p tcp -m tcp --dport 443 -j ISTIO_REDIRECT',
    '-A ISTIO_OUTPUT -p tcp -m tcp --dport 8000:8001 -j ISTIO_REDIRECT',
    '-A ISTIO_OUTPUT -d 10.0.0.0/8 -j ISTIO_REDIRECT',
  ]);
});

test('10b: a captured loopback, of either family, is not returned', async () => {
  for (const cidr of ['127.0.0.1/32', '::1/128']) {
    const output = await rules(4, 'nat', ['-i', cidr], 'ISTIO_OUTPUT');
    assert.ok(!output.join('\n').includes('! --uid-owner'), output.join('\n'));
    assert.ok(!output.join('\n').includes('! --gid-owner'), output.join('\n'));
  }
});

test('12: owner groups are one rule, and an empty list returns all traffic', async () => {
  const output = async (groups: string) => {
    const lines = await rules(4, 'nat', ['--owner-groups', groups, '--owner-groups-exclude', '9'], 'ISTIO_OUTPUT');
    return lines.slice(7, 8);
  };
  assert.deepEqual(await output('7,8'), [
    '-A ISTIO_OUTPUT -m owner ! --gid-owner 7 -m owner ! --gid-owner 8 -j RETURN',
  ]);
  assert.deepEqual(await output(''), ['-A ISTIO_OUTPUT -j RETURN']);
});

test('NONE has no rules and no routes', async () => {
  assert.equal(await plan(['-m', 'NONE', '-c', 'net1', '--drop-invalid']), '# IPv4: no rules\n\n# IPv6: no rules\n');
  const { ruleset } = JSON.parse(await plan(['-m', 'NONE', '--format', 'json']));
  assert.deepEqual(ruleset, { families: [4, 6], tables: [], routes: { loopback6: false } });
});

test('JSON has the specification and the rules', async () => {
  const { command, spec, ruleset } = JSON.parse(await plan(['-m', 'TPROXY', '--output', 'json', '--ip-families', '4']));
  assert.equal(command, 'plan');
  assert.equal(spec.mode, 'TPROXY');
  assert.deepEqual(ruleset.families, [4]);
  assert.deepEqual(
    ruleset.tables.map(({ name }: { name: string }) => name),
    ['mangle', 'nat'],
  );
  assert.deepEqual(ruleset.routes, { loopback6: false, tproxy: { mark: 1337, table: 133 } });
});

/** The names of the chains in a text of iptables-restore. */
const chainsOf = (text: string) => [...text.matchAll(/^:(ISTIO_\w+)/gm)].map(([, name]) => name);

test('every format has the rules that are installed, also for lists that become trees', async () => {
  const ports = Array.from({ length: 40 }, (_, at) => 2000 + 2 * at).join();
  const args = ['-o', ports, '--ip-families', '4'];
  const legacy = JSON.parse(await plan([...args, '--output', 'json']));
  const names = legacy.ruleset.tables[0].chains.flatMap(({ name, builtin }: { name: string; builtin: boolean }) =>
    builtin ? [] : [name],
  );
  assert.equal(legacy.backend, 'iptables-legacy');
  assert.ok(names.includes('ISTIO_LIST_1'), names.join());
  assert.deepEqual(chainsOf(await plan(args)).sort(), names.sort());

  const nftables = ['--backend', 'nftables', '--counters', 'false'];
  const nft = JSON.parse(await plan([...args, ...nftables, '--output', 'json']));
  assert.equal(nft.backend, 'nftables');
  const rules = nft.ruleset.tables[0].chains.flatMap((chain: { rules: unknown[] }) => chain.rules);
  const lines = (await plan([...args, ...nftables])).match(/^ {4}(?!type ).+$/gm) ?? [];
  assert.equal(rules.length, lines.length, lines.join('\n'));
  assert.ok(JSON.stringify(rules).includes('{"first":"2000","last":"2000"}'), JSON.stringify(rules));
  assert.ok(rules.every(({ counter }: { counter: boolean }) => !counter));
});
