/** Churn through the real API server, control plane alone: pods are bound by `spec.nodeName`, and end when deleted. */
import { setTimeout as sleep } from 'node:timers/promises';
import { NETNS } from '../../lib/istio/names.ts';
import { entriesOf } from '../../lib/kube/encoding.ts';
import { Informer } from '../../lib/kube/informer.ts';
import { coreApi, startControlPlane } from '../../test/cluster/control-plane.ts';
import { kubeOf } from '../../test/support/kubeconfig.ts';
import type { Sandboxes } from './churn.ts';
import { NAMESPACE, NODE, podToCreate } from './pods.ts';
import { Prober } from './stand-in.ts';
import type { Subject } from './subject.ts';

/** Pods that stand at a time, beside those on their way. */
const LIVE = 250;
/**
 * With every so many-th pod a bare patch is sent as well, at the moment at which the controller hears of the pod: pods come
 * in bursts here, and what a patch meets is a matter of when it is sent.
 */
const PROBE_EACH = 4;

interface Seen {
  uid: string;
  name: string;
  marked: boolean;
}

/** Each lane makes a netns and a pod, waits until it is marked, and ends the oldest. */
export async function realChurn(
  begin: (kubeconfig: string) => Subject,
  sandboxes: Sandboxes,
  lanes: number,
  seconds: number,
) {
  const controlPlane = await startControlPlane();
  const stop = new AbortController();
  const kube = kubeOf(controlPlane.kubeconfig);
  const collection = `/api/v1/namespaces/${NAMESPACE}/pods`;
  try {
    const core = coreApi(controlPlane.kubeconfig);
    await core.createNamespace({ body: { metadata: { name: NAMESPACE } } });
    const namespace = NAMESPACE;
    await core.createNamespacedServiceAccount({ namespace, body: { metadata: { name: 'default' } } });
    const latencies: number[] = [];
    const added = new Map<string, number>();
    const waiting = new Map<string, () => void>();
    let prober: Prober | undefined;
    let told = 0;
    const informer = new Informer<Seen>({
      kube,
      path: collection,
      fieldSelector: `spec.nodeName=${NODE}`,
      trim: (object) => {
        const { metadata } = object as { metadata: { uid: string; name: string; annotations?: unknown } };
        const marked = new Map(entriesOf(metadata.annotations)).has(NETNS);
        return { uid: metadata.uid, name: metadata.name, marked };
      },
      onEvent: ({ type, object: { name, marked } }) => {
        if (type === 'added') {
          added.set(name, performance.now());
          if (told++ % PROBE_EACH === 0) prober?.probe().catch(() => {});
        }
        const at = added.get(name);
        if (type === 'deleted') added.delete(name);
        else if (marked && at !== undefined && waiting.has(name)) {
          latencies.push(performance.now() - at);
          waiting.get(name)?.();
          waiting.delete(name);
        }
      },
    });
    void informer.start(stop.signal);
    await informer.synced;
    await using subject = begin(controlPlane.kubeconfig);
    const probe = { ...(podToCreate('probe') as { spec: object }) };
    const body = { ...probe, spec: { ...probe.spec, nodeName: 'elsewhere' } };
    const { metadata } = (await kube.post(collection, body)) as { metadata: { uid: string } };
    await sleep(3000);

    const standing: string[] = [];
    let made = 0;
    const end = async (name: string) => {
      await core.deleteNamespacedPod({ namespace, name, gracePeriodSeconds: 0 });
      await sandboxes.del(name);
    };
    const one = async () => {
      const name = `churn-${made++}`;
      await sandboxes.add(name);
      const marked = new Promise<void>((resolve) => waiting.set(name, resolve));
      await kube.post(collection, podToCreate(name));
      await marked;
      standing.push(name);
      const oldest = standing.length > LIVE ? standing.shift() : undefined;
      if (oldest !== undefined) await end(oldest);
    };
    const until = async (limit: number) => {
      await Promise.all(
        Array.from({ length: lanes }, async () => {
          while (performance.now() < limit) await one();
        }),
      );
    };
    // Fills up, and warms up.
    while (standing.length < LIVE) await Promise.all(Array.from({ length: lanes }, one));
    latencies.length = 0;
    subject.samples.length = 0;
    prober = new Prober(kube, { name: 'probe', uid: metadata.uid });
    const start = performance.now();
    const before = made;
    await until(start + seconds * 1000);
    const held = (made - before) / ((performance.now() - start) / 1000);
    const bare = prober.stop();
    const samples = [...subject.samples];
    return { held, latencies, bare, samples };
  } finally {
    stop.abort();
    kube.close();
    await controlPlane.stop();
  }
}
