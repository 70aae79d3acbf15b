/** The data path itself: who answers whom, over veth pairs and real sockets, once the rules stand. */
import assert from 'node:assert/strict';
import { suite } from '../suite.ts';
import { ipnc } from '../support/command-line.ts';
import { cases, type Line, SILENCE } from '../support/traffic.ts';
import { type Call, type Place, World } from '../support/world.ts';

/** Where the table of cases must hold. The owner match of iptables can be written only from the pod's own userns. */
const SETUPS = [
  { backend: 'iptables-legacy', userns: false },
  { backend: 'nftables', userns: false },
  { backend: 'nftables', userns: true },
];
const FAMILIES = [4, 6] as const;
/** For calls that nobody is to answer. */
const SILENCE_MS = 700;

for (const { backend, userns } of SETUPS) {
  const test = suite(`functional, ${backend}${userns ? ', a pod with a user namespace of its own' : ''}`);
  test.needs('netns', 'uid-map', 'ipv6', 'ip', 'addon', 'toolbox', ...(userns ? ['pod-userns'] : []));

  const apply = async ({ podPath }: World, flags: string[]) => {
    const { code, stderr } = await ipnc(['apply', '--netns', podPath, '--backend', backend, ...flags]);
    assert.equal(code, 0, stderr);
  };

  test('before anything is installed everybody reaches whom they call', async () => {
    await using world = await World.build({ transparent: false, userns });
    for (const family of FAMILIES) {
      assert.equal(await world.call('app', family, { protocol: 'tcp', to: 'world', port: 80 }), 'world:80');
      assert.equal(await world.call('app', family, { protocol: 'udp', to: 'dns', port: 53 }), 'world:53');
      assert.equal(await world.call('app', family, { protocol: 'tcp', to: 'world', port: 81 }), 'ECONNREFUSED');
      assert.equal(await world.call('world', family, { protocol: 'tcp', to: 'pod', port: 8080 }), 'app:8080');
    }
  });

  for (const { name, flags, transparent = false, traffic } of cases) {
    test(
      name,
      async () => {
        await using world = await World.build({ transparent, userns });
        await apply(world, flags);
        const seen: string[] = [];
        const expected: string[] = [];
        for (const family of FAMILIES) {
          for (const line of Array.isArray(traffic) ? traffic : traffic[family]) {
            const [who, callee, answers, from] = line;
            const text = `IPv${family} ${who} -> ${callee}${from === undefined ? '' : ` from ${from}`}: `;
            const timeoutMs = answers === SILENCE ? SILENCE_MS : undefined;
            seen.push(text + (await world.call(who, family, callOf(line), timeoutMs)));
            expected.push(text + answers);
          }
        }
        assert.equal(seen.join('\n'), expected.join('\n'));
      },
      { timeoutMs: 60_000 },
    );
  }

  for (const family of FAMILIES) {
    test(`TPROXY shows the proxy both true addresses, IPv${family}`, async () => {
      await using world = await World.build({ transparent: true, userns });
      await apply(world, ['-m', 'TPROXY']);
      const call: Call = { protocol: 'tcp', to: 'pod', port: 8080, from: 'world' };
      assert.equal(await world.call('world', family, call), 'proxy:15006');
      const [pod, outside] = family === 4 ? ['10.10.0.2:8080', '10.10.0.1:'] : ['[fd10::2]:8080', '[fd10::1]:'];
      const arrival = await world.firstArrival('proxy');
      assert.equal(arrival.local, pod);
      assert.ok(arrival.from.startsWith(outside), arrival.from);
    });

    test(`the proxy's own query gets through on the very port the app has just used, IPv${family}`, async () => {
      await using world = await World.build({ transparent: false, userns });
      await apply(world, ['--redirect-dns', '--capture-all-dns']);
      // The same five-tuple twice: without zones of its own conntrack would send the second where the first one went.
      const query: Call = { protocol: 'udp', to: 'dns', port: 53, from: 'pod', fromPort: 40_053 };
      assert.equal(await world.call('app', family, query), 'proxy:15053');
      assert.equal(await world.call('proxy', family, query), 'world:53');
      assert.equal(await world.call('app', family, query), 'proxy:15053');
    });
  }

  test('clean gives everybody back whom they called before', async () => {
    await using world = await World.build({ transparent: true, userns });
    await apply(world, ['-m', 'TPROXY', '--redirect-dns', '--capture-all-dns']);
    const { code, stderr } = await ipnc(['clean', '--netns', world.podPath]);
    assert.equal(code, 0, stderr);
    for (const family of FAMILIES) {
      assert.equal(await world.call('app', family, { protocol: 'tcp', to: 'world', port: 80 }), 'world:80');
      assert.equal(await world.call('app', family, { protocol: 'udp', to: 'dns', port: 53 }), 'world:53');
      assert.equal(await world.call('world', family, { protocol: 'tcp', to: 'pod', port: 8080 }), 'app:8080');
    }
  });
}

function callOf([, callee, , from]: Line): Call {
  const [protocol, target = ''] = callee.split(' ') as [Call['protocol'], string];
  const [to, port] = target.split(':') as [Place, string];
  return { protocol, to, port: Number(port), ...(from && { from }) };
}
