/** `npm run bench`: see --help. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { styleText } from 'node:util';
import { canBecome, runInSandbox, UID_MAP_REMEDY } from '../lib/demo/userns.ts';
import { HELP, parse, type Request, UsageError } from './cli.ts';
import { compare, comparisonText } from './compare.ts';
import { goalsText, machineText, workloadText } from './print.ts';
import { publish } from './publish.ts';
import { reportPage } from './report/html.ts';
import { run } from './run.ts';
import { parseResults, type Results } from './schema.ts';
import { workloads } from './workloads/index.ts';

/** As which the proxy runs. */
const PROXY = 1337;
const EXIT = { failed: 1, usage: 2, refused: 3 };

try {
  process.exitCode = await main();
} catch (error) {
  console.error(styleText('red', error instanceof Error ? error.message : String(error)));
  if (!(error instanceof UsageError)) console.error(error);
  process.exitCode = error instanceof UsageError ? EXIT.usage : EXIT.failed;
}

async function main(): Promise<number> {
  const request = parse(
    process.argv.slice(2),
    workloads.map(({ name }) => name),
  );
  if (request === 'help') {
    console.log(HELP.replace('WORKLOADS', workloads.map(({ name }) => name).join(', ')));
    return 0;
  }
  if (request.compare !== undefined) {
    const [before, after] = request.compare.map(load);
    if (before === undefined || after === undefined) throw new Error('two runs are needed');
    const comparison = compare(before, after);
    console.log(comparisonText(comparison));
    return comparison.changes.some(({ verdict }) => verdict === 'slower') ? EXIT.failed : 0;
  }
  const results = request.from === undefined ? await measure(request) : show(load(request.from));
  if (typeof results === 'number') return results;
  if (request.output === '-') console.log(`\n${lineOf(results)}`);
  else write(results, request);
  if (request.publish) console.log(`Published: ${publish(results, join(import.meta.dirname, '..')).join(', ')}`);
  if (results.workloads.some(({ failed }) => failed !== undefined)) return EXIT.failed;
  return results.workloads.some(({ refused }) => refused !== undefined) ? EXIT.refused : 0;
}

function write(results: Results, { output, from }: Request): void {
  const path = output ?? from ?? join(import.meta.dirname, 'results', `${stamp(results)}.json`);
  mkdirSync(dirname(path), { recursive: true });
  if (from === undefined) writeFileSync(path, `${lineOf(results)}\n`);
  const report = path.replace(/(\.json)?$/, '.html');
  writeFileSync(report, reportPage(results));
  console.log(`\nResults: ${relative('', path)}, report: ${relative('', report)}`);
}

/** Or the exit code of the sandbox in which this whole program ran. */
async function measure(request: Request): Promise<Results | number> {
  const sandbox = await runInSandbox();
  if (sandbox.ran) return sandbox.exitCode;
  if (sandbox.lack !== undefined) throw new Error(`no network namespaces can be made here; ${sandbox.lack}`);
  if (!canBecome(PROXY))
    throw new Error(`Istio's rules name uid ${PROXY}, which is not mapped here; ${UID_MAP_REMEDY}`);
  const seed = request.seed ?? Math.floor(Math.random() * 2 ** 32);
  const chosen = workloads.filter(({ name, apart }) => request.only?.includes(name) ?? apart !== true);
  const { quick, externals, plant, profile, starts, rate } = request;
  const onWorkload = (result: Results['workloads'][number]) => console.log(workloadText(result));
  const results = await run({ quick, workloads: chosen, externals, plant, seed, profile, starts, rate, onWorkload });
  summarize(results);
  return results;
}

function show(results: Results): Results {
  for (const workload of results.workloads) console.log(workloadText(workload));
  summarize(results);
  return results;
}

/** Goals are those of a whole run: a part, or a quick one, shows what it has. */
function summarize(results: Results): void {
  console.log(`\n${machineText(results)}`);
  const ran = new Set(results.workloads.map(({ name }) => name));
  const whole = results.mode === 'full' && workloads.every(({ name, apart }) => apart === true || ran.has(name));
  const goals = whole ? results.goals : results.goals.filter(({ met }) => met !== undefined);
  if (goals.length > 0) console.log(goalsText(goals));
}

function stamp({ made }: Results): string {
  return made.replaceAll(/[:.]/g, '-');
}

/** As they are written, and found again among other lines. */
function lineOf(results: Results): string {
  return JSON.stringify(parseResults(results, 'this run'));
}

/** Results, or the log of a run that ends with them. Throws UsageError where there is no such file, or neither is in it. */
function load(path: string): Results {
  try {
    const text = readFileSync(path, 'utf8');
    const [line] = /^\{"schema":.*$/m.exec(text) ?? [];
    if (line === undefined && !text.startsWith('{')) throw new Error('no results; a log has them in its last line');
    return parseResults(JSON.parse(line ?? text), path);
  } catch (error) {
    throw new UsageError(`${path}: ${(error as Error).message.replace(`${path}: `, '')}`);
  }
}
