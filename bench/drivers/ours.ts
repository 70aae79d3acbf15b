/** Ours: the addon, called from JavaScript. */
import { type Compiled, native } from '../../lib/native/addon.ts';
import { type Driver, timed } from './driver.ts';
import { holds } from './rules.ts';

type Options = Pick<Driver, 'name' | 'title' | 'backend'> & {
  compiled: Compiled;
  /** Whether finding out what netns it is belongs to it. */
  identify?: boolean;
};

export function ours({ name, title, backend, compiled, identify = false }: Options): Driver {
  return {
    name,
    title,
    backend,
    pace: 'fast',
    ours: true,
    prepare: async () => {},
    install: async (path) => {
      if (identify)
        return timed(async () => compiled.apply(await native().identify(path, { fresh: true }), { fresh: true }));
      const target = await native().identify(path, { fresh: true });
      return timed(() => compiled.apply(target, { fresh: true }));
    },
    stands: (path) => holds(compiled, path),
    usage: async () => {
      const { user, system } = process.cpuUsage();
      return { cpu: user + system, rss: process.memoryUsage.rss() / 2 ** 20 };
    },
  };
}
