/**
 * No application runs before its rules are active, whatever is killed, stopped or restarted while pods start. Each
 * application dials an address outside of its pod once, as its first act. A process on the node listens there and
 * records who reaches it.
 */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { V1Pod } from '@kubernetes/client-node';
import { TOOLBOX } from '../../lib/demo/toolbox.ts';
import { suite } from '../suite.ts';
import { pidsOf } from '../support/proc.ts';
import { launch } from '../support/process.ts';
import { randomNumbers } from '../support/random.ts';
import { ControllerProcess } from './controller-process.ts';
import { Mesh, MOUNTED_GATE, NAMESPACE, sidecarPod } from './mesh-pod.ts';
import { deletePod, until } from './pods.ts';

/** Pods that start at once. */
const BATCH = 10;
/** In all; a long run says how many. */
const STARTS = Number(process.env.IPNC_BYPASS_STARTS ?? BATCH);
const PORT = 7777;

const test = suite('cluster, bypass');
test.needs('cluster', 'addon', 'gate', 'toolbox');

let mesh: Mesh;
let controller: ControllerProcess | undefined;
let outside: ChildProcess;
/** Addresses with ports of those who reached the listener. */
const reached: string[] = [];

test.before(async () => {
  mesh = await Mesh.start(['toolbox', 'pod-network-gate'], {
    kubeletConfiguration: { crashLoopBackOff: { maxContainerRestartPeriod: '2s' } },
  });
  const serve = [TOOLBOX, 'serve', '--name', 'outside', '--tcp', String(PORT)];
  outside = launch('nsenter', ['--target', String(mesh.node.sandbox.pid), '--net', '--', ...serve], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines = createInterface(outside.stdout as NonNullable<ChildProcess['stdout']>);
  const listening = Promise.withResolvers<void>();
  lines.on('line', (line) => {
    const { event, from } = JSON.parse(line) as { event: string; from: string };
    if (event === 'listening') listening.resolve();
    else reached.push(from);
  });
  await listening.promise;
});
test.after.each(async () => {
  await controller?.stop('SIGKILL');
  controller = undefined;
  reached.length = 0;
});
test.after(async () => {
  outside?.kill();
  await mesh?.stop();
});

async function startController(): Promise<void> {
  controller = await ControllerProcess.start(mesh.node, mesh.kubeconfig, '--resync', '1s');
}

function create(name: string, guarded: boolean, family: 'v4' | 'v6' = 'v4'): Promise<V1Pod> {
  const app = ['dial', '--timeout', '5000', 'tcp', mesh.node.network.address[family], String(PORT), name];
  return mesh.core.createNamespacedPod({ namespace: NAMESPACE, body: sidecarPod(name, { app, guarded }) });
}

/** The pid of a gate that is found within a second; undefined if there is none. */
async function gateThat(suits: (pid: number) => boolean): Promise<number | undefined> {
  for (let look = 0; look < 200; look++) {
    const gate = pidsOf((words) => words[0] === MOUNTED_GATE).find(suits);
    if (gate !== undefined) return gate;
    await sleep(5);
  }
  return undefined;
}

/** Whether the kernel continues it when it is stopped: from just after its start until it becomes the proxy. */
function keepsRunning(pid: number | undefined): boolean {
  try {
    return readFileSync(`/proc/${pid}/timers`, 'utf8').includes('signal: 18');
  } catch {
    return false;
  }
}

/** To a process that may have ended meanwhile. */
function send(signal: NodeJS.Signals, pid: number | undefined): void {
  try {
    if (pid !== undefined) process.kill(pid, signal);
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'ESRCH');
  }
}

for (const program of ['kubelet', 'containerd']) {
  test(
    `a hook without the gate in front of the proxy is found to be a hole when ${program} is restarted`,
    async () => {
      const name = `planted-${program}`;
      await create(name, false);
      const hook = async () => pidsOf((words) => words[0] === MOUNTED_GATE && words.includes('60s')).length;
      await until('waiting: the hook', hook, (count) => count > 0);
      await sleep(500);
      const service = mesh.node.services.get(program);
      await service?.kill();
      service?.start();
      await until(
        'reached: the address outside',
        async () => reached.length,
        (count) => count > 0,
        60_000,
      );
      await deletePod(mesh.core, name, NAMESPACE);
    },
    { timeoutMs: 120_000 },
  );
}

test(
  'whatever is killed, stopped or restarted while pods start, none reaches the outside',
  async () => {
    const random = randomNumbers('bypass');
    const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T;
    const counts: Record<string, number> = { starts: 0, captured: 0, again: 0 };
    const count = (what: string) => {
      counts[what] = (counts[what] ?? 0) + 1;
    };
    const service = (name: string) => {
      const found = mesh.node.services.get(name);
      assert.ok(found);
      return found;
    };
    const faults: Record<string, () => Promise<void>> = {};
    for (const name of ['kubelet', 'containerd']) {
      faults[`${name} killed`] = async () => {
        await service(name).kill();
        await sleep(pick([0, 0, 100, 1000]));
        service(name).start();
      };
      faults[`${name} stopped`] = async () => {
        const resume = service(name).freeze();
        await sleep(50 + 2000 * random());
        resume();
      };
    }
    faults['controller killed'] = async () => {
      await controller?.stop('SIGKILL');
      await sleep(pick([0, 500, 3000]));
      await startController();
    };
    faults['gate killed'] = async () => send('SIGKILL', await gateThat(() => true));
    faults['gate stopped'] = async () => {
      const gate = await gateThat(keepsRunning);
      send('SIGSTOP', gate);
      await sleep(20);
      // It goes on by itself. The proxy that it may have become just then does not.
      if (!keepsRunning(gate)) send('SIGCONT', gate);
    };
    await startController();
    for (let batch = 0; (counts.captured ?? 0) < STARTS; batch++) {
      const names = Array.from({ length: BATCH }, (_, at) => `p${batch}-${at}`);
      for (const [at, name] of names.entries()) await create(name, true, at % 2 === 0 ? 'v4' : 'v6');
      const happened: string[] = [];
      for (let left = 3; left > 0; left--) {
        await sleep(1500 * random());
        const fault = pick(Object.keys(faults));
        count(fault);
        happened.push(fault);
        await faults[fault]?.();
      }
      const pods = async () => {
        // They are started again, as by systemd: a kubelet ends if the runtime is still starting.
        for (const name of ['kubelet', 'containerd']) if (service(name).ended()) service(name).start();
        return (await mesh.core.listNamespacedPod({ namespace: NAMESPACE })).items;
      };
      const over = await until(
        'over: all pods of the batch',
        pods,
        (items) => items.every(({ status }) => status?.phase === 'Succeeded') || reached.length > 0,
        90_000,
      ).catch((error: Error) => {
        const logs = ['kubelet', 'containerd'].map((name) => readFileSync(service(name).log, 'utf8').slice(-5000));
        throw new Error(`after ${happened.join(', ')}: ${error.message}\n${logs.join('\n\n')}`);
      });
      assert.deepEqual(reached, [], `${JSON.stringify(counts)}: reached the outside`);
      for (const { status } of over) {
        count('starts');
        if ((status?.initContainerStatuses?.[0]?.restartCount ?? 0) > 0) count('again');
      }
      for (const name of names) {
        const log = await mesh.core.readNamespacedPodLog({ namespace: NAMESPACE, name, container: 'app' });
        // A runtime that was killed may have lost an ended container and its log. This start does not count.
        if (log.startsWith('unable to retrieve container logs')) {
          count('without a log');
          continue;
        }
        assert.match(log, /"reply":"HTTP\/1\.1 200 OK 15001 |ECONNREFUSED/, name);
        count('captured');
      }
      await mesh.core.deleteCollectionNamespacedPod({ namespace: NAMESPACE });
      await until('gone: the batch', pods, (items) => items.length === 0, 60_000);
    }
    console.log(JSON.stringify(counts));
  },
  { timeoutMs: 30_000 * STARTS },
);
