/**
 * The controller of a node. Events of the API server and of the runtime put pods into the work queue, and a periodic
 * sweep verifies the installed rules of every pod. reconcile.ts has the work for one pod.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type BackoffLimits, backoff } from '../backoff.ts';
import { keepNewest } from '../bounded.ts';
import { asFailure, LONGEST_PAUSE_MS } from '../errors.ts';
import { STATUS } from '../istio/names.ts';
import type { GateEnd, NamespaceRecord, PodRecord } from '../istio/pod.ts';
import { type ApiClient, ApiError } from '../kube/client.ts';
import type { EventRecorder } from '../kube/events.ts';
import { Informer, type InformerEvent } from '../kube/informer.ts';
import { toNamespaceRecord, toPodRecord } from '../kube/pods.ts';
import { failed, INITIALIZED, type PodStatusWriter } from '../kube/status.ts';
import type { VerifyResult } from '../native/addon.ts';
import { type Logger, podLine, rounded } from '../observe/log.ts';
import type { GateReason, Metrics, PodState, QueueStats } from '../observe/metrics.ts';
import type { PodView } from '../observe/page.ts';
import type { PodRules } from '../observe/rules.ts';
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
  /** Whether a pod without a mark gets no Event about its rules either. True for `marks: failures`. */
  quiet: boolean;
  reconciler: Reconciler;
  marker: PodStatusWriter;
  recorder: EventRecorder;
  metrics: Metrics;
  /** Absent if the API server is the only source. */
  runtime?: RuntimeEvents;
  log: Logger;
}

/** What the controller knows about one pod. */
interface Entry {
  pod: PodRecord;
  hint?: SandboxHint;
  installed?: Installed;
  view: Pick<PodView, 'state' | 'reason' | 'stages' | 'since'>;
  /** The pod existed before this process, so an earlier process may have installed rules in it without a mark. */
  inherited: boolean;
  /** The sweep found drift, so the next install is a repair. */
  drifted?: boolean;
  /** The rules of other programs that let traffic bypass the proxy, as the last sweep found them. */
  ahead?: string;
  /** The last `preemption` that was reported. */
  reported?: string;
  /** See Task. */
  oldInit?: string | undefined;
  /** How often Istio's rules were back in this sandbox; see MOST_TAKEOVERS. */
  takeovers?: { stamp: string; count: number };
  /** How often ours were moved in front of others' rules; see MOST_MOVES. */
  moves?: number;
  /** Limits how often changes of the pod lead to work. */
  changes: Allowance;
  /** When to look for a sandbox again, if the runtime does not report one. */
  poll?: { timer: NodeJS.Timeout; looks: number };
}

/** The pause between two looks for a sandbox, doubled from the first to the last: with runtime events, and without. */
const POLL_MS = { told: [1_000, 10_000], untold: [100, 2_000] } satisfies Record<string, BackoffLimits>;

/** How many hints are kept for pods that the API server has not reported yet. It reports some of them never. */
const EARLY = 256;

/**
 * The first pause after an attempt that used up its budget. It is short, because on a node without free CPU every pod may
 * need it.
 */
const COSTLY_MS = 1_000;

/**
 * The longest attempt. Each request and each wait of an attempt has its own limit, and their sum is smaller than this.
 */
const LONGEST_RUN_MS = 180_000;

/** How many changes of a pod lead to work at once, and then the milliseconds per change. Other changes are merged. */
const CHANGES = { burst: 10, eachMs: 3_000 };

/** How often the controller moves its rules to the front. A program that still puts rules before them is reported. */
const MOST_MOVES = 3;
/** How often the controller removes Istio's rules that another program writes again into the same sandbox. */
const MOST_TAKEOVERS = 3;

/** How many pods one sweep plans again because their compiled rules were dropped. */
const MOST_REPLANNED = 4;

/**
 * How many verifications a sweep runs at the same time. The addon has at most four threads, and new pods use them too.
 */
const SWEEP_LANES = 2;

export class Controller {
  readonly #options: ControllerOptions;
  readonly #entries = new Map<string, Entry>();
  /** Hints for pods that the API server has not reported yet. */
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
      // The API server may keep any number of pods that have ended, and the controller does nothing for them.
      fieldSelector: `spec.nodeName=${nodeName},status.phase!=Succeeded,status.phase!=Failed`,
      trim: toPodRecord,
      onEvent: (event) => this.#onPod(event),
    });
  }

  /** Runs until the signal, then waits for the work in progress. Never rejects. */
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

  /** Problems that only a restart of the process can solve: a worker that does not return. Empty if there is none. */
  stuck(limitMs = LONGEST_RUN_MS): string[] {
    const { longestRunMs } = this.#queue.stats();
    if (longestRunMs <= limitMs) return [];
    return [`a worker has worked on one pod for ${Math.round(longestRunMs / 1000)} s`];
  }

  /** What the controller still waits for until it has examined every pod once. */
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
      const stages = view.stages && { stages: rounded(view.stages) };
      const known = { ...view, ...stages, ...(reason !== undefined && { reason }) };
      return { uid, namespace, name, ...known, ...(installed && { backend, netns: stamp, rules }) } as PodView;
    });
  }

  /**
   * Compares the rules of one pod with its plan. Undefined if the pod is unknown or has no rules. Rejects with Failure if they
   * cannot be read.
   */
  async rules(uid: string): Promise<PodRules | undefined> {
    const entry = this.#entries.get(uid);
    const { installed } = entry ?? {};
    // The plan is dropped if there are too many; the next sweep makes it again.
    const compiled = installed?.compiled.deref();
    if (entry === undefined || installed === undefined || compiled === undefined) return undefined;
    const { namespace, name } = entry.pod.metadata;
    return { namespace, name, form: compiled.form, verified: await compiled.verify(installed.target) };
  }

  queue(): QueueStats {
    return this.#queue.stats();
  }

  states(): Record<PodState, number> {
    const counts: Record<PodState, number> = { pending: 0, initialized: 0, failed: 0, skipped: 0 };
    for (const { view } of this.#entries.values()) counts[view.state]++;
    return counts;
  }

  /** The number of pods in which rules of other programs let traffic bypass the proxy. */
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
    // The gate of a pod that has already started was counted before.
    if (pod.status.phase === 'Pending') this.#countGateFailure(entry);
    this.#queue.add(uid);
  }

  /** `before` is the end of the gate in the previous version of the pod. */
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

  /** The limit is necessary because a user may change a pod or its namespace any number of times. */
  #addChanged(uid: string, entry: Entry): void {
    entry.changes.take(() => {
      if (this.#entries.get(uid) === entry) this.#queue.add(uid);
    });
  }

  async #follow(): Promise<void> {
    for await (const hint of this.#options.runtime ?? []) {
      if (hint.podUid === undefined) continue;
      // The runtime knows a static pod by another uid. The mirror pod has it in an annotation, which anybody can write, so it
      // is not used: the controller polls for static pods.
      const uid = hint.podUid;
      const entry = this.#entries.get(uid);
      if (entry === undefined) {
        // The API server has not reported this pod, and possibly never will, so the runtime must not wait.
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
        // A failure that a retry can solve is not written to the pod, because the pod's gate would then give up.
        .catch(async (error: unknown) => {
          hint?.proceed?.(asFailure(error).message);
          // If the mark fails too, its error is thrown, and a retry repeats the whole attempt.
          if (asFailure(error).retry === 'no') await marker.mark(markedPod(pod), failed(error));
          throw error;
        });
      // Nothing is installed now, or never. The pod's gate waits if it must; the runtime need not wait.
      // The runtime cannot wait for init containers either, because they start after the sandbox. Their pod has a gate.
      const unsolved = outcome.result === 'waiting' && outcome.reason !== 'init-containers';
      hint?.proceed?.(unsolved ? outcome.message : undefined);
      if (this.#entries.get(uid) === entry) this.#note(entry, outcome);
    } finally {
      // The pod was deleted meanwhile, and both may have stored something about it after their forget().
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
      // A pod whose namespace is unknown counts as not examined yet: see missing().
      entry.view = { state: 'pending', reason: outcome.reason, ...(outcome.reason !== 'namespace' && { since }) };
      log.debug({ pod: `${pod.namespace}/${pod.name}`, reason: outcome.reason, detail: outcome.message }, 'waiting');
      // The watch reports every namespace, but the runtime's report of a sandbox may be missed.
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
    const { installed, changed, marked, unmarked, takenOver, warnings, unserved, stages } = outcome;
    const news = changed || marked;
    // In a new sandbox it is a first install, not a repair.
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
    if (unserved !== undefined && news) {
      log.warn({ pod: `${pod.namespace}/${pod.name}`, detail: unserved }, 'family not served');
      if (!this.#options.quiet) recorder.record(pod, { reason: 'FamilyNotServed', note: unserved });
    }
    if (repaired)
      recorder.record(pod, {
        reason: 'DriftRepaired',
        note: 'another program had changed the redirect rules, and the controller repaired them',
      });
    else if (news && (marked || !this.#options.quiet)) {
      // The note has no duration, so that the same result again becomes one Event with a count.
      const note = `the controller installed the redirect rules with ${installed.backend}, and read them back`;
      recorder.record(pod, { reason: 'Initialized', note });
    }
  }

  /**
   * Reports rules of other programs that let traffic bypass the proxy, once for the same rules, unless ours can be
   * moved.
   */
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

  /** Compares the rules in each initialized pod with those that were installed. Resolves with the number of pods. */
  async sweep(): Promise<number> {
    const due = [...this.#entries].filter(([, { installed }]) => installed !== undefined);
    // Each sweep starts with another pod, so that no pod is always the last.
    const begin = due.length === 0 ? 0 : this.#sweeps++ % due.length;
    due.push(...due.splice(0, begin));
    let next = 0;
    let replanned = 0;
    const lane = async () => {
      for (let each = due[next++]; each !== undefined; each = due[next++]) {
        const [uid, entry] = each;
        const { installed } = entry;
        if (installed === undefined || this.#entries.get(uid) !== entry) continue;
        // The pod already waits for an attempt, possibly for a long time because each attempt is costly.
        if (this.#queue.has(uid)) continue;
        const compiled = installed.compiled.deref();
        if (compiled === undefined) {
          // The compiled rules were dropped because there were too many. Planning them again also reads the rules back.
          if (++replanned <= MOST_REPLANNED) this.#queue.add(uid, 'resync');
          continue;
        }
        const verified = await compiled.verify(installed.target).catch(() => undefined);
        if (entry.installed !== installed) continue;
        const loses = verified !== undefined && losesTo(entry, verified, installed.stamp);
        // Istio's rules may be in front of ours. They are not reported while the controller is about to remove them.
        if (verified !== undefined)
          this.#noteAhead(entry, loses ? [REWRITTEN] : verified.iptablesNft.length > 0 ? [] : verified.ahead);
        if (loses && isDriftOfIstios(verified)) continue;
        // If verify() failed, the namespace is gone or was replaced, so the pod is located and examined again.
        if (verified?.ok && !(entry.ahead !== undefined && mayMove(entry))) continue;
        entry.drifted = true;
        this.#queue.add(uid, 'resync');
      }
    };
    await Promise.all(Array.from({ length: SWEEP_LANES }, lane));
    return due.length;
  }
}

/** The exit code of a gate that found no rules; istio-validation has the same. */
const NOT_REDIRECTED = 126;
/** The exit codes of the gate for a configuration that cannot work. */
const REFUSED = [1, 2];

/** Why a gate ended; undefined if it did not fail, or if it had already become the proxy. */
function gateReason({ exitCode, message, at }: GateEnd, state: PodState, startedAt: number): GateReason | undefined {
  if (REFUSED.includes(exitCode) && message) return 'refused';
  if (exitCode !== NOT_REDIRECTED) return undefined;
  if (state === 'skipped') return 'left-alone';
  if (state === 'failed') return 'rules-failed';
  return at < startedAt ? 'controller-away' : 'rules-late';
}

/** Whether our rules can be moved in front of those of others, which is so if those came later than ours. */
function mayMove({ installed, moves = 0 }: Entry): boolean {
  return installed?.alone === true && moves < MOST_MOVES;
}

/** A message if rules of other programs let traffic bypass the proxy, and ours can no longer be moved before them. */
function preemption(entry: Entry): string | undefined {
  if (entry.ahead === undefined || mayMove(entry)) return undefined;
  return `rules of other programs let traffic bypass the proxy: ${entry.ahead}`;
}

/** Whether the pod had rules before: this process installed them, or an earlier process left a mark. */
function wasServed({ installed, pod: { metadata } }: Entry): boolean {
  return installed !== undefined || metadata.marks[STATUS] !== undefined;
}

const TAKEN_OVER = {
  new: "Istio's CNI plugin had written its own rules into this new pod, and the controller replaced them; istio-cni and this controller both run on this node",
  running: "the controller replaced Istio's own rules in this running pod",
};

const REWRITTEN = "Istio's rules in the tables of iptables-nft, which another program writes again and again";

/** Counts how often Istio's rules were back in this sandbox. Returns whether it was too often to remove them again. */
function losesTo(entry: Entry, { iptablesNft }: VerifyResult, stamp: string): boolean {
  const count = entry.takeovers?.stamp === stamp ? entry.takeovers.count : 0;
  if (iptablesNft.length > 0) entry.takeovers = { stamp, count: count + 1 };
  return iptablesNft.length > 0 && count >= MOST_TAKEOVERS;
}

/** Whether all of our rules are there, and the only drift is that Istio's rules are there too. */
function isDriftOfIstios({ legacy, nftables, routes }: VerifyResult): boolean {
  return [legacy, nftables, routes.missing, routes.surplus].every(({ length }) => length === 0);
}

function forgetAhead(entry: Entry): void {
  delete entry.ahead;
  delete entry.reported;
}

/** Whether and when the queue tries a pod again after this error. */
export function retryOf(error: unknown): Verdict {
  const { retry } = asFailure(error);
  if (retry === 'no') return false;
  if (retry === 'costly') return { longestMs: LONGEST_PAUSE_MS.costly, costlyMs: COSTLY_MS };
  const afterMs = error instanceof ApiError ? error.retryAfterMs : undefined;
  return { longestMs: LONGEST_PAUSE_MS[retry], ...(afterMs !== undefined && { afterMs }) };
}

/**
 * Whether a change of a pod needs work. The spec of a pod does not change, see toPodRecord. Our own marks need no work,
 * unless someone removed them.
 */
function asksForWork(before: PodRecord, after: PodRecord, state: PodState): boolean {
  const theirs = ({ metadata: { deletionTimestamp, labels, annotations }, status }: PodRecord) =>
    JSON.stringify([deletionTimestamp, labels, annotations, status.phase, status.podIPs, status.initBefore]);
  const marks = ({ metadata, status }: PodRecord) => JSON.stringify([metadata.marks, status.conditions]);
  // Our mark can appear after the opt-out of a pod: the API server reported an error for the patch, but applied it.
  const watched = before.metadata.marks[STATUS] === INITIALIZED || state === 'skipped';
  return theirs(before) !== theirs(after) || (watched && marks(before) !== marks(after));
}
