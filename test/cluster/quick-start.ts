/** Reads the commands of docs/quick-start.md, and runs them in a cluster of the tests. */
import assert from 'node:assert/strict';
import { readFileSync, symlinkSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { run } from '../support/process.ts';
import { scratchFolder } from '../support/scratch.ts';
import type { ControlPlane } from './control-plane.ts';
import { programs } from './programs.ts';

const ROOT = join(import.meta.dirname, '../..');

/** In place of the clone, so that no command writes a file into it. */
export function folderWithChart(): string {
  const folder = scratchFolder('quick-start');
  symlinkSync(join(ROOT, 'chart'), join(folder, 'chart'));
  return folder;
}

/** Each line of the section's blocks of code. */
export function commandsOf(heading: string): string[] {
  const [, section = ''] = readFileSync(join(ROOT, 'docs/quick-start.md'), 'utf8').split(`\n## ${heading}\n`);
  const [before = ''] = section.split('\n## ');
  const commands = [...before.matchAll(/^```sh\n(.*?)^```/gms)].flatMap(([, block = '']) => block.trim().split('\n'));
  assert.notEqual(commands.length, 0, heading);
  return commands;
}

/** Resolves with what the command wrote to stdout. `env`: variables in addition. */
export async function shellIn(
  folder: string,
  { kubeconfig }: Pick<ControlPlane, 'kubeconfig'>,
  command: string,
  env: NodeJS.ProcessEnv = {},
): Promise<string> {
  const { path } = await programs(['helm', 'kubectl']);
  const all = {
    ...process.env,
    PATH: [dirname(path('helm')), dirname(path('kubectl')), process.env.PATH].join(delimiter),
    KUBECONFIG: kubeconfig,
    HELM_CONFIG_HOME: folder,
    HELM_CACHE_HOME: folder,
    KUBECACHEDIR: folder,
    ...env,
  };
  const { stdout } = await run('/bin/sh', ['-ec', command], { env: all, cwd: folder });
  return stdout;
}
