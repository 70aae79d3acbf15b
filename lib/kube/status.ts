/**
 * Marks a pod with the result of the install: annotations and a condition, in one patch of its status. Needs only
 * `patch` on `pods/status`.
 */

import { asFailure, Failure } from '../errors.ts';
import { DOMAIN, NETNS, RULES, STATUS } from '../istio/names.ts';
import { ApiError } from './client.ts';

/** Type of the condition; a pod may list it in `spec.readinessGates`. */
export const READY = `${DOMAIN}/ready`;

/** The value of `STATUS` on a pod whose rules are installed, the same as the original controller's. */
export const INITIALIZED = 'initialized';

/** The beginning of the value of `STATUS` on a pod whose rules cannot be installed. */
const FAILED = 'failed: ';

/** The longest note of an Event that the API server accepts, in bytes. All our messages have this limit. */
const TEXT_LIMIT = 1024;

/** The requests to the API server. They reject with ApiError, or with another Failure if there was no answer. */
export interface Requests {
  /** Resolves with the changed object, or only its metadata. */
  patch(path: string, type: 'strategic', content: unknown): Promise<unknown>;
  post(path: string, content: unknown): Promise<unknown>;
}

export interface PodRef {
  uid: string;
  namespace: string;
  name: string;
}

/** A pod in the last version that the watch reported. */
export interface MarkedPod extends PodRef {
  resourceVersion?: string;
  annotations?: Readonly<Record<string, string>>;
  conditions?: readonly { type: string; status: string; reason?: string; message?: string }[];
  /** Types of the conditions that the pod waits for. */
  readinessGates?: readonly string[];
}

/** `reason` is one word in CamelCase. */
interface FailedMark {
  status: 'failed';
  reason: string;
  message: string;
}

export type Mark =
  /** `netns` is `<boot id>:<cookie>`, `rules` the hash of the configuration. */
  { status: typeof INITIALIZED; netns: string; rules: string } | FailedMark;

/** `gone`: the pod no longer exists, or another pod has its name. */
export type Marked = 'patched' | 'unchanged' | 'gone';

interface Wanted {
  annotations: Record<string, string | null>;
  /** Absent means that the pod must not have the condition. */
  condition?: { type: string; status: 'True' | 'False'; reason: string; message: string };
}

/** The mark of a pod after a thrown error. */
export function failed(error: unknown): FailedMark {
  const { event, message } = asFailure(error);
  return { status: 'failed', reason: event, message };
}

export class PodStatusWriter {
  readonly #requests: Requests;
  readonly #now: () => Date;
  /** The last write of each pod by uid, with the version that it created, until the watch reports that version. */
  readonly #written = new Map<string, { wanted: Wanted; version: string }>();

  constructor(requests: Requests, now: () => Date = () => new Date()) {
    this.#requests = requests;
    this.#now = now;
  }

  /** Whether the pod has our mark, according to what is known about it. */
  isMarked(pod: MarkedPod): boolean {
    const { annotations, condition } = this.#lastWritten(pod) ?? {
      annotations: pod.annotations ?? {},
      condition: pod.conditions?.find(({ type }) => type === READY),
    };
    return condition !== undefined || [STATUS, NETNS, RULES].some((name) => (annotations[name] ?? null) !== null);
  }

  /**
   * Writes the mark, unless the pod already has it. Rejects with the error of `requests`; the remedy of ERR_RBAC names
   * the missing right.
   */
  mark(pod: MarkedPod, mark: Mark): Promise<Marked> {
    if (mark.status === INITIALIZED) {
      const { status, netns, rules } = mark;
      return this.#write(pod, {
        annotations: { [STATUS]: status, [NETNS]: netns, [RULES]: rules },
        condition: { type: READY, status: 'True', reason: 'Initialized', message: 'traffic is redirected' },
      });
    }
    const { reason, message } = mark;
    return this.#write(pod, {
      annotations: { [STATUS]: cut(FAILED + message), [NETNS]: null, [RULES]: null },
      condition: { type: READY, status: 'False', reason, message: cut(message) },
    });
  }

  /** Removes what `mark` wrote. A pod that waits for our condition gets it, because it has nothing to wait for. */
  unmark(pod: MarkedPod): Promise<Marked> {
    const waits = pod.readinessGates?.includes(READY) === true;
    return this.#write(pod, {
      annotations: { [STATUS]: null, [NETNS]: null, [RULES]: null },
      ...(waits && {
        condition: { type: READY, status: 'True', reason: 'NotEnrolled', message: 'the pod is not in the mesh' },
      }),
    });
  }

  /** To be called when the pod is gone. */
  forget(uid: string): void {
    this.#written.delete(uid);
  }

  /** The last write of a pod, if the watch has not reported it yet. */
  #lastWritten({ uid, resourceVersion }: MarkedPod): Wanted | undefined {
    const written = this.#written.get(uid);
    // The watch may report a change of the kubelet's, older than our patch, after our patch was answered.
    if (written && isOlder(resourceVersion, written.version)) return written.wanted;
    this.#written.delete(uid);
    return undefined;
  }

  async #write(pod: MarkedPod, wanted: Wanted): Promise<Marked> {
    const { uid, namespace, name } = pod;
    const last = this.#lastWritten(pod);
    if (last === undefined ? stands(pod, wanted) : JSON.stringify(last) === JSON.stringify(wanted)) return 'unchanged';
    const { annotations, condition } = wanted;
    const before = last ? last.condition : pod.conditions?.find(({ type }) => type === READY);
    const lastTransitionTime = before?.status === condition?.status ? {} : { lastTransitionTime: this.#now() };
    // Conditions are merged by type in a strategic merge patch alone: any other replaces the kubelet's.
    const conditions = [condition ? { ...condition, ...lastTransitionTime } : { type: READY, $patch: 'delete' }];
    const patch = { metadata: { uid, annotations }, status: { conditions } };
    try {
      const path = `/api/v1/namespaces/${namespace}/pods/${name}/status`;
      this.#written.set(uid, { wanted, version: versionOf(await this.#requests.patch(path, 'strategic', patch)) });
    } catch (error) {
      // The API server may have applied the patch in spite of the error.
      this.#written.delete(uid);
      if (isGone(error)) return 'gone';
      throw forbidden(error, '"patch" on "pods/status" (API group "")');
    }
    return 'patched';
  }
}

function versionOf(answer: unknown): string {
  return (answer as { metadata?: { resourceVersion?: string } } | undefined)?.metadata?.resourceVersion ?? '';
}

/**
 * Whether what has version `seen` was there before what has version `written`. Versions of one kind of object are
 * decimal and can be compared: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
 */
function isOlder(seen = '', written: string): boolean {
  return /^\d+$/.test(seen) && /^\d+$/.test(written) && BigInt(seen) < BigInt(written);
}

function stands(pod: MarkedPod, { annotations, condition }: Wanted): boolean {
  const found = pod.conditions?.find(({ type }) => type === READY);
  return (
    Object.entries(annotations).every(([key, value]) => (pod.annotations?.[key] ?? null) === value) &&
    found?.status === condition?.status &&
    found?.reason === condition?.reason &&
    found?.message === condition?.message
  );
}

/** Another uid in the patch than the pod's is refused as a change of an immutable field: 422, not 409. */
function isGone(error: unknown): boolean {
  if (!(error instanceof ApiError)) return false;
  return error.status === 404 || (error.status === 422 && error.answer.includes('metadata.uid: '));
}

/** How the API server names the fence when that refuses a request: templates/fence.yaml of the chart. */
const FENCED = /ValidatingAdmissionPolicy '[^']*-fence(-events)?'/;

/** `right` is what the request needs: `"patch" on "pods/status"`. */
export function forbidden(error: unknown, right: string): unknown {
  if (!(error instanceof ApiError)) return error;
  if (FENCED.test(error.answer)) return new Failure('ERR_FENCED', { detail: error.answer, cause: error });
  if (error.code !== 'ERR_RBAC') return error;
  const remedy = `allow ${right} in the ClusterRole of this controller`;
  return new Failure('ERR_RBAC', { detail: error.answer, remedy, cause: error });
}

/** At most `TEXT_LIMIT` bytes. */
export function cut(text: string): string {
  // A character of UTF-16 has three bytes at most.
  if (3 * text.length <= TEXT_LIMIT || Buffer.byteLength(text) <= TEXT_LIMIT) return text;
  const bytes = Buffer.from(text).subarray(0, TEXT_LIMIT - 3);
  return `${new TextDecoder().decode(bytes, { stream: true })}...`;
}
