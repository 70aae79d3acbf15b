/**
 * One pod, from an event to its mark. The stages run in this order and do not know each other:
 *
 *     decide -> plan -> locate -> compile -> install -> verify -> release -> mark
 */

import type { RunConfig } from '../config/read.ts';
import { asFailure, Failure } from '../errors.ts';
import { waitsForMark } from '../istio/containers.ts';
import { type Decision, decide, type SkipReason } from '../istio/enrolment.ts';
import type { NamespaceRecord, PodRecord } from '../istio/pod.ts';
import type { RedirectSpec } from '../istio/redirect.ts';
import { INITIALIZED, type MarkedPod, type PodStatusWriter, STATUS } from '../kube/status.ts';
import { type Compiled, type Identity, type Netns, native, type Probe } from '../native/addon.ts';
import type { Locator } from '../netns/locate.ts';
import type { Stages } from '../observe/metrics.ts';
import type { Backend } from '../ruleset/form.ts';
import type { SandboxHint } from '../runtime/hint-queue.ts';
import { Planner } from './planner.ts';
import { Stopwatch } from './stopwatch.ts';

/** What was installed in which sandbox. */
export interface Installed {
  target: Netns;
  /** The planner keeps the newest: see MOST_RULES there. */
  compiled: WeakRef<Compiled>;
  backend: Backend;
  /** `<boot id>:<cookie>` */
  stamp: string;
  /** Hash of the configuration. */
  rules: string;
  /** Nobody had rules in these tables when this process installed ours. */
  alone: boolean;
}

export type Outcome =
  | { result: 'skipped'; reason: SkipReason; message: string; cleaned: boolean }
  /** Not an error: an event will come when what is missing is there. */
  | { result: 'waiting'; reason: string; message: string }
  | {
      result: 'initialized';
      installed: Installed;
      changed: boolean;
      marked: boolean;
      /** Why the pod cannot have its mark until it changes. */
      unmarked?: Failure;
      /** Istio's rules were in the pod before ours: written while it was made, or earlier. */
      takenOver?: 'new' | 'running';
      warnings: string[];
      stages: Stages;
    };

/** What is known of a pod. */
export interface Task {
  pod: PodRecord;
  namespace: NamespaceRecord | undefined;
  /** What the runtime reported of the pod's newest sandbox. */
  hint?: SandboxHint | undefined;
  installed?: Installed | undefined;
  /** Whether the pod was there before this process. */
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

/** Reasons that say nothing about what the pod's owner wants: the installed rules stay until the pod ends. */
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
   * Uids of pods in which an install was begun. Rules of ours may be in them although neither a mark nor `installed`
   * says so: the attempt may have ended before its mark.
   */
  readonly #touched = new Set<string>();

  constructor(options: ReconcilerOptions) {
    this.#options = options;
    this.#planner = new Planner(options.config, options.probe);
  }

  /** Whether the pod is enrolled, as far as is known of it. */
  decide(pod: PodRecord, namespace: NamespaceRecord | undefined): Decision {
    const { config } = this.#options;
    const self = { namespace: config.podNamespace ?? '', name: config.podName ?? '' };
    return decide(pod, namespace, { ...config, self });
  }

  /**
   * Rejects with Failure. In the pod the rules are then installed or rolled back, and half of them only after
   * ERR_ROLLBACK; the mark may be missing.
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

    const { compiled, backend, rules } = await this.#planner.compile(pod, planned, netns);
    watch.lap('plan');

    const target: Netns = { path: netns.path, dev: netns.dev, ino: netns.ino, cookie: netns.cookie };
    // Leftovers need not be looked for in a new sandbox that has no rules of ours.
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

    // The rules are in. The runtime does not wait for the API server.
    task.hint?.proceed?.();

    const stamp = `${bootId}:${netns.cookie}`;
    const { spec, warnings } = planned.redirect;
    const mark = this.#marks(pod, spec)
      ? await marker
          .mark(markedPod(pod), { status: INITIALIZED, netns: stamp, rules })
          // A mark that is refused for good is no reason to leave the rules to themselves.
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
      stages,
    };
  }

  /** To be called when the pod is gone. */
  forget(uid: string): void {
    this.#touched.delete(uid);
  }

  /**
   * Whether a pod that goes well gets its mark. With `marks: failures` only where something may wait for it: a readiness
   * gate, the original controller's init container, or our gate with TPROXY, which cannot see all of the rules by itself;
   * and where an earlier mark has to be replaced.
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
   * Takes away what we installed in a pod that is no longer enrolled, and nothing else. Resolves with whether there was
   * anything, or with why it cannot be done yet: the mark stays as long as the rules may be there.
   */
  async #clean(task: Task): Promise<boolean | { reason: string; message: string }> {
    const { pod, installed, inherited } = task;
    const { uid, marks } = pod.metadata;
    const { marker, config } = this.#options;
    // A failed pod has a mark too: it keeps the rules of before while its new configuration is refused.
    const ours = this.#touched.has(uid) || installed !== undefined || marks[STATUS] !== undefined;
    // An earlier process may have left rules without a mark.
    const looks = ours || (inherited === true && config.marks === 'failures');
    const netns = looks ? await this.#locate(task) : undefined;
    if (!ours && (netns === undefined || ('installedBackends' in netns && !hasRules(netns)))) {
      // The pod may wait for our condition all the same.
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
    // We may have been in there since the runtime made the sandbox.
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
  return { reason: 'init-containers', message: `its init container ${captureAfter} comes before the gate` };
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
