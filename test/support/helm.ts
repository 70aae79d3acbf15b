/** The chart, as the real helm renders it. */
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import { programs } from '../cluster/programs.ts';
import { run } from './process.ts';

export const CHART = join(import.meta.dirname, '../../chart/istio-pod-network-controller');

/** The value that has no default. A file, so that other files and `--set` take precedence. */
export const IMAGE = ['--values', join(import.meta.dirname, '../fixtures/image-values.yaml')];

/** As far as every object has it. */
export interface Manifest {
  apiVersion: string;
  kind: string;
  metadata: {
    name: string;
    namespace?: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
  };
  [field: string]: unknown;
}

/** Rejects with `stderr`. */
export async function helm(...args: string[]): Promise<string> {
  const { path } = await programs(['helm']);
  // Nobody's own settings and repositories.
  const env = {
    ...process.env,
    HELM_NAMESPACE: '',
    HELM_CONFIG_HOME: '/nonexistent',
    HELM_CACHE_HOME: '/nonexistent',
    KUBECACHEDIR: '/nonexistent',
  };
  const { stdout } = await run(path('helm'), args, { env });
  return stdout;
}

/** `set`: as `--set` takes them, or further flags. */
export async function render(set: readonly string[] = [], ...flags: string[]): Promise<Manifest[]> {
  const text = await helm('template', 'mesh', CHART, ...IMAGE, ...set.flatMap((each) => ['--set', each]), ...flags);
  return parseAllDocuments(text)
    .map((document) => {
      const [error] = document.errors;
      if (error !== undefined) throw error;
      return document.toJS() as Manifest | null;
    })
    .filter((object) => object !== null);
}

/** The one of that kind. */
export function only(objects: readonly Manifest[], kind: string): Manifest {
  const [found, ...more] = objects.filter((object) => object.kind === kind);
  if (found === undefined || more.length > 0) throw new Error(`${more.length + (found ? 1 : 0)} objects of ${kind}`);
  return found;
}
