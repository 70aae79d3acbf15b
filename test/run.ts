/**
 * Runs test files, each in a process of its own: `node test/run.ts [file or folder]...`, all of test/ by default.
 *
 * The last line is `N passed, N failed, N skipped`; the exit code is 1 if anything failed or nothing ran. A file that
 * crashed, ran out of time, left no report or holds no test counts as a failure.
 */
import { spawn } from 'node:child_process';
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { styleText } from 'node:util';
import { runInSandbox } from '../lib/demo/userns.ts';
import type { FileReport } from './suite.ts';
import { nodeEnvironment } from './support/node.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const FILE_LIMIT_MS = Number(process.env.IPNC_TEST_FILE_LIMIT_MS ?? 15 * 60_000);
/** Between the request to stop and SIGKILL. */
const GRACE_MS = 3_000;

interface FileResult extends FileReport {
  file: string;
  output: string;
  seconds: number;
}

/** Each file's process leads a process group, so that what it started ends with it. */
let group: number | undefined;
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    endGroup('SIGTERM');
    setTimeout(() => {
      endGroup('SIGKILL');
      process.exit(128 + (signal === 'SIGINT' ? 2 : 15));
    }, 500);
  });
}

process.exitCode = await main(process.argv.slice(2));

async function main(chosen: string[]): Promise<number> {
  const sandbox = await runInSandbox();
  if (sandbox.ran) return sandbox.exitCode;
  if (sandbox.lack !== undefined) {
    console.log(styleText('yellow', `No network namespaces can be made here; ${sandbox.lack}.\n`));
  }

  const files = chosen.length === 0 ? globSync('test/**/*.test.ts', { cwd: ROOT }) : chosen.flatMap(expand);
  const results: FileResult[] = [];
  for (const file of [...new Set(files)].sort()) {
    const result = await runFile(file);
    results.push(result);
    print(result);
  }
  return summarize(results);
}

function expand(name: string): string[] {
  const path = resolve(name);
  if (existsSync(path) && statSync(path).isDirectory()) {
    return globSync('**/*.test.ts', { cwd: path }).map((file) => relative(ROOT, join(path, file)));
  }
  return [relative(ROOT, path)];
}

async function runFile(file: string): Promise<FileResult> {
  const scratch = mkdtempSync(join(tmpdir(), 'ipnc-test-'));
  const reportPath = join(scratch, 'report.json');
  const began = performance.now();
  let output = '';
  try {
    const child = spawn(process.execPath, [resolve(ROOT, file)], {
      cwd: ROOT,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: nodeEnvironment({ IPNC_TEST_REPORT: reportPath, ...(wantsColour() ? { FORCE_COLOR: '1' } : {}) }),
    });
    group = child.pid;
    child.stdout.on('data', (chunk: Buffer) => {
      output += chunk;
    });
    child.stderr.on('data', (chunk: Buffer) => {
      output += chunk;
    });
    let expired = false;
    const timer = setTimeout(() => {
      expired = true;
      endGroup('SIGTERM');
      setTimeout(endGroup, GRACE_MS, 'SIGKILL').unref();
    }, FILE_LIMIT_MS);
    const ended = await new Promise<string | undefined>((resolve) => {
      child.once('error', (error) => resolve(`could not be started: ${error.message}`));
      child.once('exit', (code, signal) => {
        // What the file started may hold its output open: it ends with the file.
        endGroup('SIGKILL');
        child.once('close', () => {
          if (expired) resolve(`took longer than its limit of ${FILE_LIMIT_MS} ms`);
          else if (signal !== null) resolve(`ended by ${signal}`);
          else resolve(code === 0 ? undefined : `exit code ${code}`);
        });
      });
    });
    clearTimeout(timer);
    group = undefined;
    const report = readReport(reportPath);
    let problem = ended;
    if (problem === undefined && report === undefined) problem = 'ended without a report: it has no suite()';
    if (problem === undefined && report !== undefined && report.passed + report.failed + report.skipped.length === 0) {
      problem = 'ran no test';
    }
    const { passed, failed, skipped } = report ?? { passed: 0, failed: 0, skipped: [] };
    if (problem !== undefined && failed === 0) output += styleText('red', `\n  FAIL ${file}: ${problem}\n`);
    return {
      file,
      output,
      seconds: (performance.now() - began) / 1000,
      passed,
      failed: problem !== undefined ? Math.max(failed, 1) : failed,
      skipped,
    };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function readReport(path: string): FileReport | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as FileReport;
  } catch {
    return undefined;
  }
}

function endGroup(signal: 'SIGTERM' | 'SIGKILL'): void {
  if (group === undefined) return;
  try {
    process.kill(-group, signal);
  } catch {
    // Nobody of the group is left.
  }
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
  const failed = sum((result) => result.failed);
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
  if (passed === 0) console.log(styleText('red', '\nno test passed'));
  console.log(`\n${passed} passed, ${failed} failed, ${skipped} skipped`);
  return failed > 0 || passed === 0 ? 1 : 0;
}

function wantsColour(): boolean {
  return process.stdout.isTTY && process.env.NO_COLOR === undefined;
}
