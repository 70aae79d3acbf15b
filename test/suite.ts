/**
 * `suite()` of uvu, for tests that may not fail silently.
 *
 * uvu 0.5.6 exits 0 when a hook throws, when a test throws something that is not an Error, and when a suite is never
 * run; it has no time limits. Here all of these fail, a file's suites run by themselves once the file is loaded, and
 * a test that is skipped says what it lacks.
 */
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { inspect, styleText } from 'node:util';
import { suite as uvu } from 'uvu';
import { forget, lacking, toSetUp } from './needs.ts';
import type { SetUpMessage } from './runner/set-up.ts';
import { isOver } from './support/patience.ts';
import { takeOutput } from './support/process.ts';
import { usedSeed } from './support/random.ts';

interface TestOptions {
  /** Time limit on an idle machine; 20 s if absent. */
  timeoutMs?: number;
  /** What must be there, or the test is skipped: a name known to needs.ts, or a command. */
  needs?: string[];
}

type Body = () => unknown;

interface HookRegistrar {
  (hook: Body): void;
  /** Runs around each test, in the order of registration. */
  each(hook: Body): void;
}

export interface Suite {
  (name: string, body: Body, options?: TestOptions): void;
  before: HookRegistrar;
  after: HookRegistrar;
  /** What every test of the suite needs. */
  needs(...needs: string[]): void;
}

/** What a test file tells the runner. A file that ends without one has crashed. */
export interface FileReport {
  passed: number;
  failed: number;
  skipped: { suite: string; test: string; reason: string }[];
  /** Tests that --grep leaves out. */
  unmatched: number;
}

const TEST_LIMIT_MS = 20_000;
const HOOK_LIMIT_MS = 60_000;
/** How long a file may linger after its last test, for handles to close. */
const LINGER_MS = 5_000;

interface Registered {
  name: string;
  tests: { name: string; body: Body; options: TestOptions }[];
  needs: string[];
  before: Body[];
  after: Body[];
  beforeEach: Body[];
  afterEach: Body[];
}

// A sanitizer's runtime is for this process, not for the programs that it starts (support/node.ts).
delete process.env.LD_PRELOAD;

const suites: Registered[] = [];
const report: FileReport = { passed: 0, failed: 0, skipped: [], unmatched: 0 };
let started = false;
/** Suites that have not come to their end. */
let running = 0;

export function suite(name: string): Suite {
  const registered: Registered = { name, tests: [], needs: [], before: [], after: [], beforeEach: [], afterEach: [] };
  if (suites.length === 0 && !started) setImmediate(start);
  register(() => suites.push(registered));
  const test = (name: string, body: Body, options: TestOptions = {}) =>
    register(() => registered.tests.push({ name, body, options }));
  return Object.assign(test, {
    before: hook(registered.before, registered.beforeEach),
    after: hook(registered.after, registered.afterEach),
    needs: (...needs: string[]) => register(() => registered.needs.push(...needs)),
  });
}

function hook(all: Body[], each: Body[]): HookRegistrar {
  return Object.assign((body: Body) => register(() => all.push(body)), {
    each: (body: Body) => register(() => each.push(body)),
  });
}

function register(add: () => void): void {
  if (started) {
    const late = new Error('registered after the tests had started, so it would never run');
    fail('(file)', late);
    throw late;
  }
  add();
}

/** The import is of the file being run, and settles when the whole of it, its top-level awaits included, is done. */
async function start(): Promise<void> {
  if (process.argv[1] !== undefined) await import(pathToFileURL(process.argv[1]).href);
  started = true;
  const chosen = suites.filter(matches);
  running = chosen.length;
  process.on('exit', finish);
  await setUp(chosen);
  for (const registered of chosen) runSuite(registered);
  if (running === 0) linger();
}

/** Whether --grep leaves anything of a suite; takes away the tests that it leaves out. */
function matches(registered: Registered): boolean {
  const words = process.env.IPNC_TEST_GREP?.toLowerCase();
  if (words === undefined || registered.tests.length === 0) return true;
  const all = registered.tests;
  registered.tests = all.filter(({ name }) => `${registered.name}, ${name}`.toLowerCase().includes(words));
  report.unmatched += all.length - registered.tests.length;
  return registered.tests.length > 0;
}

/** Asks the runner for what the tests need and this machine lacks; it takes minutes the first time. */
async function setUp(suites: Registered[]): Promise<void> {
  if (process.send === undefined) return;
  const needs = suites.flatMap(({ tests, needs }) => needs.concat(tests.flatMap(({ options }) => options.needs ?? [])));
  for (const need of toSetUp(needs)) {
    const done = once(process, 'message');
    process.send({ need } satisfies SetUpMessage);
    await done;
    forget(need);
  }
  process.disconnect();
}

function runSuite({ name, tests, needs, before, after, beforeEach, afterEach }: Registered): void {
  const run = uvu(name);
  let set: Promise<void> | undefined;
  if (tests.length === 0) {
    run('(suite)', () => {
      report.failed++;
      throw new Error('the suite has no test');
    });
  }
  for (const { name: test, body, options } of tests) {
    const reason = [...needs, ...(options.needs ?? [])].map(lacking).find((lack) => lack !== undefined);
    if (reason !== undefined) {
      report.skipped.push({ suite: name, test, reason });
      run.skip();
      continue;
    }
    run(test, async () => {
      const errors: Error[] = [];
      const attempt = async (what: string, step: () => Promise<void>) => {
        try {
          await step();
        } catch (thrown) {
          errors.push(asError(thrown, what));
        }
      };
      await attempt('before', () => {
        set ??= inTurn('before', before);
        return set;
      });
      if (errors.length === 0) {
        await attempt('before.each', () => inTurn('before.each', beforeEach));
        if (errors.length === 0) {
          await attempt('', () => within(options.timeoutMs ?? TEST_LIMIT_MS, 'the test', body));
        }
        await attempt('after.each', () => inTurn('after.each', afterEach));
      }
      const [first, ...rest] = errors;
      const output = takeOutput();
      if (first === undefined) {
        report.passed++;
        return;
      }
      report.failed++;
      for (const error of rest) console.error(styleText('red', `\n${name}, ${test}: and then ${error.message}`));
      if (output !== '') console.error(`\n${name}, ${test}: programs of this test:\n${output}`);
      throw first;
    });
  }
  run.after(async () => {
    try {
      if (set !== undefined) await inTurn('after', after);
    } catch (thrown) {
      fail(name, asError(thrown, 'after'));
    }
  });
  run.after(() => {
    if (--running === 0) linger();
  });
  run.run();
}

async function inTurn(what: string, hooks: Body[]): Promise<void> {
  for (const hook of hooks) await within(HOOK_LIMIT_MS, what, hook);
}

/** Starts `body` and waits for it no longer than `limit`. What it goes on doing after that is not waited for. */
async function within(limit: number, what: string, body: Body): Promise<void> {
  const began = performance.now();
  let timer: NodeJS.Timeout | undefined;
  const expired = new Promise<never>((_, reject) => {
    timer = setInterval(() => {
      if (isOver(began, limit)) reject(new Error(`${what} took longer than its limit of ${limit} ms`));
    }, limit);
  });
  try {
    await Promise.race([body(), expired]);
  } finally {
    clearInterval(timer);
  }
}

/** uvu prints only what has a name, a message and a stack, and breaks on anything else. */
function asError(thrown: unknown, hook: string): Error {
  const printable = thrown instanceof Error && typeof thrown.name === 'string' && typeof thrown.stack === 'string';
  const error = printable ? thrown : new Error(`the thrown value is not an Error: ${inspect(thrown)}`);
  if (hook !== '' && !error.message.startsWith(hook)) {
    const prefixed = new Error(`${hook}: ${error.message}`, { cause: error });
    if (error.stack !== undefined) prefixed.stack = error.stack;
    return prefixed;
  }
  return error;
}

/** A failure that belongs to no test. */
function fail(where: string, error: Error): void {
  report.failed++;
  process.exitCode = 1;
  console.error(styleText('red', `\n  FAIL ${where}: ${error.stack ?? error.message}\n`));
}

/** Fires only while something else keeps the process alive. */
function linger(): void {
  setTimeout(() => {
    const resources = [...new Set(process.getActiveResourcesInfo())].join(', ');
    fail('(file)', new Error(`the tests have ended, but the process does not end; still open: ${resources}`));
    process.exit(1);
  }, LINGER_MS).unref();
}

function finish(): void {
  if (running > 0) fail('(file)', new Error('the process ended before its tests did'));
  for (const { suite, test, reason } of report.skipped) {
    console.log(styleText('yellow', `  SKIPPED ${suite}, ${test}: ${reason}`));
  }
  if (report.failed > 0) {
    process.exitCode = 1;
    const seed = usedSeed();
    const file = process.argv[1] === undefined ? '' : ` ${relative(process.cwd(), process.argv[1])}`;
    if (seed !== undefined) console.error(`With the same random input: IPNC_TEST_SEED=${seed} npm test --${file}`);
  }
  if (process.env.IPNC_TEST_REPORT !== undefined) {
    writeFileSync(process.env.IPNC_TEST_REPORT, JSON.stringify(report));
  }
}
