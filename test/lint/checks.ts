/**
 * What `npm run lint` checks beside TypeScript and C++. Each check returns a text for each fault that it finds below
 * `root`, and throws if it finds nothing to check: a check of nothing would pass for ever.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse, parseAllDocuments } from 'yaml';
import { helm, IMAGE } from '../support/helm.ts';
import { runToEnd } from '../support/process.ts';
import { filesIn } from './files.ts';
import { brokenLinks, documentsIn } from './links.ts';
import { lintPrograms } from './programs.ts';

type Check = (root: string) => string[] | Promise<string[]>;

const WORKFLOWS = '.github/workflows/*.{yml,yaml}';
/** Its templates are YAML only once helm has rendered them. */
const TEMPLATES = '/templates/';
const CHART = 'chart/istio-pod-network-controller';

/** Sets of values under which the chart is linted; between them they switch on every template. */
const VALUES: Record<string, string[]> = {
  'the defaults and an image': [],
  'every part, on OpenShift': [
    ...['podMonitor', 'prometheusRule', 'dashboard'].map((name) => `monitoring.${name}.enabled=true`),
    ...['kubernetesDistribution=OpenShift', 'networkPolicy.apiServerPorts={6443}', 'bench.enabled=true'],
  ],
  "injection by istiod's template": ['injection.mode=istio'],
};

export const CHECKS: Record<string, Check> = { shell, workflows, pins, yaml, links, chart, programs };

/** Programs of the package procps, which a small Debian does not have: /proc says the same, and a shell has a kill. */
const PROCPS = /['"`](?:(?:pgrep|pkill|ps|sysctl) |(?:pgrep|pkill|ps|sysctl|kill)['"`])/;

/** Tests and the benchmark run on a machine that has only what set-up installs. */
function programs(root: string): string[] {
  return some(filesIn(root, 'test/**/*.ts', 'bench/**/*.ts'), 'sources').flatMap((file) => {
    const lines = readFileSync(join(root, file), 'utf8').split('\n');
    return lines.flatMap((line, at) => {
      const [found] = PROCPS.exec(line) ?? [];
      return found === undefined ? [] : [`${file}:${at + 1}: expected no program of procps, not ${found}`];
    });
  });
}

/** Every file whose first line asks for a shell. */
async function shell(root: string): Promise<string[]> {
  const files = filesIn(root, '**', '.ci/**', '.github/**').filter((path) =>
    /^#!.*\bsh\n/.test(begin(join(root, path))),
  );
  return said(some(files, 'shell scripts'), await runToEnd('shellcheck', files, { cwd: root }));
}

/** Syntax, names and expressions of workflows, and shellcheck on their steps. */
async function workflows(root: string): Promise<string[]> {
  const files = some(filesIn(root, WORKFLOWS), 'workflows');
  await lintPrograms.build();
  const args = ['-no-color', '-shellcheck', 'shellcheck', '-pyflakes', '', ...files];
  return said(files, await runToEnd(lintPrograms.path('actionlint'), args, { cwd: root }));
}

/** A workflow runs the code of others only where a commit names it, and no job has rights that it does not list. */
function pins(root: string): string[] {
  const files = some(filesIn(root, WORKFLOWS), 'workflows');
  return files.flatMap((file) => {
    const text = readFileSync(join(root, file), 'utf8');
    const { permissions, jobs } = parse(text) as Workflow;
    const faults = Object.entries(jobs).flatMap(([name, job]) =>
      job.permissions === undefined ? [`${file}: job ${name}: expected its permissions`] : [],
    );
    if (JSON.stringify(permissions) !== '{}')
      faults.push(`${file}: expected "permissions: {}" for what is not a job's`);
    for (const [, use = '', comment = ''] of text.matchAll(/\buses: *(\S+)(.*)$/gm)) {
      if (use.startsWith('./')) continue;
      if (!/^[\w./-]+@[0-9a-f]{40}$/.test(use)) faults.push(`${file}: ${use}: expected a commit's full hash after @`);
      if (!/^ # v\d+\.\d+\.\d+$/.test(comment)) faults.push(`${file}: ${use}: expected a comment with its version`);
    }
    return faults;
  });
}

interface Workflow {
  permissions?: unknown;
  jobs: Record<string, { permissions?: unknown }>;
}

/** No key twice, no tabs, nothing that only some parsers take. */
function yaml(root: string): string[] {
  const files = filesIn(root, '**/*.{yml,yaml}', '.github/**/*.{yml,yaml}');
  return some(
    files.filter((file) => !file.includes(TEMPLATES)),
    'YAML files',
  ).flatMap((file) =>
    parseAllDocuments(readFileSync(join(root, file), 'utf8')).flatMap(({ errors, warnings }) =>
      [...errors, ...warnings].map(({ message }) => `${file}: ${message}`),
    ),
  );
}

function links(root: string): string[] {
  some(documentsIn(root), 'documents');
  return brokenLinks(root);
}

async function chart(root: string): Promise<string[]> {
  const faults: string[] = [];
  for (const [name, set] of Object.entries(VALUES)) {
    const args = ['lint', '--strict', join(root, CHART), ...IMAGE, ...set.flatMap((each) => ['--set', each])];
    const output = await helm(...args).catch((error: Error) => error.message);
    if (!/ 0 chart\(s\) failed/.test(output) || /\[(WARNING|ERROR)\]/.test(output)) faults.push(`${name}: ${output}`);
  }
  return faults;
}

function some(files: string[], what: string): string[] {
  if (files.length === 0) throw new Error(`found no ${what} to check`);
  return files;
}

/** One text for all that the program said about the files, or none if it accepted them. */
function said(files: string[], { code, stdout, stderr }: { code: unknown; stdout: string; stderr: string }): string[] {
  return code === 0 ? [] : [`${stdout}${stderr}`.trim() || `failed with ${code} on ${files.join(' ')}`];
}

function begin(path: string): string {
  try {
    return readFileSync(path, 'utf8').slice(0, 80);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EISDIR') return '';
    throw error;
  }
}
