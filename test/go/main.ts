/** `npm run programs`: sets up the Go programs that tests, bench and demo use, where they are not there yet. */
import { parseArgs, styleText } from 'node:util';
import { alertPrograms } from '../alerts/programs.ts';
import { clusterLack, clusterPrograms, prepareCluster } from '../cluster/programs.ts';
import { lintPrograms } from '../lint/programs.ts';
import { meshLack, meshPrograms, prepareMesh } from '../mesh/programs.ts';
import type { ProgramSet } from './program-set.ts';

interface Choice {
  set: ProgramSet;
  /** Brings the programs and all that they need to run. */
  prepare(): Promise<void>;
  /** What is missing, in words, or undefined. */
  lack(): string | undefined;
}

const CHOICES: Choice[] = [
  { set: clusterPrograms, prepare: prepareCluster, lack: clusterLack },
  { set: meshPrograms, prepare: prepareMesh, lack: meshLack },
  { set: lintPrograms, prepare: () => lintPrograms.build(), lack: () => lintPrograms.lack('actionlint') },
  { set: alertPrograms, prepare: () => alertPrograms.build(), lack: () => alertPrograms.lack('promtool') },
];
const NAMES = CHOICES.map(({ set }) => set.name).join(', ');

const HELP = `Builds the Go programs that tests, benchmark and demo use. As root on Debian it also installs what they need.
This is necessary once on each machine.

  npm run programs                    all sets: ${NAMES}
  npm run programs -- cluster         one set
  npm run programs -- cluster helm    only the named programs of a set
  npm run programs -- --check ...     changes nothing; exit code 1 if something is missing`;

try {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { help: { type: 'boolean', short: 'h' }, check: { type: 'boolean' } },
  });
  if (values.help) console.log(HELP);
  else await main(positionals, values.check === true);
} catch (error) {
  console.error(styleText('red', error instanceof Error ? error.message : String(error)));
  process.exitCode = 1;
}

async function main([wanted, ...names]: string[], check: boolean): Promise<void> {
  const chosen = CHOICES.filter(({ set }) => wanted === undefined || wanted === set.name);
  if (chosen.length === 0) throw new Error(`there is no set ${wanted}; expected one of ${NAMES}`);
  for (const { set, prepare, lack } of chosen) {
    if (check) {
      const missing = set.missing(names).map(({ name }) => name);
      const said = names.length === 0 ? lack() : missing.length > 0 && `${set.name}: not built: ${missing.join(', ')}`;
      if (said) throw new Error(said);
    } else if (names.length > 0) {
      await set.build(names);
    } else {
      await prepare();
    }
    console.log(set.folder);
  }
}
