/**
 * What the rules cost a connection: connect() out of a pod to the proxy's listener, by each form of the rules, and where
 * nothing redirects. In a pod of its own each, made once, so that only the rules differ.
 */

import type { Compiled } from '../../lib/native/addon.ts';
import { native } from '../../lib/native/addon.ts';
import { compileForms, rulesetOf, writeRules } from '../drivers/rules.ts';
import { interleaved, type Subject } from '../method.ts';
import type { Bench, Workload } from './workload.ts';

const ROUNDS = { quick: 12, full: 60 };
/** Connections of a round, of which their mean is one sample. */
const BURST = 200;
const PROXY_PORT = 15001;
/** Where nobody is; it leads out of the pod, or it would be loopback, which is not captured. */
const DESTINATION = '10.99.0.1';

export const connection: Workload = {
  name: 'connection',
  title: 'A new connection out of a pod, captured: connect() to the answer of the proxy',
  budget: { quick: 10, full: 60 },
  async run(bench) {
    const ruleset = rulesetOf();
    const forms = await compileForms(ruleset);
    const files = writeRules(bench.folder, ruleset);
    const ours = (compiled: Compiled) => async (netns: string) => {
      await compiled.apply(await native().identify(netns));
    };
    const subjects = [
      await subject(bench, { id: 'none', name: 'to the proxy itself, no rules', ours: false }),
      await subject(bench, { id: 'iptables-legacy', name: 'ipnc, iptables-legacy', ours: true }, ours(forms.legacy)),
      await subject(bench, { id: 'nftables', name: 'ipnc, nftables', ours: true }, ours(forms.nftables)),
      await subject(
        bench,
        { id: 'nftables-counted', name: 'ipnc, nftables with counters', ours: true },
        ours(forms.counted),
      ),
      await subject(
        bench,
        { id: 'istio-nftables', name: "Istio's variant, nftables", ours: false },
        ours(forms.asIstio),
      ),
      await subject(
        bench,
        { id: 'istio-iptables-nft', name: "Istio's variant, iptables-nft", ours: false },
        async (netns) => {
          await bench.floors.do('restore', netns, 'nft', ...files.restore);
        },
      ),
    ];
    const series = await interleaved(bench, subjects, {
      rounds: ROUNDS[bench.quick ? 'quick' : 'full'],
      seconds: bench.seconds,
    });
    return {
      series,
      figures: [],
      charts: [{ kind: 'distribution', title: 'A new captured connection', series: series.map(({ id }) => id) }],
    };
  },
};

async function subject(
  bench: Bench,
  named: Pick<Subject, 'id' | 'name' | 'ours'>,
  install?: (netns: string) => Promise<void>,
): Promise<Subject> {
  const netns = await bench.farm.one();
  for (const words of [
    'link add eth0 type veth peer name peer0',
    'address add 10.244.1.2/24 dev eth0',
    'link set peer0 up',
    'link set eth0 up',
  ]) {
    await bench.floors.do('inside', netns, 'ip', ...words.split(' '));
  }
  await bench.floors.do('inside', netns, 'ip', 'route', 'add', 'default', 'dev', 'eth0');
  await install?.(netns);
  const [address, port] = install ? [DESTINATION, PROXY_PORT] : ['127.0.0.1', PROXY_PORT];
  return {
    ...named,
    group: 'connect()',
    baseline: 'none',
    round: async () => [(await bench.floors.do('connect', netns, address, `${port}`, `${BURST}`)) / BURST],
  };
}
