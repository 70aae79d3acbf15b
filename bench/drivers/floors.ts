/** The program that does the floors and starts the processes of others (bench/drivers.cc). */
import { fileURLToPath } from 'node:url';
import { Coprocess } from '../coprocess.ts';
import type { Usage } from './driver.ts';

const PROGRAM = fileURLToPath(new URL('../../build/Release/drivers', import.meta.url));

export class Floors extends Coprocess {
  constructor() {
    super(PROGRAM);
  }

  /** Microseconds. No word may contain a blank. */
  async do(...words: string[]): Promise<number> {
    return Number(await this.ask(words.join(' '))) / 1000;
  }

  /** `whose`: this process's own, or that of the processes it started. */
  async usage(whose: 'own' | 'children'): Promise<Usage> {
    const [cpu = 0, own = 0, children = 0] = (await this.ask('usage')).split(' ').map(Number);
    return { cpu, rss: (whose === 'own' ? own : children) / 1024 };
  }
}
