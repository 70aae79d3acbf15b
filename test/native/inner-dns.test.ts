/** DNS of containers and virtual machines inside of a pod, which forwards it as Docker does, with DNS capture on. */
import assert from 'node:assert/strict';
import { suite } from '../suite.ts';
import { compile, INSTALL_NEEDS, identify, inside } from '../support/netns.ts';
import { World } from '../support/world.ts';

const test = suite('inner DNS');
test.needs(...INSTALL_NEEDS, 'iptables-legacy', 'ip6tables-legacy');

/** As Docker sets itself up. */
const FORWARD = `
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
iptables-legacy -t nat -A POSTROUTING -o eth0 -j MASQUERADE
ip6tables-legacy -t nat -A POSTROUTING -o eth0 -j MASQUERADE
`;

const SERVERS = ['--redirect-dns', '--dns-servers', '10.10.0.53,fd10::53'];

for (const backend of ['iptables-legacy', 'nftables']) {
  for (const dns of [['--redirect-dns', '--capture-all-dns'], SERVERS]) {
    for (const flag of ['-c', '-k']) {
      test(`answers come back, ${backend}, ${flag}, ${dns.at(-1)}`, async () => {
        await using world = await World.build({ transparent: false });
        await inside(world.podPath, ['sh', '-ec', FORWARD]);
        const call = (who: 'vm' | 'app', family: 4 | 6) =>
          world.call(who, family, { protocol: 'udp', to: 'dns', port: 53 });
        for (const family of [4, 6] as const) assert.equal(await call('vm', family), 'world:53', 'before the rules');
        const compiled = await compile('--backend', backend, flag, 'vm0', ...dns);
        await compiled.apply(await identify(world.podPath));
        for (const family of [4, 6] as const) {
          assert.equal(await call('vm', family), 'world:53', `IPv${family}`);
          assert.equal(await call('app', family), 'proxy:15053', `IPv${family}`);
        }
      });
    }
  }
}
