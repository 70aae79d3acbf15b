/** The page of a node's pods, for a browser: one document, no script, nothing fetched. */
import { createHash } from 'node:crypto';
import type { Backend } from '../ruleset/form.ts';
import type { PodState, Stages } from './metrics.ts';

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
p, .dim { color: var(--dim) }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid var(--line); padding: .5rem .75rem .5rem 0; text-align: left; vertical-align: top }
td { overflow-wrap: anywhere }
.initialized { color: var(--good) } .failed { color: var(--bad) } .pending { color: var(--wait) }
@media (max-width: 45rem) {
  thead { clip-path: inset(50%); height: 1px; overflow: hidden; position: absolute; width: 1px }
  tr { border-bottom: 1px solid var(--line); display: block; padding: .5rem 0 }
  td { border: 0; display: flex; gap: 1rem; padding: .125rem 0 }
  td:empty { display: none }
  td::before { color: var(--dim); content: attr(data-label); flex: 0 0 5rem }
}`;

/** Permits the page its own style sheet, and nothing else. */
export const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  `style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'`,
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const COLUMNS: [heading: string, cell: (pod: PodView) => string][] = [
  ['Pod', ({ namespace, name }) => `${escaped(namespace)}/<b>${escaped(name)}</b>`],
  ['State', ({ state }) => `<span class="${escaped(state)}">${escaped(state)}</span>`],
  ['Reason', ({ reason = '' }) => escaped(reason)],
  ['Backend', ({ backend = '' }) => escaped(backend)],
  ['Total', ({ stages }) => (stages?.total === undefined ? '' : `${(stages.total / 1000).toFixed(2)} ms`)],
  ['Since', ({ since = '' }) => escaped(since)],
];

export function podsPage(pods: readonly PodView[]): string {
  const counts = Object.entries(Object.groupBy(pods, ({ state }) => state));
  const summary = counts.map(([state, { length } = []]) => `${length} ${state}`).join(', ');
  const rows = pods.map((pod) => {
    const cells = COLUMNS.map(([heading, cell]) => {
      const content = cell(pod);
      // The content is one element, because a narrow screen puts label and content side by side.
      return `<td data-label="${heading}">${content === '' ? '' : `<span>${content}</span>`}</td>`;
    });
    return `<tr>${cells.join('')}</tr>\n`;
  });
  const headings = COLUMNS.map(([heading]) => `<th scope="col">${heading}</th>`);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pods of this node</title>
<style>${STYLE}</style>
</head>
<body>
<h1>Pods of this node</h1>
<p>${pods.length === 0 ? 'None is known yet.' : escaped(summary)}</p>
<table>
<thead><tr>${headings.join('')}</tr></thead>
<tbody>
${rows.join('')}</tbody>
</table>
</body>
</html>
`;
}

const ENTITIES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? '');
}
