/** One test file, in a process, a process group and a sandbox of its own. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { styleText } from 'node:util';
import type { Sandbox } from '../../lib/demo/userns.ts';
import type { FileReport } from '../suite.ts';
import { nodeEnvironment } from '../support/node.ts';
import { isOver } from '../support/patience.ts';
import { type SetUpMessage, setUp } from './set-up.ts';

export const ROOT = join(import.meta.dirname, '../..');
const FILE_LIMIT_MS = Number(process.env.IPNC_TEST_FILE_LIMIT_MS ?? 15 * 60_000);
/** Between the request to stop and SIGKILL. */
const GRACE_MS = 3_000;

export interface FileResult extends Omit<FileReport, 'unmatched'> {
  file: string;
  output: string;
  seconds: number;
  /** The file has tests, and --grep none of them. */
  unmatched: boolean;
}

/** Each file's process leads a process group, so that what it started ends with it. */
const groups = new Set<number>();

/** Sends a signal to all that the running files have started. */
export function endAll(signal: 'SIGTERM' | 'SIGKILL'): void {
  for (const group of groups) end(group, signal);
}

export async function runFile(
  file: string,
  environment: NodeJS.ProcessEnv,
  sandbox: Sandbox | undefined,
): Promise<FileResult> {
  const scratch = mkdtempSync(join(tmpdir(), 'ipnc-test-'));
  const began = performance.now();
  try {
    const reportPath = join(scratch, 'report.json');
    const colour = process.stdout.isTTY && process.env.NO_COLOR === undefined ? { FORCE_COLOR: '1' } : {};
    const variables = { ...colour, ...environment, IPNC_TEST_REPORT: reportPath };
    let { output, problem } = await runProcess(file, variables, sandbox);
    const report = readReport(reportPath);
    const { passed, failed, skipped, unmatched } = report ?? { passed: 0, failed: 0, skipped: [], unmatched: 0 };
    if (problem === undefined && report === undefined) problem = 'ended without a report: it has no suite()';
    const tests = passed + failed + skipped.length;
    if (problem === undefined && tests + unmatched === 0) problem = 'ran no test';
    if (problem !== undefined && failed === 0) output += styleText('red', `\n  FAIL ${file}: ${problem}\n`);
    return {
      file,
      output,
      seconds: (performance.now() - began) / 1000,
      passed,
      failed: problem !== undefined ? Math.max(failed, 1) : failed,
      skipped,
      unmatched: problem === undefined && tests === 0,
    };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function runProcess(
  file: string,
  environment: NodeJS.ProcessEnv,
  sandbox: Sandbox | undefined,
): Promise<{ output: string; problem: string | undefined }> {
  // A sanitizer's runtime is for Node, not for the programs that make the sandbox.
  const { LD_PRELOAD: preload, ...variables } = { ...nodeEnvironment(), ...sandbox?.environment, ...environment };
  const [command, ...args] = [
    ...(sandbox?.command ?? []),
    ...(preload === undefined ? [] : ['env', `LD_PRELOAD=${preload}`]),
    process.execPath,
    resolve(ROOT, file),
  ] as [string, ...string[]];
  const child = spawn(command, args, {
    cwd: ROOT,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    env: variables,
  });
  const { pid } = child;
  if (pid !== undefined) groups.add(pid);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (chunk: Buffer) => {
      output += chunk;
    });
  }
  let expired = false;
  const limit = () => {
    const began = performance.now();
    return setInterval(() => {
      if (expired || !isOver(began, FILE_LIMIT_MS)) return;
      expired = true;
      end(pid, 'SIGTERM');
      setTimeout(end, GRACE_MS, pid, 'SIGKILL').unref();
    }, FILE_LIMIT_MS / 10);
  };
  let timer = limit();
  child.on('message', async ({ need }: SetUpMessage) => {
    // The file waits meanwhile.
    clearInterval(timer);
    const reply = await setUp(need);
    timer = limit();
    if (child.connected) child.send(reply, () => {});
  });
  const problem = await new Promise<string | undefined>((resolve) => {
    child.once('error', (error) => resolve(`could not be started: ${error.message}`));
    child.once('exit', (code, signal) => {
      // What the file started may hold its output open: it ends with the file.
      end(pid, 'SIGKILL');
      child.once('close', () => {
        if (expired) resolve(`took longer than its limit of ${FILE_LIMIT_MS} ms`);
        else if (signal !== null) resolve(`ended by ${signal}`);
        else resolve(code === 0 ? undefined : `exit code ${code}`);
      });
    });
  });
  clearInterval(timer);
  if (pid !== undefined) groups.delete(pid);
  return { output, problem };
}

function readReport(path: string): FileReport | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as FileReport;
  } catch {
    return undefined;
  }
}

function end(group: number | undefined, signal: 'SIGTERM' | 'SIGKILL'): void {
  if (group === undefined) return;
  try {
    process.kill(-group, signal);
  } catch {
    // Nobody of the group is left.
  }
}
