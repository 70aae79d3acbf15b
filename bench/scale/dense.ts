/**
 * A node with many pods, half of them in the mesh and a tenth with a configuration of their own, on which pods start and
 * end all the time. The API server is the stand-in of the workload `controller`; netns and installs are real.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { INITIALIZE } from '../../lib/istio/names.ts';
import { native } from '../../lib/native/addon.ts';
import { Sandboxes } from '../controller/churn.ts';
import { NODE, REFUSED } from '../controller/pods.ts';
import { StandIn } from '../controller/stand-in.ts';
import { FOLLOW, Subject } from '../controller/subject.ts';
import { TOOLBOX } from '../farm.ts';

/** How long a pod of the churn lives, in milliseconds. */
const LIFE_MS = 2_000;
/** Pods whose rules are removed each second, and as many whose mark the API server refuses each time. */
const TROUBLED = 5;
/** How often the rules of pods are compared while pods start and end: 15 times as often as in a cluster. */
const RESYNC_MS = 2_000;

const now = () => performance.timeOrigin + performance.now();

/** Half of all pods are in the mesh. A fifth of these have a list of their own, so their rules are compiled for one pod. */
function annotationsOf(at: number): Record<string, string> {
  if (at % 2 === 1) return { [INITIALIZE]: 'false' };
  return at % 10 === 0 ? { 'traffic.sidecar.istio.io/excludeOutboundPorts': String(1024 + (at % 60_000)) } : {};
}

const isMember = (at: number) => at % 2 === 0;

export interface DenseOptions {
  /** A new folder. */
  folder: string;
  bundle: string;
  execArgv: string[];
  /** Pods that the node runs all the time. */
  pods: number;
  /** Pods that start in a second, and as many that end. */
  rate: number;
}

/** Milliseconds from the creation of each pod of the mesh until its rules were read back. */
export interface Phase {
  latencies: number[];
  /** Pods of the mesh that ended before. */
  unserved: number;
  /** Seconds of CPU that the controller used in each second. */
  cpu: number;
  /** Milliseconds that each resync took. */
  resyncs: number[];
  repaired: number;
  /** MiB. */
  rss: number;
}

export interface Restart {
  /** Milliseconds from the start of the process: until the first new pod was served, and until every pod was examined. */
  first: number;
  examined: number;
  /** Milliseconds that each pod waited that was created between the end of the old process and the first served pod. */
  waits: number[];
  /** Repairs, and marks of pods that had theirs already: the new process found what the old one had installed. */
  needless: number;
}

export class DenseNode implements AsyncDisposable {
  readonly #options: DenseOptions;
  readonly #stack = new AsyncDisposableStack();
  readonly #sandboxes: Sandboxes;
  readonly #standIn: StandIn;
  #subject: Subject;
  #made = 0;

  private constructor(options: DenseOptions, sandboxes: Sandboxes, standIn: StandIn) {
    this.#options = options;
    this.#sandboxes = this.#stack.use(sandboxes);
    this.#standIn = this.#stack.use(standIn);
    this.#subject = this.#begin();
    this.#stack.defer(() => this.#subject[Symbol.asyncDispose]());
  }

  /** Resolves when all pods of the mesh have their marks, with the milliseconds from the start of the controller until then. */
  static async start(options: DenseOptions): Promise<{ node: DenseNode; servedMs: number }> {
    const places = join(options.folder, 'netns');
    mkdirSync(places, { recursive: true });
    const sandboxes = new Sandboxes(TOOLBOX, places);
    const standIn = await StandIn.start(options.folder);
    for (let at = 0; at < options.pods; at++) {
      await sandboxes.add(`pod-${at}`);
      standIn.change('create', `pod-${at}`, annotationsOf(at));
    }
    await sleep(500);
    const node = new DenseNode(options, sandboxes, standIn);
    const members = Array.from({ length: options.pods }, (_, at) => at).filter(isMember).length;
    const at = await standIn.whenMarked(members);
    await sleep(1_000);
    return { node, servedMs: at - node.#subject.startedAt };
  }

  #begin(): Subject {
    const { bundle, execArgv, folder } = this.#options;
    const words = [this.#standIn.kubeconfig, this.#sandboxes.folder, NODE, FOLLOW];
    return new Subject(bundle, words, execArgv, join(folder, 'log'));
  }

  /** Seconds of CPU that one resync of this node takes. */
  async resyncCpu(times: number): Promise<number> {
    await this.#subject.sweep();
    const before = this.#subject.cpu();
    for (let time = 0; time < times; time++) await this.#subject.sweep();
    return (this.#subject.cpu() - before) / times;
  }

  /** With `trouble`, some pods flap and others fail all the time. */
  async phase(seconds: number, trouble: boolean): Promise<Phase> {
    const { rate } = this.#options;
    await this.#subject.installed();
    await this.#standIn.created();
    const refused = Array.from({ length: trouble ? TROUBLED : 0 }, () => `${REFUSED}${this.#made++}`);
    for (const name of refused) {
      await this.#sandboxes.add(name);
      this.#standIn.change('create', name);
    }
    const stop = new AbortController();
    const resyncs: number[] = [];
    this.#subject.samples.length = 0;
    const cpu = this.#subject.cpu();
    const background = [
      each(RESYNC_MS, stop.signal, async () => void resyncs.push((await this.#subject.sweep()).took)),
      ...(trouble ? [each(1_000, stop.signal, () => this.#removeRules())] : []),
    ];
    const began = performance.now();
    const members = await this.#churn(rate, seconds);
    const used = (this.#subject.cpu() - cpu) / ((performance.now() - began) / 1000);
    stop.abort();
    await Promise.all(background);
    // What was removed since the last resync belongs to this phase.
    if (trouble) await this.#subject.sweep();
    const { latencies, repaired } = await this.#latencies(members);
    for (const name of refused) {
      this.#standIn.change('delete', name);
      await this.#sandboxes.del(name);
    }
    const rss = Math.max(...this.#subject.samples, this.#subject.rss());
    return { latencies, unserved: members.size - latencies.length, cpu: used, resyncs, repaired, rss };
  }

  /** Replaces the controller while pods start and end. */
  async restart(): Promise<Restart> {
    const { rate } = this.#options;
    await this.#standIn.created();
    await this.#standIn.report();
    const churning = this.#churn(rate, 6);
    await sleep(2_000);
    await this.#subject.installed();
    const stoppedAt = now();
    await this.#subject[Symbol.asyncDispose]();
    this.#subject = this.#begin();
    const { startedAt } = this.#subject;
    const examined = (await this.#subject.examinedAt()) - startedAt;
    const members = await churning;
    const created = new Map(await this.#standIn.created());
    const installed = await this.#subject.installed();
    const served = new Map(installed.map(([name, , at]) => [name, at]));
    const of = [...served].filter(([name]) => members.has(name));
    const firstAt = Math.min(...of.map(([, at]) => at));
    const waits = of
      .map(([name, at]) => ({ at, createdAt: created.get(name) ?? Number.NaN }))
      .filter(({ createdAt }) => createdAt >= stoppedAt && createdAt <= firstAt)
      .map(({ at, createdAt }) => at - createdAt);
    const repaired = installed.filter(([, outcome]) => outcome === 'repaired').length;
    const { further } = await this.#standIn.report();
    return { first: firstAt - startedAt, examined, waits, needless: repaired + further };
  }

  async #latencies(members: ReadonlySet<string>): Promise<{ latencies: number[]; repaired: number }> {
    const created = new Map(await this.#standIn.created());
    const installed = await this.#subject.installed();
    const first = new Map<string, number>();
    for (const [name, outcome, at] of installed) {
      const createdAt = created.get(name);
      if (outcome === 'initialized' && createdAt !== undefined && members.has(name) && !first.has(name))
        first.set(name, at - createdAt);
    }
    const repaired = installed.filter(([, outcome]) => outcome === 'repaired').length;
    return { latencies: [...first.values()], repaired };
  }

  /** Starts and ends pods. Resolves with the names of those in the mesh, when all have ended. */
  async #churn(rate: number, seconds: number): Promise<Set<string>> {
    const members = new Set<string>();
    const lives = new Set<Promise<void>>();
    const began = performance.now();
    let begun = 0;
    const live = async (at: number) => {
      const name = `churn-${at}`;
      if (isMember(at)) members.add(name);
      await this.#sandboxes.add(name);
      this.#standIn.change('create', name, annotationsOf(at));
      await sleep(LIFE_MS / 2);
      this.#standIn.change('run', name);
      await sleep(LIFE_MS / 2);
      this.#standIn.change('delete', name);
      await this.#sandboxes.del(name);
    };
    for (let passed = 0; passed < seconds; passed = (performance.now() - began) / 1000) {
      for (; begun < rate * passed; begun++) {
        const one = live(this.#made++).finally(() => lives.delete(one));
        lives.add(one);
      }
      await sleep(2);
    }
    await Promise.all(lives);
    return members;
  }

  /** Removes the rules of the first pods of the mesh, as a program with NET_ADMIN in them could. */
  async #removeRules(): Promise<void> {
    for (let at = 0; at < 2 * TROUBLED; at += 2) {
      const path = join(this.#sandboxes.folder, `pod-${at}`);
      const { dev, ino, cookie } = await native().identify(path);
      await native().clean({ path, dev, ino, cookie });
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }
}

async function each(ms: number, signal: AbortSignal, act: () => Promise<void>): Promise<void> {
  while (!signal.aborted) {
    await sleep(ms, undefined, { signal }).catch(() => {});
    if (!signal.aborted) await act();
  }
}
