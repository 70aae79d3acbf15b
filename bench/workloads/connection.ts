/**
 * What the rules cost a connection, by each form of the rules: a new one out of the pod, one into it, the proxy's own, a DNS
 * query, and a round trip on a connection that exists. Each form gets several pods of its own, made anew, since where the
 * kernel happens to put its tables and code moves a figure by up to 0.25 us.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Compiled, native } from '../../lib/native/addon.ts';
import { formOf } from '../../lib/ruleset/form.ts';
import { routeLines } from '../../lib/ruleset/iptables.ts';
import type { Ruleset } from '../../lib/ruleset/model.ts';
import { lower } from '../../lib/ruleset/nftables/lower.ts';
import { rulesetOf, writeRules } from '../drivers/rules.ts';
import { interleaved, type Subject } from '../method.ts';
import type { Figure, Series } from '../schema.ts';
import type { Bench, Workload } from './workload.ts';

const ROUNDS = { quick: 6, full: 60 };
const SET_UPS = { quick: 1, full: 3 };
/** Exchanges of a round; their median is one sample. */
const BURST = { quick: 50, full: 200 };

const PROXY = 1337;
type Family = 4 | 6;
const FAMILIES: readonly Family[] = [4, 6];
/** The pod's own address, that of the other end of its link, and one that is behind it. */
const POD = { 4: '10.244.1.2', 6: 'fd00:10:244:1::2' };
const WORLD = { 4: '10.244.1.1', 6: 'fd00:10:244:1::1' };
const BEYOND = { 4: '10.99.0.1', 6: 'fd99::1' };
const LOOPBACK = { 4: '127.0.0.1', 6: '::1' };

/** The netns of a pod and that of the other end of its link. */
interface Pod {
  inside: string;
  outside: string;
}

interface Path {
  title: string;
  /** Words for bench/drivers.cc. `captured`: whether rules lead the connection to the proxy, or it goes there directly. */
  words(pod: Pod, family: Family, captured: boolean): (string | number)[];
}

/** From the app to the proxy: captured on the way to another host, or directly. */
const toProxy =
  (verb: 'connect' | 'trip'): Path['words'] =>
  ({ inside }, family, captured) => {
    const to = captured ? [BEYOND[family], 80] : [LOOPBACK[family], 15001];
    return [verb, inside, 0, ...to, inside, 15001];
  };

/** From another host to the proxy: captured on the way to the app, or directly. */
const intoPod =
  (verb: 'connect' | 'trip'): Path['words'] =>
  ({ inside, outside }, family, captured) => [verb, outside, 0, POD[family], captured ? 8080 : 15006, inside, 15006];

const PATHS = {
  outbound: {
    title: 'a new connection of the app',
    words: toProxy('connect'),
  },
  inbound: {
    title: 'a new connection to the app',
    words: intoPod('connect'),
  },
  upstream: {
    title: "a new connection of the proxy's own",
    words: ({ inside, outside }, family) => ['connect', inside, PROXY, WORLD[family], 8080, outside, 8080],
  },
  query: {
    title: 'a DNS query and its answer',
    words: ({ inside }, family, captured) => {
      const to = captured ? [BEYOND[family], 53] : [LOOPBACK[family], 15053];
      return ['query', inside, 0, ...to, inside, 15053];
    },
  },
  trip: {
    title: 'a round trip on a connection of the app',
    words: toProxy('trip'),
  },
  'inbound-trip': {
    title: 'a round trip on a connection to the app',
    words: intoPod('trip'),
  },
} satisfies Record<string, Path>;
type PathName = keyof typeof PATHS;

interface Configuration {
  title: string;
  /** By their long names. */
  flags: Record<string, string>;
  paths: readonly PathName[];
  families: readonly Family[];
  /** Also in a quick run. */
  quick?: true;
}

const list = (length: number, item: (at: number) => string) => Array.from({ length }, (_, at) => item(at)).join();
/** As far apart as they can be, and none that is dialled. */
const ports = (length: number) => list(length, (at) => `${2001 + 11 * at}`);
const excluded = (length: number): Configuration => ({
  title: `${length.toLocaleString('en')} excluded ports`,
  flags: { 'istio-local-outbound-ports-exclude': ports(length), 'istio-local-exclude-ports': ports(length) },
  paths: ['outbound', 'inbound', 'upstream'],
  families: length === 1000 ? FAMILIES : [4],
});

const CONFIGURATIONS: Record<string, Configuration> = {
  defaults: {
    title: 'defaults',
    flags: {},
    paths: ['outbound', 'inbound', 'upstream', 'trip'],
    families: FAMILIES,
    quick: true,
  },
  'ports-10': excluded(10),
  'ports-100': excluded(100),
  'ports-1000': { ...excluded(1000), quick: true },
  'cidrs-100': {
    title: '100 excluded CIDRs of each family',
    flags: { 'istio-service-exclude-cidr': list(200, (at) => (at % 2 === 0 ? `10.${at}.7.0/24` : `fd00:${at}::/64`)) },
    paths: ['outbound', 'upstream'],
    families: FAMILIES,
    quick: true,
  },
  interfaces: {
    title: 'virtual interfaces',
    flags: { 'kube-virt-interfaces': 'vm0,vm1' },
    paths: ['outbound', 'inbound'],
    families: [4],
  },
  tproxy: {
    title: 'TPROXY',
    flags: { 'istio-inbound-interception-mode': 'TPROXY' },
    paths: ['inbound', 'inbound-trip'],
    families: FAMILIES,
  },
  dns: {
    title: 'DNS capture',
    flags: { 'redirect-dns': 'true', 'capture-all-dns': 'true' },
    paths: ['outbound', 'query', 'trip'],
    families: FAMILIES,
    quick: true,
  },
};

interface Form {
  name: string;
  ours?: true;
  /** Absent: nothing is captured. */
  captures?: (path: PathName) => boolean;
  /** Absent: wherever it is not said otherwise. */
  only?: readonly string[];
  install(bench: Bench, pod: Pod, ruleset: Ruleset): Promise<unknown>;
}

const always = (path: PathName) => path !== 'upstream';
const apply = async (compiled: Promise<Compiled>, { inside }: Pod) =>
  (await compiled).apply(await native().identify(inside));

const FORMS: Record<string, Form> = {
  none: { name: 'no rules, to the proxy itself', install: async () => {} },
  conntrack: {
    name: 'connection tracking alone',
    only: ['defaults'],
    install: (bench, { inside }) => nft(bench, inside, CONNTRACK),
  },
  'one-legacy': {
    name: 'one redirect rule a hook, iptables-legacy',
    only: ['defaults'],
    captures: always,
    install: async (bench, { inside }) => {
      const rule =
        '*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 15006\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\n';
      const path = file(bench, 'one.rules', `${rule}COMMIT\n`);
      await bench.floors.do('restore', inside, 'legacy', path, path);
    },
  },
  'one-nftables': {
    name: 'one redirect rule a hook, nftables',
    only: ['defaults'],
    captures: always,
    install: (bench, { inside }) => nft(bench, inside, ONE_RULE),
  },
  'ours-legacy': {
    name: 'ours, iptables-legacy',
    ours: true,
    captures: always,
    install: (_, pod, ruleset) => apply(native().compile(formOf(ruleset, 'iptables-legacy', { counters: true })), pod),
  },
  'ours-nftables': {
    name: 'ours, nftables',
    ours: true,
    captures: always,
    install: (_, pod, ruleset) => apply(native().compile(formOf(ruleset, 'nftables', { counters: false })), pod),
  },
  'istio-legacy': {
    name: "Istio's form, iptables-legacy",
    captures: always,
    install: (_, pod, ruleset) =>
      apply(native().compile({ backend: 'iptables-legacy', ruleset: asIstio(ruleset) }), pod),
  },
  'istio-nftables': {
    name: "Istio's form, nftables",
    captures: always,
    install: (_, pod, ruleset) =>
      apply(native().compile({ backend: 'nftables', ruleset: lower(asIstio(ruleset), { counters: true }) }), pod),
  },
  'istio-iptables-nft': {
    name: "Istio's form, iptables-nft",
    captures: always,
    install: async (bench, { inside }, ruleset) => {
      await bench.floors.do('restore', inside, 'nft', ...writeRules(bench.folder, asIstio(ruleset)).restore);
      for (const line of routeLines(ruleset)) await bench.floors.do('inside', inside, 'ip', ...line.split(' '));
    },
  },
};

const hooks = (type: string, priority: number, rule: (port: number) => string) =>
  (
    [
      ['prerouting', 15006],
      ['output', 15001],
    ] as const
  )
    .map(([hook, port]) => `chain ${hook} { type ${type} hook ${hook} priority ${priority}; ${rule(port)}; }\n`)
    .join('');
const CONNTRACK = `table inet tracked {\n${hooks('filter', 0, () => 'ct state invalid drop')}}\n`;
const ONE_RULE = `table inet one {\n${hooks('nat', -100, (port) => `meta l4proto tcp redirect to :${port}`)}}\n`;

/** Istio jumps to its chains in raw with every packet; the plan does with UDP only. */
function asIstio({ tables, ...rest }: Ruleset): Ruleset {
  return {
    ...rest,
    tables: tables.map((table) => {
      if (table.name !== 'raw') return table;
      const chains = table.chains.map((chain) => {
        if (!chain.builtin) return chain;
        return { ...chain, rules: chain.rules.map(({ protocol: _, ...rule }) => rule) };
      });
      return { ...table, chains };
    }),
  };
}

export const connection: Workload = {
  name: 'connection',
  title: 'What the rules cost a connection',
  budget: { quick: 40, full: 420 },
  apart: true,
  async run(bench) {
    const mode = bench.quick ? 'quick' : 'full';
    const configurations = Object.entries(CONFIGURATIONS).filter(([, { quick }]) => quick || !bench.quick);
    const subjects: Subject[] = [];
    for (const [id, configuration] of configurations) {
      const ruleset = rulesetOf(configuration.flags);
      for (const [form, { only, ...each }] of Object.entries(FORMS)) {
        if (only !== undefined && !only.includes(id)) continue;
        const pods: Pod[] = [];
        for (let at = 0; at < SET_UPS[mode]; at++) {
          const pod = await podOf(bench);
          await each.install(bench, pod, ruleset);
          pods.push(pod);
        }
        subjects.push(...subjectsOf(bench, pods, { id, configuration, form, each, burst: BURST[mode] }));
      }
    }
    const series = await interleaved(bench, subjects, { rounds: ROUNDS[mode], seconds: bench.seconds });
    return { series, figures: [...beyond(series), ...layout(series, SET_UPS[mode])], charts: [] };
  },
};

function subjectsOf(
  bench: Bench,
  pods: readonly Pod[],
  {
    id,
    configuration,
    form,
    each,
    burst,
  }: { id: string; configuration: Configuration; form: string; each: Omit<Form, 'only'>; burst: number },
): Subject[] {
  return configuration.paths.flatMap((name) => {
    // A rule without conditions on the owner would lead the proxy's own connections to the proxy.
    if (name === 'upstream' && form.startsWith('one-')) return [];
    const path: Path = PATHS[name];
    const captured = each.captures?.(name) ?? false;
    return configuration.families.map((family): Subject => {
      let turn = 0;
      return {
        id: `${id}/${name}/${family}/${form}`,
        name: each.name,
        group: `${configuration.title}: ${path.title}, IPv${family}`,
        ours: each.ours ?? false,
        baseline: `${id}/${name}/${family}/none`,
        round: async () => {
          const pod = pods[turn++ % pods.length] as Pod;
          const words = [...path.words(pod, family, captured), burst].map(String);
          return [await bench.floors.do('exchange', ...words)];
        },
        usage: async () => {
          const { cpu, rss } = await bench.floors.usage('own');
          return { cpu: cpu / burst, rss };
        },
      };
    });
  });
}

/** What the goals are about: the most that ours adds, in microseconds of the p50. */
function beyond(series: readonly Series[]): Figure[] {
  const p50 = new Map(series.map(({ id, summary }) => [id, summary.p50.value]));
  const most = (id: string, label: string, pairs: readonly (readonly [of: string, to: string])[]): Figure[] => {
    const differences = pairs.map(([of, to]) => (p50.get(of) ?? Number.NaN) - (p50.get(to) ?? Number.NaN));
    const known = differences.filter((difference) => !Number.isNaN(difference));
    return known.length === 0 ? [] : [{ id, label, value: Math.max(...known), unit: 'us' }];
  };
  const backends = ['legacy', 'nftables'] as const;
  const each = <T>(paths: readonly PathName[], pair: (at: string, backend: string) => T): T[] =>
    paths.flatMap((path) =>
      FAMILIES.flatMap((family) => backends.map((backend) => pair(`${path}/${family}`, backend))),
    );
  const toDefaults = (configuration: string, paths: readonly PathName[]) =>
    each(paths, (at, backend) => {
      return [`${configuration}/${at}/ours-${backend}`, `defaults/${at}/ours-${backend}`] as const;
    });
  const toOneRule = (paths: readonly PathName[]) =>
    each(paths, (at, backend) => [`defaults/${at}/ours-${backend}`, `defaults/${at}/one-${backend}`] as const);
  return [
    ...most('one-rule', 'the defaults, beyond one redirect rule, at most', toOneRule(['outbound', 'inbound'])),
    ...most('ports', '1,000 excluded ports, beyond the defaults, at most', [
      ...toDefaults('ports-1000', ['outbound', 'inbound', 'upstream']),
    ]),
    ...most(
      'cidrs',
      '100 excluded CIDRs, beyond the defaults, at most',
      toDefaults('cidrs-100', ['outbound', 'upstream']),
    ),
    ...most('trip', 'a round trip with the defaults, beyond one redirect rule, at most', toOneRule(['trip'])),
    ...most('trip-dns', 'a round trip with DNS capture, beyond the defaults, at most', toDefaults('dns', ['trip'])),
  ];
}

/** How far the medians of two pods with the same rules are apart, in the median of all series. */
function layout(series: readonly Series[], setUps: number): Figure[] {
  if (setUps === 1) return [];
  const spreads = series.map(({ rounds }) => {
    const medians = Array.from({ length: setUps }, (_, at) => {
      return median(rounds.filter((_, round) => round % setUps === at).flat());
    }).filter((value) => !Number.isNaN(value));
    return Math.max(...medians) - Math.min(...medians);
  });
  return [{ id: 'layout', label: 'pods with the same rules differ by, p50', value: median(spreads), unit: 'us' }];
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

async function podOf(bench: Bench): Promise<Pod> {
  const [inside = '', outside = ''] = await bench.farm.fresh(2);
  const batch = async (netns: string, lines: readonly string[]) => {
    await bench.floors.do('inside', netns, 'ip', '-batch', file(bench, 'pod.batch', `${lines.join('\n')}\n`));
  };
  await batch(inside, [
    'link set lo up',
    `link add eth0 type veth peer name peer0 netns ${outside}`,
    ...FAMILIES.map((family) => `address add ${POD[family]}/${family === 4 ? 24 : '64 nodad'} dev eth0`),
    'link set eth0 up',
  ]);
  await batch(outside, [
    'link set lo up',
    ...FAMILIES.map((family) => `address add ${WORLD[family]}/${family === 4 ? 24 : '64 nodad'} dev peer0`),
    'link set peer0 up',
  ]);
  await batch(
    inside,
    FAMILIES.map((family) => `route add default via ${WORLD[family]}`),
  );
  return { inside, outside };
}

async function nft(bench: Bench, netns: string, text: string): Promise<void> {
  await bench.floors.do('nft', netns, file(bench, 'rules.nft', text));
}

/** Read by a program at once, and then overwritten by the next one. */
function file({ folder }: Bench, name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}
