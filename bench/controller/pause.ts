/**
 * From the start of a pod's pause process to rules that were read back, on a real kubelet and containerd: how long, and
 * whether the kubelet's RunPodSandbox was still waiting by then. All times are the wall clock's of one machine: containerd
 * stamps its events and its log, the controller its line about the pod.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { ControllerProcess } from '../../test/cluster/controller-process.ts';
import { Mesh, meshPod } from '../../test/cluster/mesh-pod.ts';
import { deletePod, runPod } from '../../test/cluster/pods.ts';
import { programs } from '../../test/cluster/programs.ts';

export interface PauseTimes {
  /** Milliseconds after containerd had made the pause process: before that process runs, so none is too short. */
  toRules: number[];
  /** Of those, for how many pods RunPodSandbox returned only after that. */
  beforeReturn: number;
}

/** At a time, as a kubelet under a rollout. */
const LANES = 2;

/** With the runtime's events, and with the API server alone. */
export async function pauseToRules(count: number): Promise<{ events: PauseTimes; api: PauseTimes }> {
  const mesh = await Mesh.start(['toolbox']);
  try {
    const events = await measure(mesh, count, 'events', 'auto');
    return { events, api: await measure(mesh, count, 'api', 'off') };
  } finally {
    await mesh.stop();
  }
}

async function measure(mesh: Mesh, count: number, prefix: string, source: 'auto' | 'off'): Promise<PauseTimes> {
  const created = new Map<string, number>();
  const ctr = (await programs(['ctr'])).path('ctr');
  const [command = '', ...words] = mesh.node.sandbox.enter([ctr, '--namespace', 'k8s.io', 'events']);
  const listener = spawn(command, words, { stdio: ['ignore', 'pipe', 'inherit'] });
  createInterface({ input: listener.stdout }).on('line', (line) => {
    const found = /^(\S+) (\S+) \S+ \S+ \S+ \/tasks\/create (.*)$/.exec(line);
    if (found === null) return;
    const { container_id } = JSON.parse(found[3] ?? '') as { container_id: string };
    created.set(container_id, Date.parse(`${found[1]}T${found[2]}Z`) + fraction(found[2] ?? ''));
  });
  const uids: string[] = [];
  const lines: ControllerProcess['lines'] = [];
  try {
    await using controller = await ControllerProcess.start(mesh.node, mesh.kubeconfig, '--runtime-events', source);
    let next = 0;
    const lane = async () => {
      while (next < count) {
        const body = meshPod(`${prefix}-${next++}`);
        const { metadata } = await runPod(mesh.core, body, 'shop');
        uids.push(metadata?.uid ?? '');
        await deletePod(mesh.core, metadata?.name ?? '', 'shop');
      }
    };
    await Promise.all(Array.from({ length: LANES }, lane));
    await sleep(200);
    lines.push(...controller.lines);
  } finally {
    listener.kill();
    await once(listener, 'exit');
  }
  const returned = returns(readFileSync(mesh.node.services.get('containerd')?.log ?? '', 'utf8'));
  const times: PauseTimes = { toRules: [], beforeReturn: 0 };
  for (const uid of uids) {
    const line = lines.find((line) => line.uid === uid && line.msg === 'initialized');
    const sandbox = returned.get(uid);
    const start = created.get(sandbox?.id ?? '');
    if (line === undefined || sandbox === undefined || start === undefined) throw new Error(`not told of pod ${uid}`);
    // The line is stamped in whole milliseconds, rounded down, and written once the mark is.
    const rules = Date.parse(line.time) + 1 - (line.us?.mark ?? 0) / 1000;
    times.toRules.push(rules - start);
    if (rules < sandbox.at) times.beforeReturn++;
  }
  return times;
}

/** By pod uid: `time="..." level=info msg="RunPodSandbox for name:\"..\" uid:\"..\" ... returns sandbox id \"..\""`. */
function returns(log: string): Map<string, { id: string; at: number }> {
  const found = new Map<string, { id: string; at: number }>();
  const pattern = /^time="([^"]+)".*RunPodSandbox for .*uid:\\"([^"\\]+)\\".* returns sandbox id \\"([0-9a-f]+)\\"/gm;
  for (const [, time = '', uid = '', id = ''] of log.matchAll(pattern)) {
    found.set(uid, { id, at: Date.parse(time) + fraction(time) });
  }
  return found;
}

/** What Date.parse() leaves out of `12:00:01.123456789Z`, milliseconds. */
function fraction(time: string): number {
  const digits = /\.(\d+)/.exec(time)?.[1] ?? '';
  return Number(`0.${digits.slice(3) || '0'}`);
}
