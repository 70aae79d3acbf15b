/** The stand-in API server from its parent's side, and what a bare patch takes there. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { NETNS, RULES, STATUS } from '../../lib/istio/names.ts';
import type { ApiClient } from '../../lib/kube/client.ts';
import { INITIALIZED, READY } from '../../lib/kube/status.ts';
import { createAuthority, writeKubeconfig } from '../../test/cluster/pki.ts';
import { kubeOf } from '../../test/support/kubeconfig.ts';
import type { Answer, Change, Created, Question, Report } from './api-server.ts';
import { NAMESPACE } from './pods.ts';

const ANSWER_MS = 60_000;

/** As long as a mark is. */
function barePatch(uid: string, at = new Date()): unknown {
  const annotations = {
    [STATUS]: INITIALIZED,
    [NETNS]: `4f1c5a52-9f0e-4c4e-8a5b-000000000000:${at.getTime()}`,
    [RULES]: '0123456789abcdef',
  };
  const condition = { type: READY, status: 'True', reason: 'Initialized', message: 'traffic is redirected' };
  return { metadata: { uid, annotations }, status: { conditions: [{ ...condition, lastTransitionTime: at }] } };
}

/** Patches a pod of no interest, over a connection that is open already. */
export class Prober {
  /** Milliseconds. */
  samples: number[] = [];
  readonly #kube: ApiClient;
  readonly #pod: { name: string; uid: string };
  #timer: NodeJS.Timeout | undefined;

  constructor(kube: ApiClient, pod: { name: string; uid: string }) {
    this.#kube = kube;
    this.#pod = pod;
  }

  async probe(): Promise<void> {
    const { name, uid } = this.#pod;
    const start = performance.now();
    await this.#kube.patch(`/api/v1/namespaces/${NAMESPACE}/pods/${name}/status`, 'strategic', barePatch(uid));
    this.samples.push(performance.now() - start);
  }

  each(ms: number): this {
    this.#timer = setInterval(() => this.probe().catch(() => {}), ms);
    return this;
  }

  stop(): number[] {
    clearInterval(this.#timer);
    return this.samples;
  }
}

export class StandIn implements AsyncDisposable {
  readonly kubeconfig: string;
  readonly kube: ApiClient;
  readonly #child: ChildProcess;
  #changes: Change[] = [];

  private constructor(child: ChildProcess, kubeconfig: string) {
    this.#child = child;
    this.kubeconfig = kubeconfig;
    this.kube = kubeOf(kubeconfig);
  }

  static async start(folder: string): Promise<StandIn> {
    const authority = await createAuthority(folder);
    const serving = await authority.issue({ name: 'stand-in', hosts: ['127.0.0.1'] });
    const client = await authority.issue({ name: 'client' });
    const child = fork(fileURLToPath(new URL('api-server.ts', import.meta.url)), [serving.cert, serving.key]);
    const [{ port }] = (await once(child, 'message')) as [{ port: number }];
    const server = `https://127.0.0.1:${port}`;
    return new StandIn(child, writeKubeconfig(join(folder, 'kubeconfig'), server, authority.cert, client));
  }

  /** What is told in one turn goes at once. */
  change(...change: Change): void {
    this.#changes.push(change);
    if (this.#changes.length === 1) setImmediate(() => this.#ask({ changes: this.#changes.splice(0) }));
  }

  async report(): Promise<Report> {
    this.#ask({ report: true });
    return ((await this.#answer('a report')) as { report: Report }).report;
  }

  /** The pods that were created since this was asked last. */
  async created(): Promise<Created[]> {
    this.#ask({ created: true });
    return ((await this.#answer('list of created pods')) as { created: Created[] }).created;
  }

  /** Milliseconds since 1970 at which so many pods were marked. Rejects where that takes longer than a minute. */
  async whenMarked(count: number): Promise<number> {
    this.#ask({ marked: count });
    return ((await this.#answer(`marks of ${count} pods`)) as { at: number }).at;
  }

  #ask(question: Question): void {
    this.#child.send(question);
  }

  async #answer(what: string): Promise<Answer> {
    const signal = AbortSignal.timeout(ANSWER_MS);
    try {
      const [answer] = (await once(this.#child, 'message', { signal })) as [Answer];
      return answer;
    } catch (cause) {
      throw new Error(`the API server's stand-in had no ${what} within ${ANSWER_MS / 1000} s`, { cause });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kube.close();
    this.#child.disconnect();
    await once(this.#child, 'exit');
  }
}
