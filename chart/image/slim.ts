/**
 * Of @kubernetes/client-node the controller uses KubeConfig alone. A bundle of all of it holds a thousand models of the
 * API and undici as well, which cost 25 MB of memory at the start and never run: requests are those of
 * lib/kube/client.ts.
 */
import { fileURLToPath } from 'node:url';
import type { Plugin } from 'esbuild';

const CONFIG = fileURLToPath(new URL('config.js', import.meta.resolve('@kubernetes/client-node')));

/** All that config.js takes from there. Another version that takes more fails to build. */
const LEFT_OUT: Record<string, string[]> = {
  undici: ['Agent', 'ProxyAgent'],
  './gen/index.js': ['createConfiguration', 'ServerConfiguration'],
};

export const slim: Plugin = {
  name: 'slim',
  setup(build) {
    build.onResolve({ filter: /^@kubernetes\/client-node$/ }, () => ({ path: CONFIG }));
    build.onResolve({ filter: /^(undici|\.\/gen\/index\.js)$/ }, ({ path, importer }) =>
      importer === CONFIG ? { path, namespace: 'left-out' } : undefined,
    );
    build.onLoad({ filter: /.*/, namespace: 'left-out' }, ({ path }) => {
      const stub = (name: string) => `export function ${name}() { throw new Error('${name} is not in this bundle'); }`;
      return { contents: LEFT_OUT[path]?.map(stub).join('\n') ?? '' };
    });
  },
};
