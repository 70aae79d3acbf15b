import type { BuildOptions } from 'esbuild';
import { slim } from './slim.ts';

/** How the controller becomes one file, whatever its entry. */
export const BUNDLE = {
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node24',
  plugins: [slim],
  legalComments: 'none',
  // CommonJS parts of the dependencies look for these.
  banner: {
    js: [
      `import { createRequire as createRequireOfBundle } from 'node:module';`,
      'const require = createRequireOfBundle(import.meta.url);',
      'const { filename: __filename, dirname: __dirname } = import.meta;',
    ].join('\n'),
  },
} satisfies BuildOptions;
