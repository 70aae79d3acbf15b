/** The part of `npm run lint` that checks what is neither TypeScript nor C++. Arguments: names of checks; all if none. */
import { join } from 'node:path';
import { CHECKS } from './checks.ts';

const root = join(import.meta.dirname, '../..');
const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !(name in CHECKS));
if (unknown.length > 0) {
  console.error(`there is no check ${unknown.join(', ')}; expected one of ${Object.keys(CHECKS).join(', ')}`);
  process.exit(2);
}

for (const [name, check] of Object.entries(CHECKS)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  try {
    const faults = await check(root);
    for (const fault of faults) console.error(`${name}: ${fault}`);
    if (faults.length > 0) process.exitCode = 1;
    else console.log(`ok  ${name}`);
  } catch (error) {
    console.error(`${name}: ${error instanceof Error ? error.message : error}`);
    process.exitCode = 1;
  }
}
