/**
 * Reads random and damaged input with the parsers in TypeScript: test/fuzz/main.ts TARGET SECONDS, or TARGET FILE to read
 * one input again. native/fuzz/run.sh gives each target its share of the time. All input comes from one seed, which is
 * printed; IPNC_TEST_SEED uses it again.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { inspect } from 'node:util';
import { randomNumbers, testSeed } from '../support/random.ts';
import { Mutator } from './mutator.ts';
import { TARGETS, type Target } from './targets.ts';

const FOLDER = fileURLToPath(new URL('../../build/fuzz', import.meta.url));

/** Of an input, as for libFuzzer. */
const MOST_BYTES = 4096;
/** One input takes microseconds. On a busy machine it may wait for a CPU. */
const LIMIT_MS = 5000;

const [name = '', what = ''] = process.argv.slice(2);
const target = TARGETS[name];
const seconds = Number(what);
if (target === undefined || what === '') {
  console.error(`usage: node test/fuzz/main.ts ${Object.keys(TARGETS).join('|')} SECONDS|FILE`);
  process.exitCode = 2;
} else if (seconds > 0) await run(name, target, seconds);
else await target.read(readFileSync(what));

async function run(name: string, { samples, words, read }: Target, seconds: number): Promise<void> {
  const mutator = new Mutator(randomNumbers(name), words);
  const end = performance.now() + seconds * 1000;
  let runs = 0;
  for (let now = performance.now(); now < end; runs++) {
    const input = mutator.next(samples, MOST_BYTES);
    try {
      await read(input);
    } catch (error) {
      return fail(name, input, inspect(error));
    }
    const began = now;
    now = performance.now();
    if (now - began > LIMIT_MS) return fail(name, input, `this input took ${Math.round(now - began)} ms`);
  }
  console.log(`ok   ${name}: ${runs} executions in ${seconds} s, seed ${testSeed()}`);
}

function fail(name: string, input: Buffer, reason: string): void {
  mkdirSync(FOLDER, { recursive: true });
  const path = join(FOLDER, `${name}-input`);
  writeFileSync(path, input);
  console.error(`${reason}\nFAIL ${name}, seed ${testSeed()}; again with: node test/fuzz/main.ts ${name} ${path}`);
  process.exitCode = 1;
}
