/** Prometheus' own checker of alerts. */
import { ProgramSet } from '../go/program-set.ts';

const PROMTOOL = 'github.com/prometheus/prometheus/cmd/promtool';

/** No check of a file needs service discovery, and without it promtool has a fifth less code. */
export const alertPrograms = new ProgramSet('alerts', import.meta.dirname, () => [
  { name: 'promtool', package: PROMTOOL, tags: ['netgo', 'osusergo', 'remove_all_sd'], ldflags: ['-s -w'] },
]);
