/** What a release is made of: one version, notes, commit messages, and dependencies that Renovate finds. */
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { filesIn } from './lint/files.ts';
import { suite } from './suite.ts';
import { runToEnd } from './support/process.ts';
import { scratchFolder } from './support/scratch.ts';

const ROOT = join(import.meta.dirname, '..');
const read = (name: string) => readFileSync(join(ROOT, name), 'utf8');
const { version } = JSON.parse(read('package.json')) as { version: string };

const versions = suite('the version of package.json');

versions('the lock file, the chart and the Dockerfile have it', () => {
  const lock = JSON.parse(read('package-lock.json')) as { version: string; packages: { '': { version: string } } };
  const chart = parse(read('chart/istio-pod-network-controller/Chart.yaml')) as Record<string, string>;
  assert.deepEqual(
    {
      lock: [lock.version, lock.packages[''].version],
      chart: [chart.version, chart.appVersion],
      dockerfile: /^ARG VERSION=(.*)$/m.exec(read('Dockerfile'))?.[1],
    },
    { lock: [version, version], chart: [version, version], dockerfile: version },
  );
});

versions('the documents name images and charts of it', () => {
  const named = filesIn(ROOT, '*.md', 'docs/**/*.md', 'chart/**/*.md', 'chart/**/NOTES.txt').flatMap((file) => {
    const matches = read(file).matchAll(
      /istio-pod-network-controller(?:-gate)?:(\d+\.\d+\.\d+)|istio-pod-network-controller --version (\d\S*)/g,
    );
    return [...matches].map(([, tag, chart]) => ({ file, version: tag ?? chart }));
  });
  assert.ok(named.length > 0);
  assert.deepEqual(
    named.filter((each) => each.version !== version),
    [],
  );
});

const script = suite('.ci/release');
script.needs('awk', 'sed');

const CHANGELOG = `# Changelog

## [Unreleased]

To come.

## [1.2.3] - 2026-01-02

### Added

- One.

## [1.2.30] - 2026-01-01

- Zero.

[1.2.3]: https://example.org/
`;

/** Runs the script in a tree with this version and this changelog. */
async function release(args: string[], changelog = CHANGELOG) {
  const tree = scratchFolder('release');
  mkdirSync(join(tree, '.ci'));
  cpSync(join(ROOT, '.ci/release'), join(tree, '.ci/release'));
  writeFileSync(join(tree, 'package.json'), JSON.stringify({ name: 'x', version: '1.2.3', private: true }, null, 2));
  writeFileSync(join(tree, 'CHANGELOG.md'), changelog);
  return runToEnd(join(tree, '.ci/release'), args);
}

script('prints the entry of the version, without its heading', async () => {
  const { code, stdout } = await release(['notes', 'v1.2.3']);
  assert.equal(code, 0);
  assert.equal(stdout, '### Added\n\n- One.\n');
});

script('accepts a tag that is the version', async () => {
  assert.deepEqual(await release(['check', 'v1.2.3']), { code: 0, stdout: '', stderr: '' });
});

for (const [what, args, changelog, says] of [
  ['another tag', ['check', 'v1.2.4'], CHANGELOG, /the tag is v1\.2\.4 and package\.json has the version 1\.2\.3/],
  ['no entry', ['check', 'v1.2.3'], CHANGELOG.replace('[1.2.3] -', '[1.2.2] -'), /has no entry for 1\.2\.3/],
  ['an unknown command', ['frobnicate', 'v1.2.3'], CHANGELOG, /unknown command frobnicate/],
  ['no tag', ['check'], CHANGELOG, /expected "check TAG"/],
] as const) {
  script(`refuses ${what}`, async () => {
    const { code, stderr } = await release([...args], changelog);
    assert.equal(code, 1);
    assert.match(stderr, says);
  });
}

script('the released chart installs the released image', async () => {
  const [, expression = ''] = /sed --in-place "(.*)" chart/.exec(read('.github/workflows/release.yml')) ?? [];
  const values = `${scratchFolder('release')}/values.yaml`;
  writeFileSync(values, read('chart/istio-pod-network-controller/values.yaml'));
  await runToEnd('sed', ['--in-place', expression.replace('$IMAGE', 'ghcr.io/x/y'), values]);
  const { image, gateImage } = parse(readFileSync(values, 'utf8')) as Record<string, { repository: string }>;
  assert.deepEqual([image?.repository, gateImage?.repository], ['ghcr.io/x/y', '']);
});

const commits = suite('.ci/commits');
commits.needs('awk');

/** What it says about a message, without the name in front. */
async function complaints(message: string): Promise<string[]> {
  const file = join(scratchFolder('commits'), 'message');
  writeFileSync(file, message);
  const { code, stdout } = await runToEnd(join(ROOT, '.ci/commits'), ['--message', file]);
  assert.equal(code, stdout === '' ? 0 : 1);
  return stdout.split('\n').filter(Boolean);
}

for (const subject of ['Add a gate', 'Bring buildah', 'Need root', 'Process pods', 'Focus on one', 'Embed the gate']) {
  commits(`accepts "${subject}" with a body`, async () => {
    assert.deepEqual(await complaints(`${subject}\n\nPods waited for it.\n\nSigned-off-by: A <a@example.org>\n`), []);
  });
}

for (const [what, message, says] of [
  ['a long subject', `Add ${'x'.repeat(69)}\n\nWhy.\n`, /the subject has 73 characters; expected at most 72/],
  ['a full stop', 'Add a gate.\n\nWhy.\n', /ends with a full stop/],
  ['no body', 'Add a gate\n', /expected a body that says why/],
  ['a body of signatures', 'Add a gate\n\nSigned-off-by: A <a@example.org>\n', /expected a body that says why/],
  ['no empty line', 'Add a gate\nWhy.\n\nWhy.\n', /expected an empty line after the subject/],
  ...['Added', 'Adds', 'Adding', 'add', 'docs:', 'The', 'What'].map(
    (word) => [`the word ${word}`, `${word} a gate\n\nWhy.\n`, /expected a verb such as Add or Refuse/] as const,
  ),
] as const) {
  commits(`refuses ${what}`, async () => {
    const [first = '', ...more] = await complaints(message);
    assert.deepEqual(more, []);
    assert.match(first, says);
  });
}

const renovate = suite('renovate');

interface Renovate {
  customManagers: { description: string; managerFilePatterns: string[]; matchStrings: string[] }[];
  packageRules: { matchManagers?: string[]; matchPackageNames?: string[] }[];
}
const config = JSON.parse(read('.github/renovate.json')) as Renovate;
const pattern = (text: string) => new RegExp(text.replace(/^\/|\/$/g, ''), 'g');

for (const { description, managerFilePatterns, matchStrings } of config.customManagers) {
  renovate(`finds one: ${description}`, () => {
    const files = ['Dockerfile', 'test/mesh/README.md'].filter((file) =>
      managerFilePatterns.some((text) => file.search(pattern(text)) >= 0),
    );
    const found = files.flatMap((file) => matchStrings.flatMap((text) => [...read(file).matchAll(pattern(text))]));
    assert.equal(found.length, 1);
  });
}

renovate('updates the modules of tools, which go.mod lists as indirect', () => {
  const mods = filesIn(ROOT, 'test/*/go.mod').map(read).join('\n');
  const required = new Set([...mods.matchAll(/^(?:require)?\s+(\S+) v\d/gm)].map(([, name]) => name));
  const tools = [...mods.matchAll(/^(?:tool)?\s+([a-z0-9.-]+\.[a-z]+\/\S+)$/gm)].map(([, name = '']) => name);
  const modules = tools.map((name) => [...required].find((module) => module && `${name}/`.startsWith(`${module}/`)));
  const rule = config.packageRules.find(({ matchPackageNames = [] }) =>
    matchPackageNames.includes('k8s.io/kubernetes'),
  );
  // Istio's has a manager of its own: Renovate cannot put its commits in order.
  const expected = [...new Set(modules)].filter((name) => name !== 'istio.io/istio').sort();
  assert.ok(expected.length > 5);
  assert.deepEqual(rule?.matchPackageNames, expected);
});

const artifactHub = suite('Artifact Hub');

artifactHub("its annotations in Chart.yaml are of the project's licence, and have values that it knows", () => {
  const { annotations = {} } = parse(read('chart/istio-pod-network-controller/Chart.yaml')) as {
    annotations?: Record<string, string>;
  };
  const { license } = JSON.parse(read('package.json')) as { license: string };
  assert.deepEqual(annotations, {
    'artifacthub.io/category': 'networking',
    'artifacthub.io/license': license,
    'artifacthub.io/operator': 'false',
    // Semantic Versioning: a version with a hyphen comes before a release.
    'artifacthub.io/prerelease': String(version.includes('-')),
  });
});
