/** Installs that fail, and what must be as it was afterwards. */

import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import type { Order, Outcome } from '../fixtures/install.ts';
import type { Suite } from '../suite.ts';
import { codeOf, compile, Farm, identify, inside, TOOLBOX, toJson } from './netns.ts';
import { nodeEnvironment } from './node.ts';
import { run } from './process.ts';

/** Laid in a netns, it lets the compilation of `flags` succeed and its install fail with `code`. */
export interface Obstacle {
  flags: string[];
  code: RegExp;
  lay: (path: string) => Promise<unknown>;
}

/** For flags with TPROXY: in what both backends do alike. */
export function routeObstacles(flags: string[]): Record<string, Obstacle> {
  return {
    "the table of routes has somebody else's default": {
      flags,
      code: /^EEXIST$/,
      lay: (path) =>
        inside(path, ['ip', '-6', 'route', 'add', 'blackhole', 'default', 'table', '133', 'metric', '1024']),
    },
    'the address is refused': {
      flags,
      code: /^(EACCES|EADDRNOTAVAIL)$/,
      lay: async (path) => {
        await inside(path, ['ip', '-6', 'address', 'flush', 'dev', 'lo', 'scope', 'global']);
        await inside(path, ['sh', '-c', 'echo 1 >/proc/sys/net/ipv6/conf/lo/disable_ipv6']);
      },
    },
  };
}

/** A test that the obstacle's install changes nothing of what `look` shows, fresh or not. */
export function testObstacle(
  test: Suite,
  name: string,
  { flags, code, lay }: Obstacle,
  prepare: (path: string) => Promise<unknown>,
  look: (path: string) => Promise<string>,
): void {
  test(name, async () => {
    await using farm = new Farm('rollback');
    const compiled = await compile(...flags);
    const path = await farm.add();
    await prepare(path);
    const target = await identify(path);
    await lay(path);
    const was = await look(path);
    for (const fresh of [false, true]) {
      assert.match((await codeOf(compiled.apply(target, { fresh }))) ?? 'no error', code);
      assert.equal(await look(path), was, fresh ? 'fresh' : 'not fresh');
    }
  });
}

/** What happens to `orders` in a process that gets `specs` of `toolbox deny` denied. */
export async function denied(specs: string[], orders: Order[]): Promise<Outcome[]> {
  const program = fileURLToPath(new URL('../fixtures/install.ts', import.meta.url));
  const { stdout } = await run(TOOLBOX, ['deny', ...specs, '--', process.execPath, program, toJson(orders)], {
    env: nodeEnvironment(),
  });
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Outcome);
}
