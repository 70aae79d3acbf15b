/** All workloads, in the order in which they run. Another one is a file beside these, and a line here. */
import { churn } from './churn.ts';
import { cold } from './cold.ts';
import { concurrency } from './concurrency.ts';
import { connection } from './connection.ts';
import { controller } from './controller.ts';
import { endToEnd } from './end-to-end.ts';
import { gate } from './gate.ts';
import { live } from './live.ts';
import { mesh } from './mesh.ts';
import { sandbox } from './sandbox.ts';
import { scale } from './scale.ts';
import { single } from './single.ts';
import { size } from './size.ts';
import { soak } from './soak.ts';
import { sweep } from './sweep.ts';
import type { Workload } from './workload.ts';

export const workloads: readonly Workload[] = [
  single,
  concurrency,
  churn,
  live,
  sweep,
  size,
  gate,
  connection,
  controller,
  endToEnd,
  sandbox,
  mesh,
  scale,
  cold,
  soak,
];
