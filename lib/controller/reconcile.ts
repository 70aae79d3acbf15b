/** One pod, from what is known of it to its mark: decide, plan, locate, install (which reads back and wakes the gate), mark. */
import { createHash } from 'node:crypto';
import { keepNewest } from '../bounded.ts';
import type { RunConfig } from '../config/read.ts';
import { explain, type NativeError } from '../errors.ts';
import { decide, type SkipReason } from '../istio/enrolment.ts';
import { plan } from '../istio/plan.ts';
import type { NamespaceRecord, PodRecord } from '../istio/pod.ts';
import { podRedirect, type Redirect } from '../istio/redirect.ts';
import { podFamilies, runtimeUid } from '../kube/pods.ts';
import { INITIALIZED, type MarkedPod, partMarks, STATUS, type PodStatusWriter } from '../kube/status.ts';
import { type Compiled, type Identity, type Netns, native, type Probe } from '../native/addon.ts';
import { chooseBackend } from '../native/backend.ts';
import type { Located, Locator } from '../netns/locate.ts';
import { familiesOf } from '../netns/target.ts';
import type { Stage, Stages } from '../observe/metrics.ts';
import { type Backend, type Form, formOf } from '../ruleset/form.ts';
import type { Family, Ruleset } from '../ruleset/model.ts';
import type { SandboxHint } from '../runtime/hint-queue.ts';
import { onNode } from '../runtime/node-paths.ts';

/** What was installed in which sandbox. */
export interface Installed {
  target: Netns;
  compiled: Compiled;
  backend: Backend;
  /** `<boot id>:<cookie>` */
  stamp: string;
  /** Hash of the configuration. */
  rules: string;
}

export type Outcome =
  | { result: 'skipped'; reason: SkipReason; message: string; cleaned: boolean }
  /** Not an error: what is missing will be told of. */
  | { result: 'waiting'; reason: string; message: string }
  | {
      result: 'initialized';
      installed: Installed;
      changed: boolean;
      marked: boolean;
      warnings: string[];
      stages: Stages;
    };

export interface Task {
  pod: PodRecord;
  namespace: NamespaceRecord | undefined;
  /** What the runtime told of its newest sandbox. */
  hint?: SandboxHint | undefined;
  installed?: Installed | undefined;
  /** Written here: rules of ours may stand, even where no mark and no `installed` tells of them. */
  touched?: boolean;
}

export interface ReconcilerOptions {
  config: RunConfig;
  locator: Locator;
  marker: PodStatusWriter;
  probe: Probe;
  bootId: string;
}

/** Configurations kept planned, and compiled: the pods of a node share a handful. */
const KEPT = 64;

/** A pod's configuration, and what it came to so far, by families and backend. */
interface Planned {
  redirect: Redirect;
  rulesets: Map<string, Ruleset>;
  forms: Map<string, { form: Form; rules: string }>;
}

/** Reasons that say nothing about what is wanted of the pod's traffic: what stands there stays till the pod ends. */
const STAYS: ReadonlySet<SkipReason> = new Set([
  'self',
  'finished',
  'terminating',
  'host-network',
  'invalid-annotation',
]);

/** Where there is nothing that could be cleaned. */
const WITHOUT_NETNS: ReadonlySet<string> = new Set(['no-sandbox', 'stopped', 'host-network']);

export class Reconciler {
  readonly #options: ReconcilerOptions;
  readonly #planned = new Map<string, Planned>();
  readonly #compiled = new Map<string, Promise<Compiled>>();

  constructor(options: ReconcilerOptions) {
    this.#options = options;
  }

  /** Rejects with ConfigError, Failure, or what the API answered. All or nothing in the pod; a mark may be missing. */
  async initialize(task: Task): Promise<Outcome> {
    const { config, marker } = this.#options;
    const { pod, namespace } = task;
    const stages: Stages = {};
    const clock = stopwatch(stages);

    const self = { namespace: config.podNamespace ?? '', name: config.podName ?? '' };
    const decision = decide(pod, namespace, { ...config, self });
    clock.lap('decide');
    if (decision.enroll === undefined) return { result: 'waiting', reason: decision.wait, message: decision.message };
    if (!decision.enroll) {
      const cleaned = !STAYS.has(decision.reason) && (await this.#leave(task));
      if (typeof cleaned === 'object') return { result: 'waiting', ...cleaned };
      return { result: 'skipped', reason: decision.reason, message: decision.message, cleaned };
    }

    const planned = this.#plan(pod);
    clock.lap('plan');
    const located = await this.#locate(task);
    clock.lap('locate');
    if ('reason' in located) return { result: 'waiting', ...located };

    const { compiled, backend, rules } = await this.#compile(pod, planned, located);
    clock.lap('plan');
    const { path, dev, ino, cookie } = located;
    const target = { path, dev, ino, cookie };
    // A sandbox that was made just now and holds nothing of ours: only then is there nothing to look for.
    const fresh = pod.status.phase === 'Pending' && located.standing.length === 0;
    task.touched = true;
    const { changed, timings } = await compiled.apply(target, { fresh, release: true }).catch((error: unknown) => {
      throw explain(error, path);
    });
    clock.lap('install');
    stages.verify = timings.verify;
    stages.release = timings.release;
    stages.install = (stages.install ?? 0) - timings.verify - timings.release;

    const stamp = `${this.#options.bootId}:${cookie}`;
    const marked = await marker.mark(markedPod(pod), { status: INITIALIZED, netns: stamp, rules });
    clock.lap('mark');
    clock.total();
    const installed = { target, compiled, backend, stamp, rules };
    const { warnings } = planned.redirect;
    return { result: 'initialized', installed, changed, marked: marked === 'patched', warnings, stages };
  }

  /**
   * Whether there was anything of ours to take away; or why it cannot be yet: a mark stays as long as the rules may.
   * Nothing is touched that we did not install.
   */
  async #leave(task: Task): Promise<boolean | { reason: string; message: string }> {
    const { pod, installed, touched } = task;
    // Also one that failed: the rules that it had before stay when its configuration cannot be honoured any more.
    if (!touched && installed === undefined && pod.metadata.annotations[STATUS] === undefined) {
      // Nothing is there, but the pod may wait for our condition.
      if (pod.spec.readinessGates !== undefined) await this.#options.marker.unmark(markedPod(pod));
      return false;
    }
    const located = await this.#locate(task);
    if (!('reason' in located)) {
      await native()
        .clean(located)
        .catch((error: unknown) => {
          throw explain(error, located.path);
        });
    } else if (!WITHOUT_NETNS.has(located.reason)) return located;
    await this.#options.marker.unmark(markedPod(pod));
    task.touched = false;
    return true;
  }

  async #locate({
    pod,
    hint,
    installed,
    touched = false,
  }: Task): Promise<Identity | { reason: string; message: string }> {
    const { locator, config } = this.#options;
    const { uid, namespace, name, annotations } = pod.metadata;
    const ips = pod.status.podIPs;
    if (hint?.netnsPath !== undefined) {
      // The path is told while the sandbox is being made, and only then; by now it may be ours already.
      const fresh = installed === undefined && !touched;
      const told = await native()
        .identify(onNode(config.hostRoot, hint.netnsPath), { fresh })
        .catch(() => undefined);
      if (told !== undefined && (ips.length === 0 || told.addresses.some((address) => ips.includes(address))))
        return told;
    }
    const found = await locator.locatePod({ uid: runtimeUid({ uid, annotations }), namespace, name, ips });
    return isLocated(found) ? found.netns : { reason: found.reason, message: found.detail };
  }

  /** All that podRedirect() reads of a pod is in the key. */
  #plan(pod: PodRecord): Planned {
    const key = JSON.stringify([partMarks(pod.metadata.annotations).others, pod.spec]);
    const make = () => {
      return { redirect: podRedirect(pod, this.#options.config), rulesets: new Map(), forms: new Map() };
    };
    return keep(this.#planned, key, make);
  }

  async #compile(pod: PodRecord, { redirect: { spec, families }, rulesets, forms }: Planned, netns: Identity) {
    const { config, probe } = this.#options;
    const installed = familiesOf(netns, wantedFamilies(families, podFamilies(pod), netns));
    const ruleset = keep(rulesets, installed.join(), () => plan(spec, installed));
    const { backend } = await chooseBackend(config.backend, netns, ruleset, () => probe);
    const { form, rules } = keep(forms, `${backend} ${installed.join()}`, () => {
      const form = formOf(ruleset, backend, { counters: config.counters });
      return { form, rules: hashOf(form) };
    });
    const compiled = keep(this.#compiled, rules, () => native().compile(form));
    try {
      return { compiled: await compiled, backend, rules };
    } catch (error) {
      this.#compiled.delete(rules);
      throw explain(error, netns.path);
    }
  }
}

function keep<T>(kept: Map<string, T>, key: string, make: () => T): T {
  const value = kept.get(key) ?? make();
  keepNewest(kept, key, value, KEPT);
  return value;
}

function isLocated(found: Awaited<ReturnType<Locator['locatePod']>>): found is Located {
  return found.path !== undefined;
}

/** Named ones are what is installed; else those of the pod's addresses in the API and in the netns together. */
function wantedFamilies(
  named: 'auto' | Family[],
  known: 'auto' | Family[],
  { families, ipv6 }: Identity,
): 'auto' | Family[] {
  if (named !== 'auto' || known === 'auto') return named;
  const both = new Set([...known, ...families]);
  return [...both].filter((family) => family === 4 || ipv6).sort();
}

function hashOf({ backend, ruleset }: Form): string {
  const text = JSON.stringify([backend, ruleset], (_, value: unknown) =>
    typeof value === 'bigint' ? value.toString(16) : value,
  );
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}

export function markedPod({ metadata, spec, status: { conditions } }: PodRecord): MarkedPod {
  const { uid, namespace, name, resourceVersion, annotations } = metadata;
  const readinessGates = (spec.readinessGates ?? []).map(({ conditionType }) => conditionType);
  return { uid, namespace, name, resourceVersion, annotations, conditions, readinessGates };
}

/**
 * Errors that another attempt ends the same way, until the pod or its node changes. What the API server forbids (ERR_RBAC)
 * is none: nothing tells when a role is put right.
 */
export function isFinal(error: unknown): boolean {
  const { code } = error as Partial<NativeError>;
  return code !== undefined && ['ERR_CONFIG', 'ERR_USERNS', 'ERR_HOST_NETNS', 'ERR_INVALID_RULE'].includes(code);
}

function stopwatch(stages: Stages) {
  const start = performance.now();
  let last = start;
  return {
    lap: (stage: Stage) => {
      const now = performance.now();
      stages[stage] = (stages[stage] ?? 0) + (now - last) * 1000;
      last = now;
    },
    total: () => {
      stages.total = (performance.now() - start) * 1000;
    },
  };
}
