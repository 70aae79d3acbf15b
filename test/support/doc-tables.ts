/**
 * The tables of docs/ that are made from the source. Each is between two comments, `<!-- table NAME -->` and
 * `<!-- end -->`. Run by itself (`npm run docs`), this file writes them; test/docs.test.ts compares them.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { runOptionList } from '../../lib/config/options.ts';
import { CATALOGUE, ERRNO, LONGEST_PAUSE_MS, type Meaning } from '../../lib/errors.ts';
import { SKIP_REASONS } from '../../lib/istio/enrolment.ts';
import { foreignFlags } from '../../lib/istio/foreign.ts';
import { optionList } from '../../lib/istio/options.ts';
import { EVENTS } from '../../lib/kube/events.ts';
import { NOT_LOCATED } from '../../lib/netns/locate.ts';
import { createMetrics, GATE_REASONS } from '../../lib/observe/metrics.ts';
import { defaultOf, flagsOf, type RedirectOption } from '../../lib/options/option.ts';

interface DocTable {
  name: string;
  /** Under docs/. */
  file: string;
  make: () => string | Promise<string>;
}

export const DOC_TABLES: readonly DocTable[] = [
  { name: 'redirect-options', file: 'cli.md', make: redirectOptions },
  { name: 'foreign-flags', file: 'cli.md', make: foreignFlagsTable },
  { name: 'run-options', file: 'cli.md', make: runOptions },
  { name: 'events', file: 'operate.md', make: events },
  { name: 'skip-reasons', file: 'operate.md', make: skipReasons },
  { name: 'wait-reasons', file: 'operate.md', make: waitReasons },
  { name: 'gate-reasons', file: 'operate.md', make: gateReasons },
  { name: 'errors', file: 'operate.md', make: errors },
  { name: 'metrics', file: 'operate.md', make: metrics },
];

export function docFile(file: string): string {
  return fileURLToPath(new URL(`../../docs/${file}`, import.meta.url));
}

/** What is in the document now; undefined without the two comments. */
export function tableIn(text: string, name: string): string | undefined {
  return patternOf(name).exec(text)?.[2];
}

function patternOf(name: string): RegExp {
  return new RegExp(`(<!-- table ${name} -->\n)(.*?)(\n<!-- end -->)`, 's');
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
  return table(['code', 'means', 'do', 'retried'], [...rows, ['any other errno name', ...cells(ERRNO)]]);
}

function events(): string {
  const rows = Object.entries(EVENTS).map(([reason, { type, means, ...rest }]) => {
    return [code([reason]), type, means, 'remedy' in rest ? rest.remedy : ''];
  });
  return table(['reason', 'type', 'means', 'do'], rows);
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
  const remedy = 'look at the watches: the API server, or the role of the controller';
  const namespace = { means: 'its namespace is not known yet', remedy };
  const rows = Object.entries({ namespace, ...NOT_LOCATED }).map(([reason, { means, remedy }]) => {
    return [code([reason]), means, remedy];
  });
  return table(['reason', 'means', 'do when it stays'], rows);
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
    eventSource: () => '',
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

if (import.meta.main) {
  for (const { name, file, make } of DOC_TABLES) {
    const path = docFile(file);
    const text = readFileSync(path, 'utf8');
    if (tableIn(text, name) === undefined) throw new Error(`${path}: no table ${name}`);
    const made = await make();
    // As a function: a replacement text would read "$" in the table.
    const written = text.replace(patternOf(name), (_, head: string, __, tail: string) => head + made + tail);
    writeFileSync(path, written);
  }
}
