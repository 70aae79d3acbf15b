/** Pods as Istio and the original controller inject them today: test/fixtures/pods. */
import { globSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { parse } from 'yaml';

const FOLDER = new URL('../fixtures/pods/', import.meta.url);

export const fixtures = globSync('*.yaml', { cwd: FOLDER }).map((file) => basename(file, '.yaml'));

/** As the API server sends it, a copy of its own each time. */
export function fixture(name: string): unknown {
  return parse(readFileSync(new URL(`${name}.yaml`, FOLDER), 'utf8'));
}
