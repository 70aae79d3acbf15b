/** Each check of `npm run lint` accepts what is right and names what is wrong, in a small working tree of its own. */
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { suite } from '../suite.ts';
import { CHART } from '../support/helm.ts';
import { scratchFolder } from '../support/scratch.ts';
import { CHECKS } from './checks.ts';

const root = scratchFolder('lint');

const WORKFLOW = `on: push
permissions: {}
jobs:
  job:
    runs-on: ubuntu-24.04
    permissions: {}
    steps:
      - uses: actions/checkout@${'0'.repeat(40)} # v1.2.3
      - run: echo "$HOME"
`;
const SCRIPT = '#!/bin/sh\necho "$1"\n';
const workflow = '.github/workflows/w.yml';

interface Case {
  check: string;
  needs?: string[];
  /** Files that the check accepts. */
  right: Record<string, string>;
  /** What is written over one of them, and what the check then says. */
  wrong: { [what: string]: { file: string; text: string; says: RegExp; faults?: number } };
}

const CASES: Case[] = [
  {
    check: 'shell',
    needs: ['shellcheck'],
    right: { 'bin/run': SCRIPT, '.ci/run': SCRIPT, 'other.ts': '#!/usr/bin/env node\n' },
    wrong: {
      'an unquoted variable': { file: 'bin/run', text: '#!/bin/sh\necho $1\n', says: /bin\/run line 2:.*SC2086/s },
      'a folder with a dot': { file: '.ci/run', text: '#!/bin/sh\necho $1\n', says: /\.ci\/run line 2:/ },
    },
  },
  {
    check: 'workflows',
    needs: ['actionlint', 'shellcheck'],
    right: { [workflow]: WORKFLOW },
    wrong: {
      'a runner that does not exist': {
        file: workflow,
        text: WORKFLOW.replace('ubuntu-24.04', 'ubuntu-3.1'),
        says: /w\.yml:5:14: label "ubuntu-3\.1" is unknown/,
      },
      'an unquoted variable of a step': { file: workflow, text: WORKFLOW.replace(/"\$HOME"/, '$HOME'), says: /SC2086/ },
    },
  },
  {
    check: 'pins',
    right: { [workflow]: WORKFLOW },
    wrong: {
      'a tag': {
        file: workflow,
        text: WORKFLOW.replace(/@0+/, '@v1'),
        says: /checkout@v1: expected a commit's full hash/,
      },
      'no version': {
        file: workflow,
        text: WORKFLOW.replace(/ # v.*/, ''),
        says: /expected a comment with its version/,
      },
      'a job without permissions': {
        file: workflow,
        text: WORKFLOW.replace('    permissions: {}\n', ''),
        says: /job job: expected its permissions/,
      },
      'permissions of every job': {
        file: workflow,
        text: WORKFLOW.replace('permissions: {}', 'permissions: write-all'),
        says: /expected "permissions: {}"/,
      },
    },
  },
  {
    check: 'yaml',
    right: { 'a/b.yaml': 'a: 1\n---\na: 2\n', '.github/c.yml': 'a: 1\n', 'chart/x/templates/t.yaml': '{{- if }}\n' },
    wrong: {
      'a key twice': { file: 'a/b.yaml', text: 'a: 1\na: 2\n', says: /^a\/b\.yaml: Map keys must be unique/ },
      'a tab': { file: '.github/c.yml', text: 'a:\n\tb: 1\n', says: /^\.github\/c\.yml: Tabs are not allowed/ },
    },
  },
  {
    check: 'links',
    right: {
      'README.md': '# One\n[b](texts/b.md#two-words) [a](#one) [x](https://example.org/)\n`[no](link)`\n',
      'texts/b.md': '## Two words\n',
      '.github/t.md': '[readme](../README.md)\n',
    },
    wrong: {
      'no such file': { file: 'README.md', text: '[b](texts/c.md)\n', says: /^README\.md: texts\/c\.md: no such file/ },
      'no such heading': { file: 'texts/b.md', text: '## Two\n', says: /texts\/b\.md#two-words: no such heading/ },
      'a folder with a dot': { file: '.github/t.md', text: '[readme](README.md)\n', says: /^\.github\/t\.md: / },
    },
  },
  {
    check: 'chart',
    needs: ['helm'],
    right: {},
    wrong: {
      'a template that fails': {
        file: 'chart/istio-pod-network-controller/templates/bench.yaml',
        text: '{{- if .Values.bench.enabled }}{{ .Values.nothing.broken }}{{ end -}}\n',
        says: /^every part, on OpenShift: .*broken/s,
      },
      'a value that the schema refuses': {
        file: 'chart/istio-pod-network-controller/values.yaml',
        text: `${readFileSync(join(CHART, 'values.yaml'), 'utf8')}frobnicate: 1\n`,
        says: /^the defaults and an image: .*frobnicate/s,
        faults: 3,
      },
    },
  },
  {
    check: 'programs',
    right: { 'test/a.test.ts': "run('sh', ['-c', 'kill -9 1']);\nprocess.kill(1);\nrun('kill-switch');\n" },
    wrong: {
      // In parts, since this file is checked too.
      'a program of procps': {
        file: 'bench/a.ts',
        text: `\nrun('pg${'rep'}', []);\n`,
        says: /^bench\/a\.ts:2: .*pgrep/,
      },
      'one in a command of the shell': {
        file: 'bench/a.ts',
        text: `run('sh', ['-c', 'sys${'ctl'} -w a=1']);`,
        says: /sysctl/,
      },
    },
  },
];

const test = suite('lint');

for (const { check, needs = [], right, wrong } of CASES) {
  const write = (file: string, text: string) => {
    mkdirSync(dirname(join(root, file)), { recursive: true });
    writeFileSync(join(root, file), text);
  };
  const writeRight = () => {
    rmSync(root, { recursive: true, force: true });
    if (check === 'chart') cpSync(CHART, join(root, 'chart/istio-pod-network-controller'), { recursive: true });
    for (const [file, text] of Object.entries(right)) write(file, text);
  };

  test(
    `${check}: accepts what is right`,
    async () => {
      writeRight();
      assert.deepEqual(await CHECKS[check]?.(root), []);
    },
    { needs },
  );

  for (const [what, { file, text, says, faults: expected = 1 }] of Object.entries(wrong)) {
    test(
      `${check}: refuses ${what}`,
      async () => {
        writeRight();
        write(file, text);
        const faults = (await CHECKS[check]?.(root)) ?? [];
        assert.equal(faults.length, expected, faults.join('\n'));
        assert.match(faults[0] ?? '', says);
      },
      { needs },
    );
  }
}

test('each check has a case, and a check that finds nothing to check fails', async () => {
  assert.deepEqual(
    CASES.map(({ check }) => check),
    Object.keys(CHECKS),
  );
  rmSync(root, { recursive: true, force: true });
  mkdirSync(root);
  for (const check of ['shell', 'workflows', 'pins', 'yaml', 'links', 'programs']) {
    await assert.rejects(async () => CHECKS[check]?.(root), /^Error: found no .* to check$/);
  }
});
