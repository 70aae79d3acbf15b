/** The Go programs that `npm run lint` runs, beside the cluster's helm. */
import { ProgramSet } from '../go/program-set.ts';

const ACTIONLINT = 'github.com/rhysd/actionlint';

export const lintPrograms = new ProgramSet('lint', import.meta.dirname, () => [
  { name: 'actionlint', package: `${ACTIONLINT}/cmd/actionlint`, tags: [], ldflags: ['-s -w'] },
]);

/** Why there is no actionlint, in words, or undefined. */
export function actionlintLack(): string | undefined {
  if (lintPrograms.missing().length === 0) return undefined;
  return 'no actionlint: it is not built; run "npm run programs -- lint"';
}
