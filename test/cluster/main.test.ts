import assert from 'node:assert/strict';
import { join } from 'node:path';
import { suite } from '../suite.ts';
import { runToEnd } from '../support/process.ts';

const test = suite('cluster, command line');
const MAIN = join(import.meta.dirname, 'main.ts');

for (const [flags, says] of [
  [['--image', 'toolbox,foo'], /^--image: "foo" is no image; expected some of pause, toolbox, .*pod-network-gate/],
  [['--nodes', 'x'], /^--nodes: "x": expected a number from 0 to 99\n$/],
] as const) {
  test(`${flags.join(' ')} ends with 2 before anything starts`, async () => {
    const { code, stdout, stderr } = await runToEnd(process.execPath, [MAIN, ...flags], {
      env: { ...process.env, NO_COLOR: '1' },
    });
    assert.deepEqual({ code, stdout }, { code: 2, stdout: '' });
    assert.match(stderr, says);
  });
}
