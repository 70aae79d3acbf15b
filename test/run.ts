/**
 * Runs test files, each in a process and a sandbox of its own, and sets up what they need: `--help` says how to choose.
 *
 * The last line is `N passed, N failed, N skipped`; the exit code is 1 if anything failed or nothing ran. A file that
 * crashed, ran out of time, left no report or holds no test counts as a failure.
 */
import { globSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { parseArgs, styleText } from 'node:util';
import { findSandbox, inSandbox } from '../lib/demo/userns.ts';
import { startBusy } from './runner/busy.ts';
import { endAll, type FileResult, ROOT, runFile } from './runner/file.ts';
import { setUpFailures } from './runner/set-up.ts';

/** How many of the slowest files are listed. */
const SLOWEST = 10;

const HELP = `Runs tests, and installs or builds what they need if possible.

  npm test                                all tests
  npm test -- test/plan.test.ts test/go   these files and folders
  npm test -- --grep "two words"          tests whose suite and name, joined by ", ", contain these words in any case
  npm test -- --no-cluster                builds no Kubernetes, and skips the tests that need a cluster
  npm test -- --jobs 1                    how many files run at the same time (default: 3, or 1 with one CPU)
  npm test -- --busy 8                    runs eight busy processes beside the tests

A test that fails with random input prints the seed, and the command that runs the file with this seed.`;

interface Options {
  files: string[];
  grep: string | undefined;
  cluster: boolean;
  jobs: number;
  busy: number;
}

const options = parse(process.argv.slice(2));
if (typeof options === 'number') process.exitCode = options;
else process.exitCode = await main(options);

/** The options, or the exit code if the arguments ask for help or make no sense. */
function parse(args: string[]): Options | number {
  try {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: {
        help: { type: 'boolean', short: 'h' },
        grep: { type: 'string' },
        'no-cluster': { type: 'boolean' },
        jobs: { type: 'string' },
        busy: { type: 'string' },
      },
    });
    if (values.help) {
      console.log(HELP);
      return 0;
    }
    return {
      files: positionals.length === 0 ? globSync('test/**/*.test.ts', { cwd: ROOT }) : positionals.flatMap(expand),
      grep: values.grep,
      cluster: !values['no-cluster'],
      // Many files wait for most of their time.
      jobs: whole('--jobs', values.jobs, 1) ?? (availableParallelism() > 1 ? 3 : 1),
      busy: whole('--busy', values.busy, 0) ?? 0,
    };
  } catch (error) {
    console.error(styleText('red', `${(error as Error).message}; --help lists the options`));
    return 2;
  }
}

function whole(name: string, value: string | undefined, least: number): number | undefined {
  if (value === undefined) return undefined;
  if (!/^\d{1,3}$/.test(value) || Number(value) < least) {
    throw new Error(`${name}: "${value}": expected a whole number from ${least} to 999`);
  }
  return Number(value);
}

async function main({ files, grep, cluster, jobs, busy }: Options): Promise<number> {
  const sandbox = inSandbox() ? undefined : await findSandbox();
  if (sandbox !== undefined && 'lack' in sandbox) {
    console.log(styleText('yellow', `This user cannot create network namespaces; ${sandbox.lack}.\n`));
  }
  for (const [signal, code] of [['SIGINT', 130] as const, ['SIGTERM', 143] as const]) {
    process.on(signal, () => {
      endAll('SIGTERM');
      setTimeout(() => {
        endAll('SIGKILL');
        process.exit(code);
      }, 500);
    });
  }

  const queue = [...new Set(files)].sort();
  const where = sandbox !== undefined && 'command' in sandbox ? sandbox : undefined;
  // A variable that is undefined is not passed on, even if a test runs this.
  const environment = { IPNC_TEST_GREP: grep, IPNC_TEST_NO_CLUSTER: cluster ? undefined : '1' };
  const results: FileResult[] = [];
  await using _ = startBusy(busy);
  const worker = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const result = await runFile(file, environment, where);
      if (result.unmatched) continue;
      results.push(result);
      print(result);
    }
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  return summarize(results);
}

function expand(name: string): string[] {
  const path = resolve(name);
  const kind = statSync(path, { throwIfNoEntry: false });
  if (kind === undefined) throw new Error(`"${name}": there is no such file or folder; expected one with tests`);
  if (!kind.isDirectory()) return [relative(ROOT, path)];
  const found = globSync('**/*.test.ts', { cwd: path });
  if (found.length === 0) throw new Error(`"${name}": the folder has no test; expected a name that ends with .test.ts`);
  return found.map((file) => relative(ROOT, join(path, file)));
}

function print({ file, output, seconds, passed, failed, skipped }: FileResult): void {
  const verdict = failed > 0 ? styleText('red', 'FAIL') : styleText('green', 'ok  ');
  const counts = [`${passed} passed`];
  if (failed > 0) counts.push(`${failed} failed`);
  if (skipped.length > 0) counts.push(`${skipped.length} skipped`);
  console.log(`${verdict}  ${file.padEnd(36)} ${counts.join(', ')}  ${styleText('dim', `${seconds.toFixed(1)} s`)}`);
  if (failed > 0) console.log(`\n${output.trimEnd()}\n`);
}

function summarize(results: FileResult[]): number {
  const sum = (count: (result: FileResult) => number) => results.reduce((total, result) => total + count(result), 0);
  const passed = sum((result) => result.passed);
  const failures = setUpFailures();
  const failed = sum((result) => result.failed) + failures.length;
  const skipped = sum((result) => result.skipped.length);

  const byReason = new Map<string, string[]>();
  for (const { file, skipped } of results) {
    for (const { suite, test, reason } of skipped) {
      byReason.set(reason, [...(byReason.get(reason) ?? []), `${file}: ${suite}, ${test}`]);
    }
  }
  for (const [reason, tests] of byReason) {
    console.log(styleText('yellow', `\nSKIPPED ${tests.length}, because ${reason}:`));
    for (const test of tests) console.log(`  ${test}`);
  }
  for (const failure of failures) console.log(styleText('red', `\nFAIL set-up: ${failure}`));
  if (results.length > SLOWEST) {
    console.log(`\nThe ${SLOWEST} slowest files:`);
    const slowest = results.toSorted((a, b) => b.seconds - a.seconds).slice(0, SLOWEST);
    for (const { file, seconds } of slowest) console.log(`${seconds.toFixed(1).padStart(7)} s  ${file}`);
  }
  if (passed === 0) console.log(styleText('red', '\nno test passed'));
  console.log(`\n${passed} passed, ${failed} failed, ${skipped} skipped`);
  return failed > 0 || passed === 0 ? 1 : 0;
}
