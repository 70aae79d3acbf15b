/** Others' ways: a process, or one for each rule, started in the netns by nsenter. */
import type { Driver } from './driver.ts';
import type { Floors } from './floors.ts';

type Options = Pick<Driver, 'name' | 'title' | 'backend' | 'stands'> & {
  /** What bench/drivers.cc is told to do. */
  words: (path: string) => string[];
};

export function processes(floors: Floors, { words, ...rest }: Options): Driver {
  return {
    ...rest,
    pace: 'slow',
    ours: false,
    prepare: async () => {},
    install: (path) => floors.do(...words(path)),
    usage: () => floors.usage('children'),
  };
}
