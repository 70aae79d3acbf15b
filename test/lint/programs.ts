/** The Go programs that `npm run lint` runs, beside the cluster's helm. */
import { ProgramSet } from '../go/program-set.ts';

const ACTIONLINT = 'github.com/rhysd/actionlint';

export const lintPrograms = new ProgramSet('lint', import.meta.dirname, () => [
  { name: 'actionlint', package: `${ACTIONLINT}/cmd/actionlint`, tags: [], ldflags: ['-s -w'] },
]);
