/** Reports to the owners of pods with Events. Needs only `create` on `events.k8s.io/events`. */

import { dropOldest } from '../bounded.ts';
import { DOMAIN } from '../istio/names.ts';
import { cut, forbidden, type PodRef, type Requests } from './status.ts';

interface Kind {
  type: 'Normal' | 'Warning';
  means: string;
  remedy?: string;
}

/** By reason. docs/operate.md has this table. */
export const EVENTS = {
  Initialized: { type: 'Normal', means: 'the rules were installed and read back' },
  Cleaned: { type: 'Normal', means: 'the pod was opted out, and its rules were removed' },
  TakenOver: {
    type: 'Normal',
    means: "Istio's own rules were in the pod, and the controller replaced them",
    remedy: 'if it is a new pod, istio-cni runs on its node too: use one of the two, or see the migration page',
  },
  DriftRepaired: {
    type: 'Warning',
    means: 'another program had changed the rules, and the controller repaired them',
    remedy: 'find the program that changes them: another agent, a CNI plugin, or an init container',
  },
  ConfigDoubtful: {
    type: 'Warning',
    means: 'a setting has no effect, or something in the pod prevents the capture of its traffic',
    remedy: 'correct or remove what the note names',
  },
  ConfigInvalid: {
    type: 'Warning',
    means: "a setting is invalid; nothing was changed, and the pod's gate keeps waiting or ends with an error",
    remedy: 'correct the setting that the note names',
  },
  FamilyNotServed: {
    type: 'Warning',
    means:
      'the pod has an address of a family (IPv6) that its proxy does not serve. The note says what happens to this traffic, as the value `unservedFamilies` decides',
    remedy:
      'set `ISTIO_DUAL_STACK` for istiod and for the proxies, or set `unservedFamilies: block` if no traffic may bypass the mesh',
  },
  InstallFailed: {
    type: 'Warning',
    means: 'an attempt failed; all of its changes were undone',
    remedy: 'look up the code of the note in the table of errors',
  },
  BudgetExceeded: {
    type: 'Warning',
    means:
      'the network namespace has too many rules, changes too fast, or has a table that cannot be read safely; the next attempt waits longer',
    remedy: 'find the process with NET_ADMIN in the pod that the note describes',
  },
  Preempted: {
    type: 'Warning',
    means: 'rules of other programs let traffic bypass the proxy; the note names them',
    remedy: 'remove these rules, or ignore this Event if the CNI plugin needs them',
  },
  RollbackFailed: {
    type: 'Warning',
    means: 'an attempt failed, and not all of its changes could be undone; the note names what is left',
    remedy: 'see `ERR_ROLLBACK` in the table of errors',
  },
  MarkFailed: {
    type: 'Warning',
    means: "the API server did not accept the pod's status; the rules in the pod are not affected",
    remedy: 'look up the code of the note in the table of errors',
  },
} as const satisfies Record<string, Kind>;

export interface PodEvent {
  reason: keyof typeof EVENTS;
  note: string;
}

/**
 * How many Events are sent at once, and then per minute: for one pod, and for all pods by type of Event. Warnings have a
 * limit of their own, so that successes cannot use it up.
 */
const RATE = { pod: { burst: 5, perMinute: 1 }, type: { burst: 30, perMinute: 60 } };
/** The time until a repeated Event is sent again: the first one and the longest one. It doubles each time. */
const REPEAT_MS = { first: 60_000, most: 3_600_000 };
/** How many different Events of one pod are remembered. The oldest is dropped for a new one. */
const REMEMBERED = 8;

interface RecorderOptions {
  requests: Requests;
  /** Name of the node, for `reportingInstance`. */
  node: string;
  /** Is called with the reason if an Event could not be sent. */
  onError: (error: unknown) => void;
  /** Milliseconds since 1970. */
  now?: () => number;
}

/**
 * Sends Events at a bounded rate. A repeated Event is counted, and sent again with its count after 1, 2, 4 ... at most 60
 * minutes. Each one is a new object, because the controller may only `create` Events. No caller waits for one.
 */
export class EventRecorder {
  /** `repeated`: only counted, and part of the count of the next one. `dropped`: exceeded the rate. */
  readonly stats = { sent: 0, repeated: 0, dropped: 0, failed: 0 };
  readonly #options: Required<RecorderOptions>;
  readonly #types: Record<Kind['type'], TokenBucket>;
  readonly #pods = new Map<string, { bucket: TokenBucket; told: Map<string, Told> }>();
  readonly #sending = new Set<Promise<void>>();

  constructor(options: RecorderOptions) {
    this.#options = { now: Date.now, ...options };
    const now = this.#options.now();
    this.#types = { Normal: new TokenBucket(RATE.type, now), Warning: new TokenBucket(RATE.type, now) };
  }

  record(pod: PodRef, event: PodEvent): void {
    const now = this.#options.now();
    const known = this.#pods.get(pod.uid) ?? { bucket: new TokenBucket(RATE.pod, now), told: new Map() };
    this.#pods.set(pod.uid, known);
    const key = `${event.reason} ${event.note}`;
    const told = known.told.get(key) ?? { count: 0, next: now, gap: REPEAT_MS.first };
    known.told.set(key, told);
    dropOldest(known.told, REMEMBERED);
    told.count++;
    if (now < told.next) this.stats.repeated++;
    else if (!known.bucket.take(now) || !this.#types[EVENTS[event.reason].type].take(now)) this.stats.dropped++;
    else {
      told.next = now + told.gap;
      told.gap = Math.min(2 * told.gap, REPEAT_MS.most);
      const sending = this.#send(pod, event, told.count, now).finally(() => this.#sending.delete(sending));
      this.#sending.add(sending);
    }
  }

  /** To be called when the pod is gone. */
  forget(uid: string): void {
    this.#pods.delete(uid);
  }

  /** Resolves when nothing is on its way any more; never rejects. */
  async settled(): Promise<void> {
    await Promise.all(this.#sending);
  }

  async #send({ uid, namespace, name }: PodRef, event: PodEvent, count: number, now: number): Promise<void> {
    const { requests, node, onError } = this.#options;
    // MicroTime: the API server takes six digits of the second and no other number of them.
    const time = new Date(now).toISOString().replace('Z', '000Z');
    const body = {
      apiVersion: 'events.k8s.io/v1',
      kind: 'Event',
      metadata: { generateName: 'pod-network-controller-', namespace },
      eventTime: time,
      type: EVENTS[event.reason].type,
      reason: event.reason,
      action: 'Redirect',
      note: cut(event.note),
      regarding: { apiVersion: 'v1', kind: 'Pod', namespace, name, uid },
      reportingController: DOMAIN,
      reportingInstance: node,
      ...(count > 1 && { series: { count, lastObservedTime: time } }),
    };
    try {
      await requests.post(`/apis/events.k8s.io/v1/namespaces/${namespace}/events`, body);
      this.stats.sent++;
    } catch (error) {
      this.stats.failed++;
      // A namespace that is being terminated answers 403 as well; the message says which it is.
      onError(forbidden(error, '"create" on "events" (API group "events.k8s.io")'));
    }
  }
}

interface Told {
  count: number;
  /** The earliest time to send it again. */
  next: number;
  gap: number;
}

class TokenBucket {
  readonly #rate: { burst: number; perMinute: number };
  #tokens: number;
  #filled: number;

  constructor(rate: { burst: number; perMinute: number }, now: number) {
    this.#rate = rate;
    this.#tokens = rate.burst;
    this.#filled = now;
  }

  take(now: number): boolean {
    // The clock may have been set back.
    const minutes = Math.max(0, now - this.#filled) / 60_000;
    this.#tokens = Math.min(this.#rate.burst, this.#tokens + minutes * this.#rate.perMinute);
    this.#filled = now;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }
}
