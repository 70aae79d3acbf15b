/**
 * A node's controller. Events of the API server and of the runtime put pods into the work queue, and a sweep verifies the
 * installed rules of every pod. reconcile.ts has the work for one pod.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type BackoffLimits, backoff } from '../backoff.ts';
import { keepNewest } from '../bounded.ts';
import { asFailure, LONGEST_PAUSE_MS } from '../errors.ts';
import type { GateEnd, NamespaceRecord, PodRecord } from '../istio/pod.ts';
import { type ApiClient, ApiError } from '../kube/client.ts';
import type { EventRecorder } from '../kube/events.ts';
import { Informer, type InformerEvent } from '../kube/informer.ts';
import { toNamespaceRecord, toPodRecord } from '../kube/pods.ts';
import { failed, INITIALIZED, type PodStatusWriter, STATUS } from '../kube/status.ts';
import type { VerifyResult } from '../native/addon.ts';
import { type Logger, podLine } from '../observe/log.ts';
import type { GateReason, Metrics, PodState, QueueStats } from '../observe/metrics.ts';
import type { PodView } from '../observe/page.ts';
import type { RuntimeEvents } from '../runtime/events.ts';
import type { SandboxHint } from '../runtime/hint-queue.ts';
import { Allowance } from './allowance.ts';
import { type Attempt, type Verdict, WorkQueue } from './queue.ts';
import { type Installed, markedPod, type Outcome, type Reconciler, type Task } from './reconcile.ts';

export interface ControllerOptions {
  kube: ApiClient;
  nodeName: string;
  /** Milliseconds between two sweeps. */
  resyncMs: number;
  concurrency: number;
  /** Whether a pod without a mark gets no Event of its rules either: `marks: failures`. */
  quiet: boolean;
  reconciler: Reconciler;
  marker: PodStatusWriter;
  recorder: EventRecorder;
  metrics: Metrics;
  /** Absent where the API server is the only source. */
  runtime?: RuntimeEvents;
  log: Logger;
}

/** What is known of one pod. */
interface Entry {
  pod: PodRecord;
  hint?: SandboxHint;
  installed?: Installed;
  view: Pick<PodView, 'state' | 'reason' | 'stages' | 'since'>;
  /** It was there before this process: an earlier one may have installed rules in it, and marked nothing. */
  inherited: boolean;
  /** Drift was found: what is installed next is a repair. */
  drifted?: boolean;
  /** Rules of others that let traffic pass by ours, as the last sweep found them. */
  ahead?: string;
  /** The last `preemption` that was reported. */
  reported?: string;
  /** See Task. */
  oldInit?: string | undefined;
  /** How often Istio's rules were back in this sandbox; see MOST_TAKEOVERS. */
  takeovers?: { stamp: string; count: number };
  /** How often ours were moved in front of others' rules; see MOST_MOVES. */
  moves?: number;
  /** Limits how often changes of the pod make work. */
  changes: Allowance;
  /** When to look for a sandbox again, if nobody tells of one. */
  poll?: { timer: NodeJS.Timeout; looks: number };
}

/** Between two looks for a sandbox, doubled from the first to the last: if the runtime tells of it, and if not. */
const POLL_MS = { told: [1_000, 10_000], untold: [100, 2_000] } satisfies Record<string, BackoffLimits>;

/** Hints kept of pods that the API has not told of: it may be slower than the runtime, and of some it never tells. */
const EARLY = 256;

/** The first pause after an attempt that used up its budget. Short, since on a busy machine this may happen to any pod. */
const COSTLY_MS = 1_000;

/** Each request and each wait of an attempt has a limit of its own; together they are shorter than this. */
const LONGEST_RUN_MS = 180_000;

/** Changes of a pod that make work at once, and then the milliseconds for each. What comes between is done together. */
const CHANGES = { burst: 10, eachMs: 3_000 };

/** Whoever puts rules in front of ours again and again is not fought: that is reported. */
const MOST_MOVES = 3;
/** As often Istio's rules are removed that another program writes again in the same sandbox: nobody wins such a fight. */
const MOST_TAKEOVERS = 3;

/** Pods that are planned anew in one sweep because their rules are no longer kept compiled. */
const MOST_REPLANNED = 4;

/** Verifications that run at once in a sweep: the addon has at most four threads, and new pods use them too. */
const SWEEP_LANES = 2;

export class Controller {
  readonly #options: ControllerOptions;
  readonly #entries = new Map<string, Entry>();
  /** Told before the API told of the pod. */
  readonly #early = new Map<string, SandboxHint>();
  readonly #queue: WorkQueue;
  readonly #pods: Informer<PodRecord>;
  readonly #namespaces: Informer<NamespaceRecord>;
  readonly #startedAt = Date.now();
  #ready = false;
  #sweeps = 0;

  constructor(options: ControllerOptions) {
    this.#options = options;
    const { kube, log, nodeName } = options;
    this.#queue = new WorkQueue({
      concurrency: options.concurrency,
      work: ({ key }) => this.#work(key),
      retry: retryOf,
      onError: (error, attempt) => this.#onError(error, attempt),
    });
    this.#namespaces = new Informer({
      kube,
      log,
      path: '/api/v1/namespaces',
      trim: toNamespaceRecord,
      onEvent: (event) => this.#onNamespace(event),
    });
    this.#pods = new Informer({
      kube,
      log,
      path: '/api/v1/pods',
      // The API may keep any number of pods that have ended; nothing is done for them.
      fieldSelector: `spec.nodeName=${nodeName},status.phase!=Succeeded,status.phase!=Failed`,
      trim: toPodRecord,
      onEvent: (event) => this.#onPod(event),
    });
  }

  /** Runs until the signal, then ends what is under way; never rejects. */
  async run(signal: AbortSignal, drained: AbortSignal): Promise<void> {
    const sources = [this.#namespaces.start(signal), this.#pods.start(signal), this.#follow(), this.#sweepEach(signal)];
    await Promise.all(sources);
    await this.#queue.drain(drained);
    for (const { poll, changes } of this.#entries.values()) {
      clearTimeout(poll?.timer);
      changes.cancel();
    }
    await this.#options.recorder.settled();
  }

  /** What only a new process can repair: a worker that does not come back. Empty if there is none. */
  stuck(limitMs = LONGEST_RUN_MS): string[] {
    const { longestRunMs } = this.#queue.stats();
    if (longestRunMs <= limitMs) return [];
    return [`a worker has worked on one pod for ${Math.round(longestRunMs / 1000)} s`];
  }

  /** What is missing yet of the first look at every pod. */
  missing(): string[] {
    if (this.#ready) return [];
    const lists = { namespaces: this.#namespaces, pods: this.#pods };
    const missing = Object.entries(lists)
      .filter(([, informer]) => informer.stats().lists === 0)
      .map(([name]) => `${name}: first list`);
    const unseen = [...this.#entries.values()].filter(({ view }) => view.since === undefined).length;
    if (unseen > 0) missing.push(`${unseen} pods: not examined yet`);
    this.#ready = missing.length === 0;
    return missing;
  }

  views(): PodView[] {
    return [...this.#entries.values()].map((entry) => {
      const { pod, installed, view } = entry;
      const { uid, namespace, name } = pod.metadata;
      const { backend, stamp, rules } = installed ?? {};
      const reason = view.state === 'initialized' ? preemption(entry) : undefined;
      const known = { ...view, ...(reason !== undefined && { reason }) };
      return { uid, namespace, name, ...known, ...(installed && { backend, netns: stamp, rules }) } as PodView;
    });
  }

  queue(): QueueStats {
    return this.#queue.stats();
  }

  states(): Record<PodState, number> {
    const counts: Record<PodState, number> = { pending: 0, initialized: 0, failed: 0, skipped: 0 };
    for (const { view } of this.#entries.values()) counts[view.state]++;
    return counts;
  }

  /** Pods with rules of others that let traffic pass by ours. */
  preempted(): number {
    return [...this.#entries.values()].filter(({ ahead }) => ahead !== undefined).length;
  }

  watches() {
    return [
      { resource: 'pods', restarts: this.#pods.stats().restarts },
      { resource: 'namespaces', restarts: this.#namespaces.stats().restarts },
    ];
  }

  #onPod({ type, object: pod }: InformerEvent<PodRecord>): void {
    const { uid } = pod.metadata;
    if (type === 'deleted') {
      const gone = this.#entries.get(uid);
      clearTimeout(gone?.poll?.timer);
      gone?.hint?.proceed?.();
      gone?.changes.cancel();
      this.#entries.delete(uid);
      this.#queue.forget(uid);
      this.#options.reconciler.forget(uid);
      this.#options.marker.forget(uid);
      this.#options.recorder.forget(uid);
      return;
    }
    const known = this.#entries.get(uid);
    if (known !== undefined) {
      const before = known.pod;
      known.pod = pod;
      this.#countGateFailure(known, before.status.gateEnd);
      if (asksForWork(before, pod, known.view.state)) this.#addChanged(uid, known);
      return;
    }
    const hint = this.#early.get(uid);
    this.#early.delete(uid);
    const inherited = this.#pods.stats().lists === 0;
    const changes = new Allowance(CHANGES);
    const entry: Entry = { pod, view: { state: 'pending' }, inherited, changes, ...(hint && { hint }) };
    this.#entries.set(uid, entry);
    // A pod that has started counted long ago.
    if (pod.status.phase === 'Pending') this.#countGateFailure(entry);
    this.#queue.add(uid);
  }

  /** `before` is how the gate had ended when the pod was seen last. */
  #countGateFailure({ pod: { status }, view: { state } }: Entry, before?: GateEnd): void {
    const { gateEnd } = status;
    if (gateEnd === undefined || gateEnd.restarts === before?.restarts) return;
    const reason = gateReason(gateEnd, state, this.#startedAt);
    if (reason !== undefined) this.#options.metrics.gateFailed(reason);
  }

  #onNamespace({ type, object: { metadata }, old }: InformerEvent<NamespaceRecord>): void {
    if (type === 'changed' && JSON.stringify(old?.metadata.annotations) === JSON.stringify(metadata.annotations))
      return;
    for (const [uid, entry] of this.#entries) {
      if (entry.pod.metadata.namespace === metadata.name) this.#addChanged(uid, entry);
    }
  }

  /** Whoever may change a pod, or its namespace, may do so in a flood. */
  #addChanged(uid: string, entry: Entry): void {
    entry.changes.take(() => {
      if (this.#entries.get(uid) === entry) this.#queue.add(uid);
    });
  }

  async #follow(): Promise<void> {
    for await (const hint of this.#options.runtime ?? []) {
      if (hint.podUid === undefined) continue;
      // A static pod has another uid there, by what its mirror says, and anybody can write that: it is polled for.
      const uid = hint.podUid;
      const entry = this.#entries.get(uid);
      if (entry === undefined) {
        // The API server has not shown this pod, and may never do.
        hint.proceed?.();
        keepNewest(this.#early, uid, hint, EARLY);
      } else {
        const { namespace, name } = entry.pod.metadata;
        const { sandboxId: sandbox, netnsPath: netns } = hint;
        const source = this.#options.runtime?.source;
        this.#options.log.debug(
          { pod: `${namespace}/${name}`, source, sandbox, netns },
          'the runtime reported a sandbox',
        );
        entry.hint?.proceed?.('the runtime reported another sandbox of the pod');
        entry.hint = hint;
        // The status may still be that of a sandbox before this one.
        if (hint.justMade && wasServed(entry)) entry.oldInit = entry.pod.status.initBefore?.id;
        // The queue may be waiting for the API server, and the runtime does not wait for that.
        const { enroll } = this.#options.reconciler.decide(entry.pod, this.#namespaces.get(namespace));
        if (enroll) hint.enrolled?.();
        else hint.proceed?.();
        this.#queue.add(uid);
      }
    }
  }

  async #work(uid: string): Promise<void> {
    const entry = this.#entries.get(uid);
    if (entry === undefined) return;
    const { pod, hint, installed, inherited } = entry;
    delete entry.hint;
    clearTimeout(entry.poll?.timer);
    const namespace = this.#namespaces.get(pod.metadata.namespace);
    const first = entry.ahead !== undefined && mayMove(entry);
    if (first) entry.moves = (entry.moves ?? 0) + 1;
    const { oldInit } = entry;
    const task: Task = { pod, namespace, hint, installed, first, inherited, oldInit };
    const { reconciler, marker } = this.#options;
    try {
      const outcome = await reconciler
        .reconcile(task)
        // What may heal is not written there: the pod's gate would give up on it.
        .catch(async (error: unknown) => {
          hint?.proceed?.(asFailure(error).message);
          // A mark that fails is what is tried again, and the rest with it.
          if (asFailure(error).retry === 'no') await marker.mark(markedPod(pod), failed(error));
          throw error;
        });
      // Nothing was to be installed, or nothing can be installed yet: the pod's gate waits, the runtime need not wait.
      hint?.proceed?.(outcome.result === 'waiting' ? outcome.message : undefined);
      if (this.#entries.get(uid) === entry) this.#note(entry, outcome);
    } finally {
      // The pod was deleted meanwhile. Both have noted something of it after they were told to forget it.
      if (!this.#entries.has(uid)) {
        marker.forget(uid);
        reconciler.forget(uid);
      }
    }
  }

  #note(entry: Entry, outcome: Outcome): void {
    const { log, recorder, metrics } = this.#options;
    const pod = entry.pod.metadata;
    if (outcome.result !== 'waiting') {
      delete entry.poll;
      entry.inherited = false;
    }
    const since = new Date().toISOString();
    if (outcome.result === 'waiting') {
      // Without its namespace it was not looked at yet: see missing().
      entry.view = { state: 'pending', reason: outcome.reason, ...(outcome.reason !== 'namespace' && { since }) };
      log.debug({ pod: `${pod.namespace}/${pod.name}`, reason: outcome.reason, detail: outcome.message }, 'waiting');
      // A namespace will be told of; a sandbox may be missed.
      if (outcome.reason !== 'namespace') this.#pollFor(entry);
      return;
    }
    if (outcome.result === 'skipped') {
      if (entry.view.state !== 'skipped' || entry.view.reason !== outcome.reason) metrics.skipped(outcome.reason);
      delete entry.installed;
      forgetAhead(entry);
      entry.view = { state: 'skipped', reason: outcome.reason, since };
      podLine(log, { pod, outcome: 'skipped', reason: outcome.reason });
      if (outcome.cleaned)
        recorder.record(pod, {
          reason: 'Cleaned',
          note: `the controller removed the redirect rules: ${outcome.message}`,
        });
      return;
    }
    const { installed, changed, marked, unmarked, takenOver, warnings, stages } = outcome;
    const news = changed || marked;
    // Another sandbox had nothing that could drift.
    const repaired = entry.drifted === true && changed && entry.installed?.stamp === installed.stamp;
    delete entry.drifted;
    entry.installed = installed;
    if (news || entry.view.state !== 'initialized') {
      entry.view = { state: 'initialized', stages, since, ...(unmarked && { reason: unmarked.message }) };
    }
    if (news) metrics.installed(installed.backend, stages);
    if (repaired) metrics.driftRepaired(installed.backend);
    const result = repaired ? 'repaired' : news ? 'initialized' : 'unchanged';
    podLine(log, { pod, outcome: result, backend: installed.backend, netns: installed.stamp, stages });
    if (unmarked) {
      metrics.failed(unmarked.code);
      recorder.record(pod, { reason: unmarked.event, note: unmarked.message });
    }
    for (const warning of warnings) recorder.record(pod, { reason: 'ConfigDoubtful', note: warning });
    if (takenOver !== undefined) {
      log.info({ pod: `${pod.namespace}/${pod.name}`, new: takenOver === 'new' }, "took over Istio's rules");
      recorder.record(pod, { reason: 'TakenOver', note: TAKEN_OVER[takenOver] });
    }
    if (repaired)
      recorder.record(pod, {
        reason: 'DriftRepaired',
        note: 'another program had changed the redirect rules, and the controller repaired them',
      });
    else if (news && (marked || !this.#options.quiet)) {
      // Without how long it took: the same again is then one Event with a count.
      const note = `the controller installed the redirect rules with ${installed.backend}, and read them back`;
      recorder.record(pod, { reason: 'Initialized', note });
    }
  }

  /** Reports rules of others that let traffic pass by ours, once for the same rules, unless ours can be moved. */
  #noteAhead(entry: Entry, rules: string[]): void {
    if (rules.length === 0) {
      forgetAhead(entry);
      return;
    }
    entry.ahead = rules.join('; ');
    const note = preemption(entry);
    if (note === undefined || note === entry.reported) return;
    entry.reported = note;
    const { log, recorder } = this.#options;
    const { metadata } = entry.pod;
    log.warn(
      { pod: `${metadata.namespace}/${metadata.name}`, ahead: entry.ahead },
      'rules of other programs let traffic bypass the proxy',
    );
    recorder.record(metadata, { reason: 'Preempted', note });
  }

  #pollFor(entry: Entry): void {
    const { runtime } = this.#options;
    const limits = POLL_MS[runtime === undefined || runtime.source === 'none' ? 'untold' : 'told'];
    const looks = (entry.poll?.looks ?? 0) + 1;
    const { uid } = entry.pod.metadata;
    const timer = setTimeout(() => this.#queue.add(uid, 'resync'), backoff(limits, looks)).unref();
    entry.poll = { looks, timer };
  }

  #onError(error: unknown, { key: uid }: Attempt): void {
    const entry = this.#entries.get(uid);
    if (entry === undefined) return;
    const { log, recorder, metrics } = this.#options;
    const failure = asFailure(error);
    const { code, event, message } = failure;
    metrics.failed(code);
    entry.view = { state: 'failed', reason: message, since: new Date().toISOString() };
    podLine(log, { pod: entry.pod.metadata, outcome: 'failed', error: failure });
    recorder.record(entry.pod.metadata, { reason: event, note: message });
  }

  async #sweepEach(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await sleep(this.#options.resyncMs, undefined, { signal }).catch(() => {});
      if (!signal.aborted) await this.sweep();
    }
  }

  /** Compares what stands in each initialized pod with what was installed. Resolves with the number of pods. */
  async sweep(): Promise<number> {
    const due = [...this.#entries].filter(([, { installed }]) => installed !== undefined);
    // Each sweep begins with another pod, so that each pod has its turn.
    const begin = due.length === 0 ? 0 : this.#sweeps++ % due.length;
    due.push(...due.splice(0, begin));
    let next = 0;
    let replanned = 0;
    const lane = async () => {
      for (let each = due[next++]; each !== undefined; each = due[next++]) {
        const [uid, entry] = each;
        const { installed } = entry;
        if (installed === undefined || this.#entries.get(uid) !== entry) continue;
        // It waits for an attempt already, and maybe for a long time because each one costs much.
        if (this.#queue.has(uid)) continue;
        const compiled = installed.compiled.deref();
        if (compiled === undefined) {
          // Too many rules are compiled for all to be kept. Planning them anew reads them back as well.
          if (++replanned <= MOST_REPLANNED) this.#queue.add(uid, 'resync');
          continue;
        }
        const verified = await compiled.verify(installed.target).catch(() => undefined);
        if (entry.installed !== installed) continue;
        const loses = verified !== undefined && losesTo(entry, verified, installed.stamp);
        // Istio's rules are in front of ours too, and about to go.
        if (verified !== undefined)
          this.#noteAhead(entry, loses ? [REWRITTEN] : verified.iptablesNft.length > 0 ? [] : verified.ahead);
        if (loses && isDriftOfIstios(verified)) continue;
        // Without an answer it is gone, or another one: what is installed there now is looked at anew.
        if (verified?.ok && !(entry.ahead !== undefined && mayMove(entry))) continue;
        entry.drifted = true;
        this.#queue.add(uid, 'resync');
      }
    };
    await Promise.all(Array.from({ length: SWEEP_LANES }, lane));
    return due.length;
  }
}

/** The exit code of the gate without rules, as that of istio-validation. */
const NOT_REDIRECTED = 126;
/** Its exit codes for a configuration that cannot work. */
const REFUSED = [1, 2];

/** Why a gate ended; undefined if it did not fail, or if what ended is the proxy that it had become. */
function gateReason({ exitCode, message, at }: GateEnd, state: PodState, startedAt: number): GateReason | undefined {
  if (REFUSED.includes(exitCode) && message) return 'refused';
  if (exitCode !== NOT_REDIRECTED) return undefined;
  if (state === 'skipped') return 'left-alone';
  if (state === 'failed') return 'rules-failed';
  return at < startedAt ? 'controller-away' : 'rules-late';
}

/** Whether our rules can be moved in front of others': these were not there when ours were installed. */
function mayMove({ installed, moves = 0 }: Entry): boolean {
  return installed?.alone === true && moves < MOST_MOVES;
}

/** Says that rules of others let traffic pass by ours; undefined if none do, or if ours can still be moved. */
function preemption(entry: Entry): string | undefined {
  if (entry.ahead === undefined || mayMove(entry)) return undefined;
  return `rules of other programs let traffic bypass the proxy: ${entry.ahead}`;
}

/** Whether a sandbox of the pod had rules before, by this process or by what an earlier one left written. */
function wasServed({ installed, pod: { metadata } }: Entry): boolean {
  return installed !== undefined || metadata.marks[STATUS] !== undefined;
}

const TAKEN_OVER = {
  new: "Istio's CNI plugin had written its own rules into this new pod, and the controller replaced them: both run on this node",
  running: "the controller replaced Istio's own rules in this running pod",
};

const REWRITTEN = "Istio's rules in the tables of iptables-nft, which another program writes again and again";

/** Whether Istio's rules were back in this sandbox too often. Counts. */
function losesTo(entry: Entry, { iptablesNft }: VerifyResult, stamp: string): boolean {
  const count = entry.takeovers?.stamp === stamp ? entry.takeovers.count : 0;
  if (iptablesNft.length > 0) entry.takeovers = { stamp, count: count + 1 };
  return iptablesNft.length > 0 && count >= MOST_TAKEOVERS;
}

/** Whether ours are all there, and nothing else is wrong but that Istio's are there too. */
function isDriftOfIstios({ legacy, nftables, routes }: VerifyResult): boolean {
  return [legacy, nftables, routes.missing, routes.surplus].every(({ length }) => length === 0);
}

function forgetAhead(entry: Entry): void {
  delete entry.ahead;
  delete entry.reported;
}

/** Whether and when a pod is tried again after this error. */
export function retryOf(error: unknown): Verdict {
  const { retry } = asFailure(error);
  if (retry === 'no') return false;
  if (retry === 'costly') return { longestMs: LONGEST_PAUSE_MS.costly, costlyMs: COSTLY_MS };
  const afterMs = error instanceof ApiError ? error.retryAfterMs : undefined;
  return { longestMs: LONGEST_PAUSE_MS[retry], ...(afterMs !== undefined && { afterMs }) };
}

/**
 * Whether what changed is any of our business: a spec does not change, see toPodRecord. Our own marks coming back are not, unless
 * somebody took them away.
 */
function asksForWork(before: PodRecord, after: PodRecord, state: PodState): boolean {
  const theirs = ({ metadata: { deletionTimestamp, labels, annotations }, status }: PodRecord) =>
    JSON.stringify([deletionTimestamp, labels, annotations, status.phase, status.podIPs, status.initBefore]);
  const marks = ({ metadata, status }: PodRecord) => JSON.stringify([metadata.marks, status.conditions]);
  // Of a pod that was let out a mark may come late: its request had been answered with an error, and done all the same.
  const watched = before.metadata.marks[STATUS] === INITIALIZED || state === 'skipped';
  return theirs(before) !== theirs(after) || (watched && marks(before) !== marks(after));
}
