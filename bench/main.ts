/** `npm run bench`: see --help. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { styleText } from 'node:util';
import { runInSandbox } from '../lib/userns.ts';
import { HELP, parse, type Request, UsageError } from './cli.ts';
import { goalsText, machineText, workloadText } from './print.ts';
import { run } from './run.ts';
import { parseResults, type Results } from './schema.ts';
import { workloads } from './workloads/index.ts';

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
  const results = request.from === undefined ? await measure(request) : load(request.from);
  if (typeof results === 'number') return results;
  if (results.workloads.some(({ failed }) => failed !== undefined)) return EXIT.failed;
  return results.workloads.some(({ refused }) => refused !== undefined) ? EXIT.refused : 0;
}

/** Or the exit code of the sandbox in which this whole program ran. */
async function measure(request: Request): Promise<Results | number> {
  const sandbox = await runInSandbox();
  if (sandbox.ran) return sandbox.exitCode;
  if (sandbox.lack !== undefined) throw new Error(`no network namespaces can be made here; ${sandbox.lack}`);
  const seed = request.seed ?? Math.floor(Math.random() * 2 ** 32);
  const chosen = workloads.filter(({ name }) => request.only?.includes(name) ?? true);
  const { quick, externals, plant, profile } = request;
  const onWorkload = (result: Results['workloads'][number]) => console.log(workloadText(result));
  const results = await run({ quick, workloads: chosen, externals, plant, seed, profile, onWorkload });
  console.log(machineText(results));
  console.log(goalsText(results.goals));
  const output =
    request.output ?? join(import.meta.dirname, 'results', `${results.made.replaceAll(/[:.]/g, '-')}.json`);
  mkdirSync(dirname(output), { recursive: true });
  writeFileSync(output, `${JSON.stringify(parseResults(results, 'this run'))}\n`);
  return results;
}

function load(path: string): Results {
  return parseResults(JSON.parse(readFileSync(path, 'utf8')), path);
}
