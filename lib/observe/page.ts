/**
 * Two pages for a browser: the pods of a node, and the rules of a pod. They fetch nothing, and the server escapes all text
 * of pods. The page of the pods has one constant script, which filters the rows. Without scripts it shows all pods.
 */
import { createHash } from 'node:crypto';
import type { Backend } from '../ruleset/form.ts';
import type { PodState, Stages } from './metrics.ts';
import type { RulesSection } from './rules.ts';

/** What this node's controller knows about a pod, as /pods shows it. */
export interface PodView {
  namespace: string;
  name: string;
  uid: string;
  state: PodState;
  /** Why the pod was skipped, failed, or has no mark. */
  reason?: string;
  backend?: Backend;
  /** `<boot id>:<cookie>`. */
  netns?: string;
  /** The hash of the configuration. */
  rules?: string;
  /** Microseconds. */
  stages?: Stages;
  /** The time of the last change, ISO 8601. */
  since?: string;
}

const STYLE = `
:root { color-scheme: light dark; --line: #d0d4da; --dim: #5a6370; --bad: #b3261e; --good: #1a6b3c; --wait: #8a5a00 }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a4048; --dim: #a0a8b4; --bad: #ff8a80; --good: #7fd8a4; --wait: #ffcc66 }
}
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 75rem; padding: 1rem }
h1 { font-size: 1.25rem }
p, dt, .dim { color: var(--dim) }
label { display: block; margin: 1rem 0 }
input { box-sizing: border-box; display: block; font: inherit; max-width: 30rem; padding: .5rem; width: 100% }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid var(--line); padding: .5rem .75rem .5rem 0; text-align: left; vertical-align: top }
td { overflow-wrap: anywhere }
tr[hidden] { display: none !important }
summary { cursor: pointer }
dl { display: grid; gap: .25rem .75rem; grid-template-columns: max-content 1fr; margin: .5rem 0 }
dd { margin: 0 }
code, pre { font: .875rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere }
pre { overflow-wrap: anywhere; white-space: pre-wrap }
h2 { font-size: 1rem }
.missing { color: var(--bad) } .surplus { color: var(--good) }
.initialized { color: var(--good) } .failed { color: var(--bad) } .pending { color: var(--wait) } .skipped { color: var(--dim) }
.initialized, .failed, .pending, .skipped { font-weight: 600 }
.initialized, .failed, .pending, .skipped, time { overflow-wrap: normal; white-space: nowrap }
@media (max-width: 45rem) {
  thead { clip-path: inset(50%); height: 1px; overflow: hidden; position: absolute; width: 1px }
  tr { border-bottom: 1px solid var(--line); display: block; padding: .5rem 0 }
  td { border: 0; display: flex; gap: 1rem; padding: .125rem 0 }
  td:empty { display: none }
  td::before { color: var(--dim); content: attr(data-label); flex: 0 0 5rem }
  dl { grid-template-columns: 1fr }
}`;

/** Hides the rows that do not have all words of the search. It reads text only, so a pod's name cannot become code. */
const SCRIPT = `
const input = document.querySelector('input');
const count = document.querySelector('output');
const rows = [...document.querySelectorAll('tbody tr')].map((row) => ({ row, text: row.textContent.toLowerCase() }));
const search = () => {
  const words = input.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const { row, text } of rows) {
    row.hidden = !words.every((word) => text.includes(word));
    if (!row.hidden) shown++;
  }
  count.textContent = words.length === 0 ? '' : shown + ' of ' + rows.length + ' pods';
};
input.addEventListener('input', search);
input.closest('label').hidden = false;
search();`;

const hashOf = (text: string) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

/** Permits the page its own style sheet and its own script, and nothing else. */
export const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  `style-src ${hashOf(STYLE)}`,
  `script-src ${hashOf(SCRIPT)}`,
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const COLUMNS: [heading: string, cell: (pod: PodView, now: number) => string][] = [
  ['Pod', podCell],
  ['State', ({ state }) => `<span class="${escaped(state)}">${escaped(state)}</span>`],
  ['Reason', ({ reason = '' }) => escaped(reason)],
  ['Backend', ({ backend = '' }) => escaped(backend)],
  ['Install', ({ stages }) => (stages?.total === undefined ? '' : milliseconds(stages.total))],
  ['Since', ({ since }, now) => (since === undefined ? '' : time(since, now))],
];

/** Failed pods come first, because they need someone. */
const ORDER: readonly PodState[] = ['failed', 'pending', 'initialized', 'skipped'];

/** `now` is in milliseconds since 1970. */
export function podsPage(pods: readonly PodView[], now = Date.now()): string {
  const sorted = pods.toSorted((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state) || compare(a, b));
  const counts = ORDER.map((state) => [sorted.filter((pod) => pod.state === state).length, state] as const);
  const summary = counts.flatMap(([count, state]) => (count === 0 ? [] : [`${count} ${state}`])).join(', ');
  const rows = sorted.map((pod) => {
    const cells = COLUMNS.map(([heading, cell]) => {
      const content = cell(pod, now);
      // The content is one element, because a narrow screen puts label and content side by side.
      return `<td data-label="${heading}">${content === '' ? '' : `<div>${content}</div>`}</td>`;
    });
    return `<tr>${cells.join('')}</tr>\n`;
  });
  const headings = COLUMNS.map(([heading]) => `<th scope="col">${heading}</th>`);
  return htmlDocument(
    'Pods of this node',
    `<p>${pods.length === 0 ? 'The controller knows no pod yet.' : escaped(summary)}</p>
<label hidden>Search for names, states and reasons <input type="search" autocomplete="off"> <output></output></label>
<table>
<thead><tr>${headings.join('')}</tr></thead>
<tbody>
${rows.join('')}</tbody>
</table>
<script>${SCRIPT}</script>
`,
  );
}

const MARKS: Partial<Record<string, string>> = { '-': 'missing', '+': 'surplus' };

/** The rules of one pod. */
export function rulesPage(sections: readonly RulesSection[]): string {
  const body = sections.map(({ title, diff, lines }) => {
    const content = lines.map((line) => {
      const mark = diff ? MARKS[line[0] ?? ''] : undefined;
      return mark === undefined ? escaped(line) : `<span class="${mark}">${escaped(line)}</span>`;
    });
    const legend = diff ? '<p>- missing, + surplus</p>\n' : '';
    return `<h2>${escaped(title)}</h2>\n${legend}<pre>${content.join('\n')}</pre>\n`;
  });
  return htmlDocument('Rules of a pod', `<p><a href="pods">All pods of this node</a></p>\n${body.join('')}`);
}

function htmlDocument(title: string, body: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${title}</h1>
${body}</body>
</html>
`;
}

/** The name, and the details of the pod behind it. */
function podCell({ namespace, name, uid, netns, rules, stages = {} }: PodView): string {
  const { total: _, ...parts } = stages;
  const durations = Object.entries(parts).map(([stage, us]) => `${escaped(stage)} ${milliseconds(us)}`);
  const details: [term: string, content: string][] = [
    ['Events', `<code>kubectl -n ${escaped(namespace)} describe pod ${escaped(name)}</code>`],
    ['Uid', `<code>${escaped(uid)}</code>`],
  ];
  if (durations.length > 0) details.push(['Last install', durations.join(', ')]);
  if (rules !== undefined) {
    const link = `<a href="rules?uid=${escaped(encodeURIComponent(uid))}">show them, and compare them with the kernel</a>`;
    details.push(['Rules', `${link} (hash of the configuration: <code>${escaped(rules)}</code>)`]);
  }
  if (netns !== undefined) {
    details.push(['Network namespace', `<code>${escaped(netns)}</code> (boot id and cookie)`]);
  }
  const list = details.map(([term, content]) => `<dt>${term}</dt><dd>${content}</dd>`).join('');
  return `<details><summary>${escaped(namespace)}/<b>${escaped(name)}</b></summary><dl>${list}</dl></details>`;
}

function compare(a: PodView, b: PodView): number {
  const [one, other] = [`${a.namespace}/${a.name}`, `${b.namespace}/${b.name}`];
  return one < other ? -1 : one > other ? 1 : 0;
}

function milliseconds(us: number): string {
  return `${Number((us / 1000).toPrecision(3))} ms`;
}

/** How long ago it was, with the exact time as a tooltip. */
function time(since: string, now: number): string {
  const seconds = Math.max(0, Math.round((now - Date.parse(since)) / 1000));
  const [size, unit] = UNITS.find(([size]) => seconds >= size) ?? [1, 's'];
  const ago = Number.isNaN(seconds) ? since : `${Math.floor(seconds / size)} ${unit} ago`;
  return `<time datetime="${escaped(since)}" title="${escaped(since)}">${escaped(ago)}</time>`;
}

const UNITS = [
  [86_400, 'd'],
  [3600, 'h'],
  [60, 'min'],
] as const;

const ENTITIES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? '');
}
