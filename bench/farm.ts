/** Fresh netns by the dozen, made and removed by a program of their own (native/toolbox). */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Coprocess } from './coprocess.ts';

export const TOOLBOX = fileURLToPath(new URL('../build/Release/toolbox', import.meta.url));

export class Farm extends Coprocess {
  readonly #folder: string;
  #made = 0;

  constructor(folder: string) {
    super(TOOLBOX, 'netns');
    this.#folder = folder;
  }

  async fresh(count: number): Promise<string[]> {
    const paths = Array.from({ length: count }, () => join(this.#folder, `pod${this.#made++}`));
    await Promise.all(paths.map((path) => this.ask(`add ${path}`)));
    return paths;
  }

  async one(): Promise<string> {
    const [path = ''] = await this.fresh(1);
    return path;
  }

  async remove(paths: readonly string[]): Promise<void> {
    await Promise.all(paths.map((path) => this.ask(`del ${path}`)));
  }

  /**
   * The kernel takes namespaces down behind our back, at about a millisecond each, and whatever runs meanwhile pays for
   * it; thousands that are left standing make each install slower.
   */
  async takeDown(paths: readonly string[]): Promise<void> {
    await this.remove(paths);
    await sleep(30 + 2 * paths.length);
  }
}
