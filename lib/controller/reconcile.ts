/**
 * One pod, from an event to its mark. The stages run in this order and do not know each other:
 *
 *     decide -> plan -> locate -> compile -> install -> verify -> release -> mark
 */

import { setImmediate } from 'node:timers/promises';
import type { RunConfig } from '../config/read.ts';
import { asFailure, Failure } from '../errors.ts';
import { waitsForMark } from '../istio/containers.ts';
import { type Decision, decide, type SkipReason } from '../istio/enrolment.ts';
import { STATUS } from '../istio/names.ts';
import type { NamespaceRecord, PodRecord } from '../istio/pod.ts';
import type { RedirectSpec } from '../istio/redirect.ts';
import { INITIALIZED, type MarkedPod, type PodStatusWriter } from '../kube/status.ts';
import { type Compiled, type Identity, type Netns, native, type Probe } from '../native/addon.ts';
import type { Locator } from '../netns/locate.ts';
import type { Stages } from '../observe/metrics.ts';
import type { Backend } from '../ruleset/form.ts';
import type { SandboxHint } from '../runtime/hint-queue.ts';
import { Planner } from './planner.ts';
import { Stopwatch } from './stopwatch.ts';

/** The rules that were installed, and the sandbox that has them. */
export interface Installed {
  target: Netns;
  /** Weak, because the planner keeps only the newest ones: see its MOST_RULES. */
  compiled: WeakRef<Compiled>;
  backend: Backend;
  /** `<boot id>:<cookie>` */
  stamp: string;
  /** The hash of the configuration. */
  rules: string;
  /** No other program had rules in these tables when this process installed its rules. */
  alone: boolean;
}

export type Outcome =
  | { result: 'skipped'; reason: SkipReason; message: string; cleaned: boolean }
  /** Something is missing, which is not an error: an event will announce it. */
  | { result: 'waiting'; reason: string; message: string }
  | {
      result: 'initialized';
      installed: Installed;
      changed: boolean;
      marked: boolean;
      /** Why the mark failed, if a retry cannot help until the pod changes. */
      unmarked?: Failure;
      /** Istio's rules were in the pod before ours: written while it was made, or earlier. */
      takenOver?: 'new' | 'running';
      warnings: string[];
      /** On the family of the pod that its proxy does not serve. */
      unserved?: string;
      stages: Stages;
    };

/** What the controller knows about the pod. */
export interface Task {
  pod: PodRecord;
  namespace: NamespaceRecord | undefined;
  /** What the runtime reported about the pod's newest sandbox. */
  hint?: SandboxHint | undefined;
  installed?: Installed | undefined;
  /** Whether the pod existed before this process. */
  inherited?: boolean;
  /** The instance of the container `captureAfter` that belongs to an earlier sandbox. */
  oldInit?: string | undefined;
  /** Our rules are to come before those of others, also where they are installed already. */
  first?: boolean;
}

export interface ReconcilerOptions {
  config: RunConfig;
  locator: Locator;
  marker: PodStatusWriter;
  probe: Probe;
  bootId: string;
}

/** Reasons that are not a decision of the pod's owner. The installed rules stay until the pod ends. */
const STAYS: ReadonlySet<SkipReason> = new Set([
  'self',
  'finished',
  'terminating',
  'host-network',
  'invalid-annotation',
]);

/** Reasons for which there is no network namespace to clean. */
const WITHOUT_NETNS: ReadonlySet<string> = new Set(['no-sandbox', 'stopped', 'host-network']);

export class Reconciler {
  readonly #options: ReconcilerOptions;
  readonly #planner: Planner;
  /**
   * Uids of pods in which an install was started. They may have our rules although they have no mark and no
   * `installed`, because the attempt may have ended before its mark.
   */
  readonly #touched = new Set<string>();

  constructor(options: ReconcilerOptions) {
    this.#options = options;
    this.#planner = new Planner(options.config, options.probe);
  }

  /** Whether the pod is enrolled, according to what is known about it. */
  decide(pod: PodRecord, namespace: NamespaceRecord | undefined): Decision {
    const { config } = this.#options;
    const self = { namespace: config.podNamespace ?? '', name: config.podName ?? '' };
    return decide(pod, namespace, { ...config, self });
  }

  /**
   * Rejects with Failure. The rules are then either installed completely, without a mark, or rolled back. Only after
   * ERR_ROLLBACK a part of them may be left.
   */
  async reconcile(task: Task): Promise<Outcome> {
    const { marker, bootId } = this.#options;
    const { pod, namespace } = task;
    const watch = new Stopwatch();

    const decision = this.decide(pod, namespace);
    watch.lap('decide');
    if (decision.enroll === undefined) return { result: 'waiting', reason: decision.wait, message: decision.message };
    if (!decision.enroll) return this.#skip(task, decision);

    const early = beforeCapture(task);
    if (early !== undefined) return { result: 'waiting', ...early };

    const planned = this.#planner.plan(pod);
    watch.lap('plan');

    const netns = await this.#locate(task);
    watch.lap('locate');
    if ('reason' in netns) return { result: 'waiting', ...netns };

    const { compiled, backend, rules, note } = await this.#planner.compile(pod, planned, netns);
    watch.lap('plan');

    const target: Netns = { path: netns.path, dev: netns.dev, ino: netns.ino, cookie: netns.cookie };
    // A new sandbox without our rules has no leftovers, so the addon need not search for them.
    const fresh = pod.status.phase === 'Pending' && !hasRules(netns);
    this.#touched.add(pod.metadata.uid);
    // Reads back what it wrote, and then wakes the pod's gate.
    const { changed, tables, doubts, tookOver, timings } = await compiled.apply(target, {
      fresh,
      wakeGate: true,
      first: task.first ?? false,
    });
    watch.lap('install');
    watch.split('install', { verify: timings.verify, release: timings.release });

    // The rules are installed. The runtime must not wait for the API server, so it gets its answer before the mark is
    // written.
    if (task.hint?.proceed !== undefined) {
      task.hint.proceed();
      await setImmediate();
    }

    const stamp = `${bootId}:${netns.cookie}`;
    const { spec, warnings } = planned.redirect;
    const mark = this.#marks(pod, spec)
      ? await marker
          .mark(markedPod(pod), { status: INITIALIZED, netns: stamp, rules })
          // The rules are watched for drift even if the mark is refused permanently.
          .catch((error: unknown) => {
            const failure = asFailure(error);
            if (failure.retry !== 'no') throw error;
            return failure;
          })
      : 'unchanged';
    watch.lap('mark');

    const before = task.installed?.stamp === stamp && task.installed.alone;
    const takenOver = tookOver && ({ takenOver: pod.status.phase === 'Pending' ? 'new' : 'running' } as const);
    const alone = before || (!tookOver && tables.length > 0 && tables.every(({ how }) => how === 'replayed'));
    const installed = { target, compiled: new WeakRef(compiled), backend, stamp, rules, alone };
    const marked = mark === 'patched';
    const unmarked = mark instanceof Failure && { unmarked: mark };
    const stages = watch.total();
    return {
      result: 'initialized',
      installed,
      changed,
      marked,
      ...unmarked,
      ...takenOver,
      warnings: [...warnings, ...doubts],
      ...(note !== undefined && { unserved: note }),
      stages,
    };
  }

  /** The caller calls this when the pod is gone. */
  forget(uid: string): void {
    this.#touched.delete(uid);
  }

  /**
   * Whether a pod gets a mark after a successful install. With `marks: failures` it gets one only if something may wait
   * for it, or if an earlier mark must be replaced. A readiness gate and the original controller's init container wait
   * for the mark, and so does our gate with TPROXY, because it cannot see all of the rules by itself.
   */
  #marks(pod: PodRecord, { mode }: RedirectSpec): boolean {
    const { config, marker } = this.#options;
    const waits = pod.spec.readinessGates !== undefined || mode === 'TPROXY' || waitsForMark(pod);
    return config.marks === 'all' || waits || marker.isMarked(markedPod(pod));
  }

  async #skip(task: Task, { reason, message }: { reason: SkipReason; message: string }): Promise<Outcome> {
    if (STAYS.has(reason)) return { result: 'skipped', reason, message, cleaned: false };
    const cleaned = await this.#clean(task);
    if (typeof cleaned === 'object') return { result: 'waiting', ...cleaned };
    return { result: 'skipped', reason, message, cleaned };
  }

  /**
   * Removes our rules, and only these, from a pod that is no longer enrolled. Resolves with whether there were any, or
   * with the reason why it is not possible yet. The mark stays as long as the rules may be there.
   */
  async #clean(task: Task): Promise<boolean | { reason: string; message: string }> {
    const { pod, installed, inherited } = task;
    const { uid, marks } = pod.metadata;
    const { marker, config } = this.#options;
    // A failed pod has a mark too, and keeps its old rules while its new configuration is invalid.
    const ours = this.#touched.has(uid) || installed !== undefined || marks[STATUS] !== undefined;
    // An earlier process may have left rules without a mark.
    const looks = ours || (inherited === true && config.marks === 'failures');
    const netns = looks ? await this.#locate(task) : undefined;
    if (!ours && (netns === undefined || ('installedBackends' in netns && !hasRules(netns)))) {
      // The pod may still wait for our condition.
      if (pod.spec.readinessGates !== undefined) await marker.unmark(markedPod(pod));
      return false;
    }
    if (netns !== undefined && !('reason' in netns)) await native().clean(netns);
    else if (netns !== undefined && !WITHOUT_NETNS.has(netns.reason)) return netns;
    await marker.unmark(markedPod(pod));
    this.#touched.delete(uid);
    return true;
  }

  async #locate({ pod, hint, installed }: Task): Promise<Identity | { reason: string; message: string }> {
    const { locator } = this.#options;
    const { uid, runtimeUid, namespace, name } = pod.metadata;
    const wanted = { uid: runtimeUid, namespace, name, ips: pod.status.podIPs };
    // Not fresh if this process may have installed rules since the runtime created the sandbox.
    const fresh = hint?.justMade === true && installed === undefined && !this.#touched.has(uid);
    const path = hint?.netnsPath;
    const found = await locator.locate(wanted, path === undefined ? undefined : { path, fresh, ips: hint?.ips });
    return found.path === undefined ? { reason: found.reason, message: found.detail } : found.netns;
  }
}

/**
 * Why the rules must not be installed yet: init containers before the gate still run, without a proxy that could serve
 * them. The application cannot start before the gate ends, and the gate ends only with the rules.
 */
function beforeCapture({ pod: { spec, status }, oldInit }: Task): { reason: string; message: string } | undefined {
  const { captureAfter } = spec;
  const { initBefore, phase } = status;
  // The kubelet may have forgotten the init containers of a pod that runs.
  if (phase !== 'Pending' && oldInit === undefined) return undefined;
  if (captureAfter === undefined || (initBefore?.ended === true && initBefore.id !== oldInit)) return undefined;
  return {
    reason: 'init-containers',
    message: `its init container ${captureAfter} has not ended; the rules are installed when it has`,
  };
}

/** Of ours or of Istio's. */
function hasRules({ installedBackends, iptablesNft }: Identity): boolean {
  return installedBackends.length > 0 || iptablesNft;
}

export function markedPod({ metadata, spec, status: { conditions } }: PodRecord): MarkedPod {
  const { uid, namespace, name, resourceVersion, marks: annotations } = metadata;
  const readinessGates = (spec.readinessGates ?? []).map(({ conditionType }) => conditionType);
  return { uid, namespace, name, resourceVersion, annotations, conditions, readinessGates };
}
