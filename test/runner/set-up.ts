/**
 * What the runner can bring when a test file lacks it. The runner does it, since a test file's sandbox has no network;
 * the file asks over its IPC channel and waits.
 */
import { type SetUpName, setUps } from '../needs.ts';

/** From a test file: bring this. To it: what could be done for this is done. */
export interface SetUpMessage {
  need: SetUpName;
}

const attempts = new Map<SetUpName, Promise<void>>();
const failures: string[] = [];
/** One at a time: apt and the builders would wait for one another anyway. */
let last: Promise<void> = Promise.resolve();

/** What went wrong so far. Where a machine cannot have a thing at all, that is no failure. */
export function setUpFailures(): readonly string[] {
  return failures;
}

/** Brings it, once; returns when that is done, or has failed. */
export async function setUp(need: SetUpName): Promise<SetUpMessage> {
  let attempt = attempts.get(need);
  if (attempt === undefined) {
    attempt = last.then(async () => {
      const { impossible, bring } = setUps[need];
      if (impossible() !== undefined) return;
      try {
        await bring();
      } catch (error) {
        failures.push(error instanceof Error ? error.message : String(error));
      }
    });
    attempts.set(need, attempt);
    last = attempt;
  }
  await attempt;
  return { need };
}
