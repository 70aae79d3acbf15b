/** The floors: the bare system calls, from C++; what no program can go below. */
import { type Compiled, native } from '../../lib/native/addon.ts';
import type { Driver } from './driver.ts';
import type { Floors } from './floors.ts';
import { holds } from './rules.ts';

type Options = Pick<Driver, 'name' | 'title' | 'backend'> & {
  compiled: Compiled;
  /** By which the program keeps what it replays. */
  key?: string;
  /** Adds `::6/128` to lo as well, without which IPv6 is not whole. */
  address?: boolean;
};

/** What was read of a netns once is replayed. */
export function floor(floors: Floors, options: Options): Driver {
  const { name, title, backend, compiled, key = `${backend}/${name}`, address = false } = options;
  const verb = backend === 'nftables' ? 'send' : 'replay';
  return {
    name,
    title,
    backend,
    pace: 'fast',
    ours: false,
    prepare: async (freshNetns) => {
      const path = await freshNetns();
      await compiled.apply(await native().identify(path));
      await floors.do(backend === 'nftables' ? 'read' : 'template', key, path);
    },
    install: (path) => floors.do(address ? `${verb}+address` : verb, key, path),
    stands: (path) => holds(compiled, path),
    usage: () => floors.usage('own'),
  };
}
