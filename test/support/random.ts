/**
 * Random input of tests. All of it comes from one seed, which a failure prints with the command that uses it again
 * (test/suite.ts): IPNC_TEST_SEED, or one that is new in each process.
 */
import { seeded } from '../../bench/statistics.ts';

let seed: number | undefined;

/** Of this process, from 0 to 4294967295. */
export function testSeed(): number {
  seed ??= Number(process.env.IPNC_TEST_SEED ?? Math.floor(Math.random() * 2 ** 32));
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) {
    throw new Error(`IPNC_TEST_SEED: "${process.env.IPNC_TEST_SEED}": expected a whole number from 0 to 4294967295`);
  }
  return seed;
}

/** The seed, if any test of this process has asked for it. */
export function usedSeed(): number | undefined {
  return seed;
}

/** Numbers from 0 up to 1, the same for the same seed and purpose. */
export function randomNumbers(purpose: string): () => number {
  let own = testSeed();
  for (const character of purpose) own = Math.imul(own ^ (character.codePointAt(0) ?? 0), 0x01000193);
  return seeded(own).next;
}
