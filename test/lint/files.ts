/** The files of a working tree that a check reads: not what set-up brings, nor what a build makes. */
import { globSync } from 'node:fs';

const MADE = /(^|\/)(node_modules|build|\.git)$/;

/**
 * Paths relative to `root`, sorted.
 *
 * @param patterns `**` leaves out folders whose name begins with a dot; name these in the pattern
 */
export function filesIn(root: string, ...patterns: string[]): string[] {
  return globSync(patterns, { cwd: root, exclude: (name) => MADE.test(name) }).sort();
}
