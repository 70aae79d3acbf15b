/** Calculates from the figures of a run what they mean for a large cluster. */
import type { Results } from './schema.ts';
import { figure } from './table.ts';

export interface Cluster {
  nodes: number;
  /** Of each node. */
  startsPerSecond: number;
}

export const LARGE: Cluster = { nodes: 5000, startsPerSecond: 10 };

export interface Reckoned {
  label: string;
  node: string;
  cluster: string;
}

/** Empty where the controller was not measured. */
export function reckon({ workloads }: Results, { nodes, startsPerSecond }: Cluster): Reckoned[] {
  const of = (name: string) => workloads.find((workload) => workload.name === name && workload.refused === undefined);
  const value = (id: string) => of('controller')?.figures.find((each) => each.id === id)?.value;
  const [patches, events, echoed, told] = [value('patches'), value('events'), value('echoed'), value('told')];
  const [cpu, rss] = [value('stand-in/cpu-a-pod'), value('start/rss')];
  if ([patches, events, echoed, told, cpu, rss].includes(undefined)) return [];
  const install = of('single')?.series.find(({ id }) => id === 'iptables-legacy/ours')?.cpu;
  const row = (label: string, each: number, unit: string, scale = 1): Reckoned => ({
    label,
    node: `${figure(each * startsPerSecond * scale)} ${unit}`,
    cluster: `${figure(each * startsPerSecond * nodes * scale)} ${unit}`,
  });
  return [
    row('API writes: a patch of the status', patches ?? 0, '/s'),
    row('API writes: Events, rate limited on each node', events ?? 0, '/s'),
    row('watch traffic that the marks add, to one watcher of the pod', echoed ?? 0, 'MB/s', 1e-6),
    row('watch traffic of those pods in all, to the node', told ?? 0, 'MB/s', 1e-6),
    row("the controller's CPU", cpu ?? 0, 'CPUs', 1e-6),
    ...(install === undefined ? [] : [row('of that, installing', install, 'CPUs', 1e-6)]),
    {
      label: "the controller's memory, 250 pods a node",
      node: `${figure(rss ?? 0)} MiB`,
      cluster: `${figure(((rss ?? 0) * nodes) / 1024)} GiB`,
    },
    {
      label: 'watches that are held open: pods of the node, and namespaces',
      node: '2',
      cluster: figure(2 * nodes),
    },
  ];
}
